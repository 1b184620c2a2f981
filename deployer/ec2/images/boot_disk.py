"""The boot disk of an image with a kernel but without a boot loader: GRUB, kernel and initrd, and nothing else.

Sector 0 has GRUB's boot sector, GRUB itself follows in the sectors up to the first MiB, and then kernel and initrd lie as
they are, without a filesystem: GRUB reads them by their block numbers. Kernel and initrd are the contents that the
manifest names, byte for byte; the sectors before them are made on the site from Debian's packages grub-common and
grub-pc-bin, and the same packages make the same bytes. The command line is the manifest's. Source: GNU GRUB manual, "Block list syntax",
and boot/i386/pc/boot.S and diskboot.S for the places of the sectors that follow each of them (sectors 1 and 2).
"""

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Final

from catalog.image.address import Address
from catalog.image.manifest import SECTOR, DirectBoot
from deployer.ec2.snapshots.blocks import Layout, Run
from deployer.ec2.snapshots.disk_reader import OpenDisk, open_content
from deployer.errors import CannotBoot
from deployer.hypervisor.disks import ImageContents

GRUB: Final = Path("/usr/lib/grub/i386-pc")
MODULES: Final = ("biosdisk", "linux")
FIRST_OFFSET: Final = 1 << 20
"""Bytes before the kernel: room for GRUB, and the usual offset of a first partition."""

BOOT_AREA: Final = 440
"""Bytes of GRUB's boot.img that are code; after them come disk signature and partition table, which stay empty."""

MAKING = 60.0
"""Seconds for grub-mkimage, which takes a tenth of a second."""


def file_offsets(boot: DirectBoot) -> tuple[tuple[int, Address], ...]:
    """Where kernel and initrd begin, in bytes, each in whole MiB."""
    initrd = FIRST_OFFSET + _whole_mib(boot.kernel.size)
    return ((FIRST_OFFSET, boot.kernel), *(((initrd, boot.initrd),) if boot.initrd is not None else ()))


def grub_config(boot: DirectBoot) -> str:
    """GRUB's embedded configuration: load both by block numbers and start the kernel. No word can leave its quotes."""
    commands = []
    for name, (offset, address) in zip(("linux", "initrd"), file_offsets(boot), strict=False):
        words = [f"(hd0){offset // SECTOR}+{-(-address.size // SECTOR)}"]
        words += boot.cmdline.split() if name == "linux" else []
        commands.append(" ".join([name, *(f"'{word}'" for word in words)]))
    return "\n".join([*commands, "boot", ""])


def build_head(boot: DirectBoot) -> bytes:
    """The sectors before the kernel.

    Raises:
        CannotBoot: GRUB is not installed here, cannot be made, or does not fit.
    """
    with tempfile.TemporaryDirectory(prefix="partita-grub-") as name:
        scratch = Path(name)
        (scratch / "load.cfg").write_text(grub_config(boot))
        command = ["grub-mkimage", "-O", "i386-pc", "-d", str(GRUB), "-p", "/", "-c", str(scratch / "load.cfg")]
        command += ["-o", str(scratch / "core.img"), *MODULES]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=MAKING, stdin=subprocess.DEVNULL)
            core, code = (scratch / "core.img").read_bytes(), (GRUB / "boot.img").read_bytes()
        except FileNotFoundError as exc:
            raise CannotBoot(
                f"the image has a kernel without a boot loader, and this site cannot make a boot disk for it: {exc.filename} "
                "is not installed; install grub-common and grub-pc-bin"
            ) from exc
        except subprocess.TimeoutExpired as exc:
            raise CannotBoot(f"grub-mkimage did not end within {MAKING:.0f} s; check the site's storage") from exc
        except subprocess.CalledProcessError as exc:
            reason = exc.stderr.decode(errors="replace").strip()[-500:]
            raise CannotBoot(f"the image cannot be given a boot loader: {reason}") from exc
    head = code[:BOOT_AREA].ljust(SECTOR - 2, b"\0") + b"\x55\xaa" + core
    if len(head) > FIRST_OFFSET:
        raise CannotBoot(f"GRUB takes {len(head)} bytes, more than the {FIRST_OFFSET} before the kernel")
    return head


def boot_layout(boot: DirectBoot, head: bytes) -> Layout:
    """The layout of a boot disk; its digest is the content key, as of every other disk."""
    parts = file_offsets(boot)
    runs = [Run(offset=0, length=len(head), source=f"bytes:{sha256(head).hexdigest()}")]
    runs += [Run(offset=offset, length=address.size, source=str(address)) for offset, address in parts]
    offset, last = parts[-1]
    return Layout(size=offset + _whole_mib(last.size), runs=tuple(runs))


@contextmanager
def open_boot_disk(boot: DirectBoot, head: bytes, contents: ImageContents) -> Iterator[OpenDisk]:
    """A boot disk whose kernel and initrd are here, open while the block runs; SnapshotFailed if one is not usable."""
    with ExitStack() as closing:
        files = [
            closing.enter_context(open_content(contents.path(address), address.size))
            for _, address in file_offsets(boot)
        ]
        yield OpenDisk(boot_layout(boot, head), [head, *files])


def _whole_mib(size: int) -> int:
    return (size + (1 << 20) - 1) >> 20 << 20
