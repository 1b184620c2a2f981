"""Looks through an operating system's files for what must not be published in an image. Decides nothing else.

Runs in two ways: over a directory of our own (`walk`), and confined, as a script of its own that takes an untrusted
filesystem apart with debugfs or fsck.erofs into memory and walks over that. So it imports nothing of Partita.

The rules are what the HEPiX endorsement policy (Kelsey, 2010) keeps out of an image, accounts, host keys, user keys
and credentials, and what makes two machines from one image the same machine.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

MAX_LOOK = 256 << 10
"""Bytes of one file that are looked at; keys and password files are smaller."""

MAX_FINDINGS = 200
"""A list that is longer is read by nobody."""

MAX_USERS = 64
"""Home directories of an ext filesystem that are taken out to be looked at."""

HIDDEN = (".ssh", ".aws", ".azure", ".config", ".docker", ".kube")
DOTFILES = (".netrc", ".bash_history", ".zsh_history", ".python_history")
"""What of a user's home is taken out: the rest is large and none of our business."""

USUAL = ("changing ownership of", "File not found by ext2_lookup")
"""What debugfs complains of when all is well: nobody here may change owners, and not every system has every directory."""

HOME = r"(?:root|home/[^/]+)"
_PRIVATE = re.compile(rb"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY")
_BARE_HASHES = ("", "*", "!", "!!", "x")

Check = Callable[[bytes], list[str]]


def _present(data: bytes) -> list[str]:
    return [""] if data.strip() else []


def _private(data: bytes) -> list[str]:
    return [""] if _PRIVATE.search(data) else []


def _hashes(data: bytes) -> list[str]:
    found = []
    for line in data.decode("utf-8", "replace").splitlines():
        user, _, rest = line.partition(":")
        secret = rest.partition(":")[0]
        if ":" in line and secret == "":
            found.append(f"{user} needs no password")
        elif not secret.startswith(("!", "*")) and secret not in _BARE_HASHES:
            found.append(f"{user} has a password")
    return found


def _identity(data: bytes) -> list[str]:
    return [""] if data.strip() not in (b"", b"uninitialized") else []


RULES: tuple[tuple[str, re.Pattern[str], Check, str], ...] = (
    ("host-key", re.compile(r"etc/ssh/ssh_host_[^/]*_key"), _present, "an SSH host key that every machine would share"),
    ("authorized-keys", re.compile(HOME + r"/\.ssh/authorized_keys2?"), _present, "lets its owner into every machine"),
    ("private-key", re.compile(HOME + r"/\.ssh/[^/]+"), _private, "a private key of a user"),
    ("private-key", re.compile(r"etc/(?:grid-security|ssl/private|pki)/.+"), _private, "a private key"),
    ("password", re.compile(r"etc/g?shadow-?"), _hashes, "an account that a password, or none, opens"),
    ("cloud-credentials", re.compile(HOME + r"/\.aws/credentials"), _present, "credentials for a cloud"),
    ("cloud-credentials", re.compile(HOME + r"/\.config/gcloud/.+"), _present, "credentials for a cloud"),
    ("cloud-credentials", re.compile(HOME + r"/\.azure/.+"), _present, "credentials for a cloud"),
    ("cloud-credentials", re.compile(HOME + r"/\.config/openstack/[^/]+\.yaml"), _present, "credentials for a cloud"),
    ("cloud-credentials", re.compile(HOME + r"/\.(?:netrc|docker/config\.json|kube/config)"), _present, "credentials"),
    ("cloud-instance", re.compile(r"var/lib/cloud/instances/.+"), _present, "what cloud-init keeps of another machine"),
    (
        "machine-id",
        re.compile(r"etc/machine-id"),
        _identity,
        "makes all machines the same one to systemd; empty the file",
    ),
    ("history", re.compile(HOME + r"/\.[a-z]*_history"), _present, "what somebody typed"),
)

RawFinding = dict[str, str]


def scan_tree(root: Path) -> tuple[list[RawFinding], dict[str, str]]:
    """Findings in the tree under `root`, and ID and VERSION_ID of its os-release. Follows no link."""
    findings: list[RawFinding] = []
    for relative, path in _files(root):
        for rule, pattern, check, why in RULES:
            if not pattern.fullmatch(relative) or len(findings) >= MAX_FINDINGS:
                continue
            findings += [
                {"rule": rule, "path": "/" + relative, "why": f"{why}: {detail}" if detail else why}
                for detail in check(_read(path))
            ]
    release: dict[str, str] = {}
    for place in ("etc/os-release", "usr/lib/os-release"):
        release = release or _release(root / place)
    return findings, release


def _files(root: Path) -> Iterator[tuple[str, Path]]:
    """Regular files in the places that rules speak of, by name."""
    for place in ("etc", "root", "home", "var/lib/cloud"):
        if any(
            part.is_symlink()
            for part in (root / place, *(root / place).parents)
            if part != root and root in part.parents
        ):
            continue
        for directory, names, files in os.walk(root / place):
            names.sort()
            for name in sorted(files):
                path = Path(directory, name)
                if path.is_file() and not path.is_symlink():
                    yield path.relative_to(root).as_posix(), path


def _read(path: Path) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return b""
    with os.fdopen(descriptor, "rb") as file:
        return file.read(MAX_LOOK)


def _release(path: Path) -> dict[str, str]:
    found = {}
    for line in _read(path).decode("utf-8", "replace").splitlines():
        name, equals, value = line.partition("=")
        if equals and name in ("ID", "VERSION_ID"):
            found[name] = value.strip().strip("\"'")
    return found


def extract_ext(disk: str, root: Path) -> None:
    """Copy the interesting places of an ext2, ext3 or ext4 filesystem out with debugfs."""
    for place in ("home", "var/lib", "usr/lib"):
        (root / place).mkdir(parents=True)
    wanted = [(f"/{place}", root / Path(place).parent) for place in ("etc", "root", "var/lib/cloud")]
    listing = subprocess.run(["debugfs", "-c", "-R", "ls -p /home", disk], capture_output=True, check=False).stdout
    users = re.findall(rb"^/\d+/04\d{4}/\d+/\d+/([A-Za-z0-9_][A-Za-z0-9_.-]*)//$", listing, re.MULTILINE)
    for user in users[:MAX_USERS]:
        home = root / "home" / user.decode()
        home.mkdir()
        wanted += [(f"/home/{user.decode()}/{name}", home) for name in HIDDEN]
    script = [f"rdump {place} {target}\n" for place, target in wanted]
    for home in sorted((root / "home").iterdir()):
        script += [f"dump /home/{home.name}/{name} {home}/{name}\n" for name in DOTFILES]
    script.append(f"dump /usr/lib/os-release {root}/usr/lib/os-release\n")
    commands = root.parent / "commands"
    commands.write_text("".join(script))
    done = subprocess.run(["debugfs", "-c", "-f", str(commands), disk], capture_output=True, check=False)
    for line in done.stderr.decode("utf-8", "replace").splitlines():
        if not line.startswith("debugfs ") and not any(usual in line for usual in USUAL):
            raise OSError(f"debugfs cannot read all of it: {line[:200]}")


def extract_erofs(disk: str, root: Path) -> None:
    """Copy everything out of an EROFS filesystem; the memory given to the child bounds it."""
    command = ["fsck.erofs", "--no-preserve", f"--extract={root}", disk]
    done = subprocess.run(command, capture_output=True, check=False, text=True, errors="replace")
    complaints = [line for line in done.stderr.splitlines() if line.startswith("<E>")]
    if done.returncode or complaints or not root.is_dir():  # it ends with 0 even where it gives up
        raise OSError(f"fsck.erofs cannot take it apart: {complaints[0][:200] if complaints else done.returncode}")


if __name__ == "__main__":
    filesystem, source = sys.argv[1:]
    tree = Path("/scratch/tree")
    answer: dict[str, object] = {"findings": [], "release": {}, "trouble": ""}
    try:
        if filesystem == "ext":
            extract_ext(source, tree)
        else:
            extract_erofs(source, tree)
    except OSError as problem:
        answer["trouble"] = str(problem)
    answer["findings"], answer["release"] = scan_tree(tree)
    json.dump(answer, sys.stdout)
