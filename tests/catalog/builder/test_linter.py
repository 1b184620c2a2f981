"""What the linter warns about, wherever it lies; what it cannot read, it says."""

import json
import random
import re
from pathlib import Path

import pytest

from catalog.builder.disk_import import import_disk
from catalog.builder.filesystem_images import make_erofs, make_ext4
from catalog.builder.linter import UNREADABLE, Finding, LintReport, lint_bundle, lint_file, lint_tree
from catalog.cli.image import image_app
from catalog.errors import NotFound
from catalog.image.bundle import Bundle
from tests.support.catalog.disk_images import MIB, SECTOR, formatted, gpt_disk, identity, luks, put, put_file
from tests.support.commands import CliRunner

KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaA==\n"

FORBIDDEN: tuple[tuple[str, str, str], ...] = (
    ("host-key", "etc/ssh/ssh_host_rsa_key", KEY),
    ("host-key", "etc/ssh/ssh_host_ed25519_key", "binary"),
    ("authorized-keys", "root/.ssh/authorized_keys", "ssh-ed25519 AAAA"),
    ("authorized-keys", "home/anna/.ssh/authorized_keys2", "ssh-ed25519 AAAA"),
    ("private-key", "home/anna/.ssh/id_rsa", KEY),
    ("private-key", "root/.ssh/work", KEY),
    ("private-key", "etc/grid-security/hostkey.pem", "-----BEGIN PRIVATE KEY-----\n"),
    ("private-key", "etc/grid-security/vo/key.pem", "-----BEGIN RSA PRIVATE KEY-----\n"),
    ("private-key", "etc/ssl/private/snakeoil.key", "-----BEGIN PRIVATE KEY-----\n"),
    ("password", "etc/shadow", "root:$6$salt$hash:19000:0:99999:7:::\n"),
    ("password", "etc/shadow-", "root::19000:0:99999:7:::\n"),
    ("password", "etc/gshadow", "wheel:$6$x::\n"),
    ("cloud-credentials", "root/.aws/credentials", "[default]"),
    ("cloud-credentials", "home/anna/.config/gcloud/credentials.db", "x"),
    ("cloud-credentials", "root/.azure/accessTokens.json", "{}"),
    ("cloud-credentials", "home/anna/.config/openstack/clouds.yaml", "clouds:"),
    ("cloud-credentials", "home/anna/.docker/config.json", "{}"),
    ("cloud-credentials", "root/.netrc", "machine x"),
    ("cloud-instance", "var/lib/cloud/instances/i-1/user-data.txt", "#cloud-config"),
    ("machine-id", "etc/machine-id", "b08dfa6083e7567a1921a715000001fb\n"),
    ("history", "home/anna/.bash_history", "ssh secret"),
)

HARMLESS: tuple[tuple[str, str], ...] = (
    ("etc/ssh/ssh_host_rsa_key.pub", "ssh-rsa AAAA"),
    ("etc/ssh/sshd_config", "Port 22"),
    ("root/.ssh/known_hosts", "host ssh-rsa AAAA"),
    ("root/.ssh/id_rsa.pub", "ssh-rsa AAAA"),
    ("home/anna/.ssh/authorized_keys", "\n"),
    ("etc/shadow", "root:*:1::\ndaemon:!:1::\nanna:!$6$salt$hash:1::\nsshd:!!:1::\n"),
    ("etc/grid-security/certificates/ca.pem", "-----BEGIN CERTIFICATE-----\n"),
    ("etc/machine-id", "uninitialized\n"),
    ("usr/share/doc/ssh_host_rsa_key", KEY),
    ("etc/os-release", 'ID=debian\nVERSION_ID="12"\n'),
)


def _fill(root: Path, files: tuple[tuple[str, str], ...]) -> Path:
    root.mkdir()
    for name, content in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


def _looked(here: Path, tree: Path, how: str) -> LintReport:
    """The same tree seen as a directory, or through the confined child."""
    target = here / "partition"
    match how:
        case "tree":
            return lint_tree(tree, "here")
        case "erofs":
            make_erofs(tree, target, "00000000-0000-4000-8000-000000000001", owner="root")
        case "ext4":
            make_ext4(tree, target, "00000000-0000-4000-8000-000000000001", owner="root")
        case _:
            formatted(target, 16 * MIB, f"mkfs.{how}", "-q", "-d", str(tree))
    return lint_file(target, "here")


WAYS = ("tree", "erofs", "ext4", "ext2")


@pytest.mark.parametrize("how", WAYS)
def test_all_that_is_forbidden_is_found(tmp_path: Path, how: str) -> None:
    """Each rule, in each kind of filesystem."""
    tree = _fill(tmp_path / "tree", tuple(row[1:] for row in FORBIDDEN))
    found = {(finding.rule, finding.path) for finding in _looked(tmp_path, tree, how).findings}
    assert found == {(rule, f"/{path}") for rule, path, _ in FORBIDDEN}


@pytest.mark.parametrize("how", WAYS)
def test_what_is_harmless_is_not(tmp_path: Path, how: str) -> None:
    """No cries of wolf; and the operating system is recognised on the way."""
    lint = _looked(tmp_path, _fill(tmp_path / "tree", HARMLESS), how)
    assert lint.findings == ()
    assert lint.os is not None
    assert (lint.os.id, lint.os.version) == ("debian", "12")


@pytest.mark.parametrize("how", WAYS)
def test_os_release_may_lie_in_usr(tmp_path: Path, how: str) -> None:
    """/etc/os-release is a link in most systems."""
    tree = _fill(tmp_path / "tree", (("usr/lib/os-release", "ID=rocky\nVERSION_ID=9.4\n"), ("etc/hosts", "")))
    (tree / "etc/os-release").symlink_to("../usr/lib/os-release")
    lint = _looked(tmp_path, tree, how)
    assert lint.os is not None
    assert (lint.os.id, lint.os.version) == ("rocky", "9.4")


def test_links_are_not_followed(tmp_path: Path) -> None:
    """A tree of our own may point anywhere on this machine; none of that is in the image."""
    outside = _fill(tmp_path / "outside", (("ssh_host_rsa_key", KEY), ("authorized_keys", "ssh-rsa A")))
    tree = _fill(tmp_path / "tree", (("etc/hosts", ""),))
    (tree / "etc/ssh").symlink_to(outside)
    (tree / "root").symlink_to(outside)
    (tree / "etc/machine-id").symlink_to(outside / "authorized_keys")
    assert lint_tree(tree, "here").findings == ()


def test_what_cannot_be_looked_into_is_said(tmp_path: Path) -> None:
    """Silence would be taken for a clean bill."""
    (finding,) = lint_file(formatted(tmp_path / "xfs", 300 * MIB, "mkfs.xfs", "-q"), "partition 2").findings
    assert finding.rule == UNREADABLE
    assert str(finding).startswith("partition 2: is xfs, which is not read")
    (finding,) = lint_file(luks(tmp_path / "luks"), "p").findings
    assert "is an encrypted volume" in finding.why
    (tmp_path / "noise").write_bytes(random.Random(1).randbytes(MIB))
    assert lint_file(tmp_path / "noise", "p").findings == ()


@pytest.mark.parametrize(("how", "low", "high"), [("erofs", 1200, 4000), ("ext4", 4096, 1 << 20)])
def test_a_broken_filesystem_is_said(tmp_path: Path, how: str, low: int, high: int) -> None:
    """A filesystem that cannot be taken apart is reported, not passed."""
    tree = _fill(tmp_path / "tree", (("etc/hosts", "x" * 100_000), ("etc/ssh/ssh_host_rsa_key", KEY)))
    _looked(tmp_path, tree, how)
    put(tmp_path / "partition", low, random.Random(2).randbytes(high - low))
    findings = lint_file(tmp_path / "partition", "p").findings
    assert [finding.rule for finding in findings] == [UNREADABLE]


@pytest.mark.parametrize("how", ["ext4", "erofs"])
def test_hostile_filesystems_end(tmp_path: Path, how: str) -> None:
    """Whatever the bytes do to the tools, an answer comes, and it is a list of findings."""
    tree = _fill(tmp_path / "tree", tuple(row[1:] for row in FORBIDDEN))
    _looked(tmp_path, tree, how)
    good = (tmp_path / "partition").read_bytes()
    for seed in range(6):
        noise = random.Random(seed)
        data = bytearray(good)
        for _ in range(200):
            at = noise.randrange(1100, len(data) if seed % 2 else min(len(data), 64 << 10))
            data[at] = noise.randrange(256)
        (tmp_path / "partition").write_bytes(data)
        lint = lint_file(tmp_path / "partition", "p")
        assert all(isinstance(finding, Finding) for finding in lint.findings)


def test_names_with_tricks(tmp_path: Path) -> None:
    """A home directory whose name would be a command to debugfs is passed over, not obeyed."""
    tree = _fill(
        tmp_path / "tree", (("home/x y; quit/.ssh/authorized_keys", "k"), ("home/bob/.ssh/authorized_keys", "k"))
    )
    formatted(tmp_path / "partition", 16 * MIB, "mkfs.ext4", "-q", "-d", str(tree))
    assert [finding.path for finding in lint_file(tmp_path / "partition", "p").findings] == [
        "/home/bob/.ssh/authorized_keys"
    ]


# The command line


def _disk(here: Path) -> Path:
    disk = gpt_disk(here / "disk")
    tree = _fill(here / "tree", (("etc/ssh/ssh_host_rsa_key", KEY), ("etc/os-release", "ID=debian\nVERSION_ID=12\n")))
    put_file(disk, 4096 * SECTOR, formatted(here / "fs", 16 * MIB, "mkfs.ext4", "-q", "-d", str(tree)))
    return disk


IMPORT = ("--format", "raw", "--vo", "star", "--name", "worker", "--version", "1.0")


def test_import_show_and_lint_on_the_command_line(tmp_path: Path) -> None:
    """What a person types, and what a program reads."""
    image = tmp_path / "image"
    made = CliRunner().invoke(image_app, ["import", str(_disk(tmp_path)), *IMPORT, "-o", str(image), "--json"])
    assert made.exit_code == 0, made.output
    value = json.loads(made.stdout)
    assert value["image"] == Bundle.open(image).manifest.image_id
    assert value["title"] == "star/worker@1.0"
    assert [finding["rule"] for finding in value["findings"]] == ["host-key"]
    shown = CliRunner().invoke(image_app, ["show", str(image), "--json"])
    assert json.loads(shown.stdout)["manifest"]["os"] == {"id": "debian", "version": "12"}
    text = CliRunner().invoke(image_app, ["show", str(image)]).stdout
    assert re.search(r"0\.2 data +linux-generic +16\.0 MiB +copy-on-write", text)
    linted = CliRunner().invoke(image_app, ["lint", str(image)])
    assert linted.exit_code == 0
    assert "partition 2 (data): /etc/ssh/ssh_host_rsa_key: an SSH host key" in linted.stdout
    assert CliRunner().invoke(image_app, ["lint", str(image), "--strict"]).exit_code == 3


def test_options_reach_the_import(tmp_path: Path) -> None:
    """Access, keep, direct boot, memory, contextualization."""
    (tmp_path / "vmlinuz").write_bytes(b"kernel")
    options = ["--boot", "direct", "--kernel", str(tmp_path / "vmlinuz"), "--cmdline", "quiet", "--keep", "empty"]
    options += ["--access", "data=read-only", "--memory", "1GiB", "--cores", "2", "--contextualization", "none"]
    options += ["--os", "alpine/3.20", "--max-size", "64MiB", "-o", str(tmp_path / "image")]
    made = CliRunner().invoke(image_app, ["import", str(gpt_disk(tmp_path / "disk")), *IMPORT, *options])
    assert made.exit_code == 0, made.output
    manifest = Bundle.open(tmp_path / "image").manifest
    assert manifest.boot.mode == "direct"
    assert (manifest.needs.memory, manifest.needs.cores) == (1 << 30, 2)
    assert (manifest.os.id, manifest.os.version, manifest.contextualization) == ("alpine", "3.20", "none")
    assert [part.access for part in manifest.partitions()] == ["copy-on-write", "read-only", "copy-on-write"]
    assert [part.blank for part in manifest.partitions()] == [None, None, None]


def test_wrong_options(tmp_path: Path) -> None:
    """A format must be named; sizes and accesses must be such."""
    disk = str(gpt_disk(tmp_path / "disk"))
    assert CliRunner().invoke(image_app, ["import", disk, "-o", "x", *IMPORT[2:]]).exit_code == 2
    assert CliRunner().invoke(image_app, ["import", disk, "-o", "x", "--format", "vmdk", *IMPORT[2:]]).exit_code == 2
    assert CliRunner().invoke(image_app, ["import", disk, "-o", "x", *IMPORT, "--max-size", "1"]).exit_code == 2
    refused = CliRunner().invoke(image_app, ["import", disk, "-o", "x", *IMPORT, "--access", "data=mine"])
    assert "write PARTITION=read-only" in str(refused.exception)


def test_content_that_is_gone(tmp_path: Path) -> None:
    """A directory that lost a blob says which."""
    made = import_disk(gpt_disk(tmp_path / "disk"), "raw", identity(), tmp_path / "image")
    made.bundle.content(made.bundle.manifest.contents()[0]).unlink()
    with pytest.raises(NotFound, match="is missing"):
        lint_bundle(made.bundle)
