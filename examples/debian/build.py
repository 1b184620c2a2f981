"""Build a Debian 12 disk with cloud-init: GPT, GRUB for a BIOS, root, swap. Needs root, mmdebstrap and grub-pc-bin.

    python -m examples.debian.build DISK.raw
    partita image import DISK.raw --format raw --vo star --name debian --version 12 --os debian/12 --boot bios -o IMAGE

Nothing is mounted and no loop device is used: the filesystem is filled by mke2fs, GRUB's two images are put where its own
installer would put them.
"""

import argparse
import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

MIB = 1 << 20
SECTOR = 512
SUITE = "bookworm"
PACKAGES = (
    "linux-image-cloud-amd64",
    "systemd-sysv",
    "udev",
    "dbus",
    "cloud-init",
    "ifupdown",
    "isc-dhcp-client",
    "iproute2",
    "ca-certificates",
)
GRUB = Path("/usr/lib/grub/i386-pc")
GRUB_MODULES = (
    "biosdisk",
    "part_gpt",
    "ext2",
    "normal",
    "linux",
    "search",
    "search_fs_uuid",
    "serial",
    "terminal",
    "echo",
)

BIOS_BOOT = (1 * MIB, 1 * MIB)
ROOT_START = 2 * MIB
ROOT_UUID = "3d1f5f5e-5d0c-4f0e-9a3f-0d5c0de0b001"

LAYOUT = """\
label: gpt
unit: sectors
start=2048, size=2048, type=21686148-6449-6E6F-744E-656564454649, name=bios
start=4096, size={root}, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709, name=root
start={swap_start}, size={swap}, type=0657FD6D-A4AB-43C4-84E5-0933C84B4F4F, name=swap
"""

GRUB_CFG = """\
serial --unit=0 --speed=115200
terminal_output serial
linux /vmlinuz root=UUID={uuid} ro console=ttyS0 quiet
initrd /initrd.img
boot
"""


def build(disk: Path, *, root_size: int = 1536 * MIB, swap_size: int = 128 * MIB) -> None:
    """Write the disk.

    Args:
        disk: the raw file to make; must not exist.
        root_size, swap_size: bytes, multiples of 1 MiB.
    """
    with tempfile.TemporaryDirectory(prefix="debian-", dir=disk.parent) as scratch:
        tree = Path(scratch) / "root"
        subprocess.run(
            ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(PACKAGES)}",
             '--dpkgopt=path-exclude=/usr/share/man/*', '--dpkgopt=path-exclude=/usr/share/locale/*',
             '--dpkgopt=path-exclude=/usr/share/doc/*', SUITE, tree],
            check=True,
        )  # fmt: skip
        _configure(tree)
        filesystem = Path(scratch) / "root.ext4"
        with filesystem.open("wb") as file:
            file.truncate(root_size)
        subprocess.run(
            ["mke2fs", "-q", "-t", "ext4", "-U", ROOT_UUID, "-L", "root", "-d", tree, filesystem], check=True
        )
        shutil.rmtree(tree)
        _lay_out(disk, root_size, swap_size)
        # Sparse: the holes of the filesystem stay holes of the disk.
        subprocess.run(
            [
                "dd",
                f"if={filesystem}",
                f"of={disk}",
                "bs=1M",
                f"seek={ROOT_START // MIB}",
                "conv=notrunc,sparse",
                "status=none",
            ],
            check=True,
        )
        _swap(disk, ROOT_START + root_size, swap_size, Path(scratch))
        _install_grub(disk, Path(scratch))


def _configure(tree: Path) -> None:
    (tree / "etc/fstab").write_text(
        f"UUID={ROOT_UUID} / ext4 errors=remount-ro 0 1\nPARTLABEL=swap none swap sw,nofail 0 0\n"
    )
    (tree / "etc/hostname").write_text("debian\n")
    (tree / "etc/cloud/cloud.cfg.d/90-partita.cfg").write_text("datasource_list: [NoCloud, None]\n")
    (tree / "etc/machine-id").write_text("")
    shutil.rmtree(tree / "var/lib/dbus", ignore_errors=True)
    (tree / "boot/grub").mkdir(parents=True, exist_ok=True)
    (tree / "boot/grub/grub.cfg").write_text(GRUB_CFG.format(uuid=ROOT_UUID))


def _lay_out(disk: Path, root_size: int, swap_size: int) -> None:
    with disk.open("xb") as file:
        file.truncate(ROOT_START + root_size + swap_size + MIB)
    layout = LAYOUT.format(
        root=root_size // SECTOR, swap_start=(ROOT_START + root_size) // SECTOR, swap=swap_size // SECTOR
    )
    subprocess.run(["sfdisk", "--quiet", disk], input=layout, text=True, check=True)


def _swap(disk: Path, offset: int, size: int, scratch: Path) -> None:
    part = scratch / "swap"
    with part.open("wb") as file:
        file.truncate(size)
    subprocess.run(["mkswap", "--quiet", "--label", "swap", part], check=True, stderr=subprocess.DEVNULL)
    subprocess.run(
        ["dd", f"if={part}", f"of={disk}", "bs=1M", f"seek={offset // MIB}", "conv=notrunc,sparse", "status=none"],
        check=True,
    )


def _install_grub(disk: Path, scratch: Path) -> None:
    """Put GRUB's boot.img and core.img in place, as its installer does for a disk with a BIOS boot partition."""
    core_file = scratch / "core.img"
    early = scratch / "early.cfg"
    early.write_text(f"search.fs_uuid {ROOT_UUID} root\nset prefix=($root)/boot/grub\n")
    subprocess.run(
        ["grub-mkimage", "-O", "i386-pc", "-p", "/boot/grub", "-c", early, "-o", core_file, *GRUB_MODULES], check=True
    )
    core = bytearray(core_file.read_bytes())
    if len(core) > BIOS_BOOT[1]:
        raise RuntimeError(f"GRUB's core image has {len(core)} bytes, and the BIOS boot partition {BIOS_BOOT[1]}")
    first = BIOS_BOOT[0] // SECTOR
    # The block list at the end of core's first sector: where its other sectors are (GRUB's diskboot.S).
    struct.pack_into("<Q", core, SECTOR - 12, first + 1)
    boot = bytearray((GRUB / "boot.img").read_bytes())
    # boot.img: the sector of core's first part at 0x5c; 0x66 holds the jump over a floppy check that hard disks do not need.
    struct.pack_into("<Q", boot, 0x5C, first)
    boot[0x66:0x68] = b"\x90\x90"
    with disk.open("r+b") as file:
        file.write(boot[:440])
        file.seek(BIOS_BOOT[0])
        file.write(core)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("disk", type=Path, help="the raw disk to make")
    options = parser.parse_args()
    build(options.disk.resolve())
    return 0


if __name__ == "__main__":
    sys.exit(main())
