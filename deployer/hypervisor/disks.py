"""Putting a machine's disks together in its own directory: descriptors and overlays, never content.

What is written is a few hundred KiB per disk, whatever the size of the image: partition tables, descriptors, and the
empty qcow2 overlays that take the guest's writes. The contents stay in the cache and are named by absolute path.
"""

import os
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from catalog.disk.layout import disk_extents
from catalog.image.address import Address
from catalog.image.manifest import BareDisk, Blank, DirectBoot, Disk, GptDisk, Manifest, MbrDisk
from deployer.errors import AssemblyFailed
from deployer.hypervisor.vmdk_descriptor import build_descriptor, disk_serials
from deployer.machine.spec import (
    BiosBoot,
    Descriptor,
    DiskSpec,
    KernelBoot,
    MachineBoot,
    Overlay,
    RawFile,
    UefiBoot,
    disk_target,
)

QEMU_IMG_TIMEOUT = 30.0
"""Seconds. Making an overlay takes 10 ms; a storage that needs 30 s for it cannot carry a guest."""

FIRMWARE: Final[dict[str, tuple[tuple[Path, Path], ...]]] = {
    "x86_64": (
        (Path("/usr/share/OVMF/OVMF_CODE_4M.fd"), Path("/usr/share/OVMF/OVMF_VARS_4M.fd")),
        (Path("/usr/share/OVMF/OVMF_CODE.fd"), Path("/usr/share/OVMF/OVMF_VARS.fd")),
    ),
    "aarch64": ((Path("/usr/share/AAVMF/AAVMF_CODE.fd"), Path("/usr/share/AAVMF/AAVMF_VARS.fd")),),
}
"""UEFI code and the template of its variables, where Debian and Ubuntu keep them, in order of preference."""


class ImageContents(Protocol):
    """Where the parts of an image are on this node; `stager.staging.StagedImage` is one."""

    def path(self, address: Address) -> Path:
        """The file that holds exactly this content."""

    def blank(self, blank: Blank) -> Path:
        """The file that holds a freshly made blank."""


@dataclass(frozen=True)
class AssembledDisks:
    """A machine's disks and how it boots.

    Attributes:
        disks: in the manifest's order, then the extra ones.
        boot: with paths into the cache, or of the firmware.
        written: bytes that the assembly takes on the node's storage; none of them is image content.
    """

    disks: tuple[DiskSpec, ...]
    boot: MachineBoot
    written: int


def assemble_disks(
    manifest: Manifest, contents: ImageContents, directory: Path, extra: Sequence[Blank] = ()
) -> AssembledDisks:
    """Make the disks of one machine.

    Args:
        manifest: the image.
        contents: its parts, all present.
        extra: blanks that become disks after those of the image.
        directory: the machine's own, present; files are made in it and nowhere else. The caller removes it on failure.

    Raises:
        AssemblyFailed: a part has another size, a path cannot be used, the storage or qemu-img fails.
    """
    try:
        with ThreadPoolExecutor(max_workers=4) as pool:  # qemu-img is a process: as many as disks, within reason
            names = disk_serials(manifest.disks)
            made = [
                pool.submit(_disk, disk, contents, directory, index, names[index])
                for index, disk in enumerate(manifest.disks)
            ]
            more = [
                pool.submit(
                    _overlaid,
                    directory,
                    index,
                    RawFile(path=_part(blank, contents, blank.size)),
                    blank.size,
                    f"disk{index}",
                )
                for index, blank in enumerate(extra, len(manifest.disks))
            ]
            disks = tuple(future.result() for future in (*made, *more))
        boot = _boot(manifest, contents, directory)
        written = sum(entry.stat().st_blocks * 512 for entry in os.scandir(directory) if entry.is_file())
    except OSError as exc:
        raise AssemblyFailed(
            f"{exc.filename or directory}: {exc.strerror}; the machine's disks cannot be made"
        ) from exc
    return AssembledDisks(disks, boot, written)


def _disk(disk: Disk, contents: ImageContents, directory: Path, index: int, serial: str) -> DiskSpec:
    base: RawFile | Descriptor
    if isinstance(disk, BareDisk):
        base = RawFile(path=_part(disk.partition.source, contents, disk.size))
        if disk.partition.access == "read-only":
            return DiskSpec(target=disk_target(index), source=base, serial=serial)
    else:
        base = Descriptor(path=_describe(disk, contents, directory, index))
    return _overlaid(directory, index, base, disk.size, serial)


def _describe(disk: GptDisk | MbrDisk, contents: ImageContents, directory: Path, index: int) -> Path:
    """Write the descriptor of a disk with a table, and the files that belong to this disk alone."""
    runs: list[tuple[int, Path]] = []
    zeros = directory / f"disk{index}.zeros"
    longest = 0
    for extent in disk_extents(disk):
        match extent.source:
            case None:
                longest = max(longest, extent.length)
                runs.append((extent.length, zeros))
            case bytes() as table:
                file = directory / f"disk{index}.{'tail' if extent.offset else 'head'}"
                file.write_bytes(table)
                runs.append((extent.length, file))
            case part:
                runs.append((extent.length, _part(part, contents, extent.length)))
    if longest:
        # All runs of zeros read from the beginning of one sparse file: it is as long as the longest and takes no space.
        with zeros.open("wb") as file_of_zeros:
            file_of_zeros.truncate(longest)
    path = directory / f"disk{index}.vmdk"
    path.write_bytes(build_descriptor(runs))
    return path


def _part(source: Address | Blank, contents: ImageContents, size: int) -> Path:
    path = contents.path(source) if isinstance(source, Address) else contents.blank(source)
    if path.stat().st_size != size:
        # QEMU would let the next extent slide into the place of what is missing.
        raise AssemblyFailed(f"{path}: has {path.stat().st_size} bytes and the image says {size}; stage it again")
    return path


def _overlaid(directory: Path, index: int, base: RawFile | Descriptor, size: int, serial: str) -> DiskSpec:
    """A disk whose writes go into a new overlay."""
    path = directory / f"disk{index}.qcow2"
    command = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", base.kind, "-b", str(base.path), "--", str(path)]
    _run([*command, str(size)], f"the overlay {path.name}")
    return DiskSpec(target=disk_target(index), source=Overlay(path=path, base=base), serial=serial)


def rebase_overlay(overlay: Path, base: RawFile | Descriptor) -> None:
    """Write an overlay's backing file into its header, reading nothing of either; AssemblyFailed on failure."""
    command = ["qemu-img", "rebase", "-q", "-u", "-f", "qcow2", "-F", base.kind, "-b", str(base.path), str(overlay)]
    _run(command, f"the overlay {overlay.name}")


def _run(command: Sequence[str], what: str) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=QEMU_IMG_TIMEOUT, stdin=subprocess.DEVNULL)
    except FileNotFoundError as exc:
        raise AssemblyFailed(f"{command[0]} is not installed; run ./dev setup, or install qemu-utils") from exc
    except subprocess.TimeoutExpired as exc:
        raise AssemblyFailed(
            f"{what} was not made within {QEMU_IMG_TIMEOUT:.0f} s; look at the node's storage"
        ) from exc
    except subprocess.CalledProcessError as exc:
        reason = exc.stderr.decode(errors="replace").strip()[-500:]
        raise AssemblyFailed(f"{what} cannot be made: {reason}") from exc


def _boot(manifest: Manifest, contents: ImageContents, directory: Path) -> MachineBoot:
    boot = manifest.boot
    if isinstance(boot, DirectBoot):
        initrd = None if boot.initrd is None else contents.path(boot.initrd)
        return KernelBoot(kernel=contents.path(boot.kernel), initrd=initrd, cmdline=boot.cmdline)
    if boot.mode == "bios":
        return BiosBoot()
    loader, template = find_firmware(manifest.architecture)
    return UefiBoot(loader=loader, template=template, variables=directory / "uefi-variables.fd")


def find_firmware(architecture: str) -> tuple[Path, Path]:
    """UEFI code and template of variables for an architecture; AssemblyFailed where the host has none."""
    for loader, template in FIRMWARE[architecture]:
        if loader.exists() and template.exists():
            return loader, template
    package = "ovmf" if architecture == "x86_64" else "qemu-efi-aarch64"
    raise AssemblyFailed(
        f"the image boots with UEFI and this node has no firmware for {architecture}; install {package}"
    )
