"""The boot disk of a kernel without a boot loader: its bytes, and that what EC2 would boot boots."""

import gzip
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from catalog.content.indexing import index_file
from catalog.image.address import Address
from catalog.image.manifest import Blank, DirectBoot
from deployer.ec2.errors import SnapshotFailed
from deployer.ec2.images import boot_disk as bootdisk
from deployer.ec2.images.boot_disk import FIRST_OFFSET, boot_layout, build_head, grub_config, open_boot_disk
from deployer.ec2.snapshots.record_store import SnapshotRecords
from deployer.ec2.snapshots.snapshots import Snapshots
from deployer.errors import CannotBoot
from examples.guest_system import kernel_tree
from tests.support.aws.fake_aws import AwsWorld
from tests.support.aws.snapshot_reader import write_snapshot

PACKAGES = Path(__file__).resolve().parents[4] / "build" / "guest-packages"
CMDLINE = "console=ttyS0 quiet panic=-1 star.site=bnl,lbl $HOME `x` a;b (hd1)"

INIT = """\
#!/bin/busybox sh
/bin/busybox mkdir -p /proc
/bin/busybox mount -t proc proc /proc
echo "guest: told $(/bin/busybox cat /proc/cmdline)"
/bin/busybox poweroff -f
"""


@dataclass(frozen=True)
class Files:
    """Contents in files of a test's own."""

    paths: dict[Address, Path]

    def path(self, address: Address) -> Path:
        """Where it lies."""
        return self.paths[address]

    def blank(self, blank: Blank) -> Path:
        """A boot disk has none."""
        raise AssertionError(blank)


def boot_of(tmp_path: Path, kernel: Path, initrd: Path, cmdline: str = CMDLINE) -> tuple[DirectBoot, Files]:
    addresses = [index_file(path).address for path in (kernel, initrd)]
    boot = DirectBoot(mode="direct", kernel=addresses[0], initrd=addresses[1], cmdline=cmdline)
    return boot, Files(dict(zip(addresses, (kernel, initrd), strict=True)))


@pytest.fixture
def noise(tmp_path: Path) -> tuple[DirectBoot, Files]:
    (tmp_path / "kernel").write_bytes(b"k" * 1000)
    (tmp_path / "initrd").write_bytes(b"i" * 513)
    return boot_of(tmp_path, tmp_path / "kernel", tmp_path / "initrd")


def test_the_same_boot_is_the_same_disk_and_its_contents_lie_as_they_are(noise: tuple[DirectBoot, Files]) -> None:
    boot, files = noise
    head = build_head(boot)
    assert build_head(boot) == head
    assert head[510:512] == b"\x55\xaa"
    assert not any(head[440:510])  # no partition table
    layout = boot_layout(boot, head)
    assert layout.key != boot_layout(boot.model_copy(update={"kernel": boot.initrd}), head).key
    assert [(run.offset, run.length, run.source) for run in layout.runs[1:]] == [
        (FIRST_OFFSET, 1000, str(boot.kernel)),
        (2 * FIRST_OFFSET, 513, str(boot.initrd)),
    ]
    with open_boot_disk(boot, head, files) as disk:
        buffer = bytearray(512 << 10)
        disk.read(2, buffer)
        assert buffer == (b"k" * 1000).ljust(len(buffer), b"\0")
        assert list(disk.solid()) == [0, 2, 4]


def test_no_word_of_a_command_line_leaves_its_quotes(noise: tuple[DirectBoot, Files]) -> None:
    lines = grub_config(noise[0]).splitlines()
    assert lines[0].startswith("linux '(hd0)2048+2' 'console=ttyS0' ")
    assert "'$HOME' '`x`' 'a;b' '(hd1)'" in lines[0]
    assert lines[1:] == ["initrd '(hd0)4096+2'", "boot"]


def test_without_grub_it_is_refused_with_what_to_install(
    noise: tuple[DirectBoot, Files], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CannotBoot, match="install grub-common and grub-pc-bin"):
        build_head(noise[0])
    monkeypatch.undo()
    monkeypatch.setattr(bootdisk, "GRUB", tmp_path / "absent")
    with pytest.raises(CannotBoot, match="cannot be given a boot loader"):
        build_head(noise[0])


def test_a_kernel_that_was_cut_short_is_not_uploaded(noise: tuple[DirectBoot, Files]) -> None:
    boot, files = noise
    head = build_head(boot)
    with files.path(boot.kernel).open("r+b") as file:
        file.truncate(999)
    with pytest.raises(SnapshotFailed, match="instead of 1000"), open_boot_disk(boot, head, files):
        pass


@pytest.mark.slow
@pytest.mark.guest
@pytest.mark.timeout(300)
def test_what_was_uploaded_is_read_back_and_boots(world: AwsWorld, profile: str, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "bin").mkdir(parents=True)
    shutil.copy("/bin/busybox", tree / "bin/busybox")
    (tree / "init").write_text(INIT)
    (tree / "init").chmod(0o755)
    names = b"bin\nbin/busybox\ninit\n"
    packed = subprocess.run(
        ["cpio", "-o", "-H", "newc", "--quiet"], cwd=tree, input=names, capture_output=True, check=True
    ).stdout
    (tmp_path / "initrd").write_bytes(gzip.compress(packed, 1))
    kernel = next((kernel_tree(PACKAGES) / "boot").glob("vmlinuz-*"))
    boot, files = boot_of(tmp_path, kernel, tmp_path / "initrd")
    snapshots = Snapshots(world.aws(profile), SnapshotRecords(tmp_path / "ledger"), workers=8)
    with open_boot_disk(boot, build_head(boot), files) as disk:
        made = snapshots.ensure(disk)
    disk_file = tmp_path / "disk"
    write_snapshot(world.aws(profile), made.snapshot_id, made.gib, disk_file)
    said = subprocess.run(
        [
            "qemu-system-x86_64", "-machine", "q35,accel=tcg", "-m", "256", "-display", "none", "-serial", "stdio",
            "-no-reboot", "-nic", "none", "-drive", f"file={disk_file},format=raw,if=virtio",
        ],
        stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=240,
    ).stdout.decode(errors="replace")  # fmt: skip
    assert "guest: told " in said, said[-2000:]
    told = next(line for line in said.splitlines() if "guest: told " in line)
    assert told.strip().endswith(CMDLINE)
