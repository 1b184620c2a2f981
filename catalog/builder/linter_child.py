"""The linter's rules, and the script that applies them to a filesystem in the sandbox.

It runs in two ways: `scan_tree` on a directory of trusted files, and as a script in the sandbox that extracts an untrusted
filesystem into memory with debugfs or fsck.erofs and scans the result. Therefore it imports nothing of Partita.

The rules cover the items that the HEPiX endorsement policy (Kelsey, 2010) excludes from images (accounts, host keys, user
keys and credentials), and files that give all machines of an image the same identity.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

MAX_LOOK = 256 << 10
"""Bytes of a file that are read; keys and password files are smaller."""

MAX_FINDINGS = 200
"""Findings in one report, at most."""

MAX_USERS = 64
"""Home directories of an ext filesystem that are extracted."""

HIDDEN = (".ssh", ".aws", ".azure", ".config", ".docker", ".kube")
DOTFILES = (".netrc", ".bash_history", ".zsh_history", ".python_history")
"""The parts of a home directory that are extracted; no rule concerns the rest."""

USUAL = ("changing ownership of", "File not found by ext2_lookup")
"""Harmless messages of debugfs: the child may not change owners, and some directories do not exist on all systems."""

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
    ("host-key", re.compile(r"etc/ssh/ssh_host_[^/]*_key"), _present, "an SSH host key that all machines would share"),
    (
        "authorized-keys",
        re.compile(HOME + r"/\.ssh/authorized_keys2?"),
        _present,
        "lets the owner of the key into every machine",
    ),
    ("private-key", re.compile(HOME + r"/\.ssh/[^/]+"), _private, "a private key of a user"),
    ("private-key", re.compile(r"etc/(?:grid-security|ssl/private|pki)/.+"), _private, "a private key"),
    ("password", re.compile(r"etc/g?shadow-?"), _hashes, "an account with a password, or without protection"),
    ("cloud-credentials", re.compile(HOME + r"/\.aws/credentials"), _present, "credentials for a cloud"),
    ("cloud-credentials", re.compile(HOME + r"/\.config/gcloud/.+"), _present, "credentials for a cloud"),
    ("cloud-credentials", re.compile(HOME + r"/\.azure/.+"), _present, "credentials for a cloud"),
    ("cloud-credentials", re.compile(HOME + r"/\.config/openstack/[^/]+\.yaml"), _present, "credentials for a cloud"),
    ("cloud-credentials", re.compile(HOME + r"/\.(?:netrc|docker/config\.json|kube/config)"), _present, "credentials"),
    ("cloud-instance", re.compile(r"var/lib/cloud/instances/.+"), _present, "cloud-init state of another machine"),
    ("machine-id", re.compile(r"etc/machine-id"), _identity, "gives all machines the same systemd ID; empty the file"),
    ("history", re.compile(HOME + r"/\.[a-z]*_history"), _present, "a command history of a user"),
)

RawFinding = dict[str, str]


def scan_tree(root: Path) -> tuple[list[RawFinding], dict[str, str]]:
    """Return the findings in the tree under `root`, and ID and VERSION_ID of its os-release. Follows no links."""
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
    """(relative path, path) of the regular files in the directories that rules concern, sorted by name."""
    for place in ("etc", "root", "home", "var/lib/cloud"):
        top = root / place
        if any(part.is_symlink() for part in (top, *top.parents) if root in part.parents):
            continue
        for directory, names, files in os.walk(top):
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
    """Extract the directories that rules concern from an ext2, ext3 or ext4 filesystem with debugfs."""
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
            raise OSError(f"debugfs cannot read the whole filesystem: {line[:200]}")


def extract_erofs(disk: str, root: Path) -> None:
    """Extract an EROFS filesystem; the memory of the sandbox limits its size."""
    command = ["fsck.erofs", "--no-preserve", f"--extract={root}", disk]
    done = subprocess.run(command, capture_output=True, check=False, text=True, errors="replace")
    errors = [line for line in done.stderr.splitlines() if line.startswith("<E>")]
    if done.returncode or errors or not root.is_dir():  # its exit code may be 0 even if it fails
        raise OSError(f"fsck.erofs cannot extract the filesystem: {errors[0][:200] if errors else done.returncode}")


if __name__ == "__main__":
    filesystem, source = sys.argv[1:]
    tree = Path("/scratch/tree")
    error = ""
    try:
        (extract_ext if filesystem == "ext" else extract_erofs)(source, tree)
    except OSError as exc:
        error = str(exc)
    findings, release = scan_tree(tree)
    json.dump({"findings": findings, "release": release, "error": error}, sys.stdout)
