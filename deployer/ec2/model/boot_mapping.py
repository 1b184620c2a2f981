"""How EC2 boots an image: from a manifest to a boot mode, an architecture, and a device name for each disk. Pure.

EC2 boots a volume, the root device, through BIOS or UEFI. An image whose kernel is given to the hypervisor has no boot
loader: where the manifest carries a kernel and a command line that mean the same on any host, a small boot disk
(`images.boot_disk`) is put in front of the image's own disks. An image that cannot boot is refused before anything is
uploaded, with the reason. Sources: Amazon EC2 User Guide, "Instance launch behavior with Amazon EC2 boot modes" and "Device names for
volumes on Amazon EC2 instances".
"""

import re
from dataclasses import dataclass
from typing import Final, Literal

from catalog.image.manifest import BareDisk, Blank, DirectBoot, Disk, Manifest
from deployer.errors import CannotBoot

BootMode = Literal["legacy-bios", "uefi"]
Arch = Literal["x86_64", "arm64"]

GIB = 1 << 30
MAX_VOLUME = 16 << 40
"""Bytes of a gp3 volume on every kind of instance."""

ROOT_DEVICE: Final = "/dev/xvda"
"""The name of the booted volume in RegisterImage. The guest sees an NVMe or Xen disk and never this name."""

DEVICES: Final = tuple(f"/dev/sd{letter}" for letter in "fghijklmnopqrstuvwxyzbcde")
"""Names for the other volumes: first those that EC2 recommends for them, then the rest that it allows (HVM)."""

MAX_VOLUMES: Final = 1 + len(DEVICES)

ARCHITECTURES: Final[dict[str, Arch]] = {"x86_64": "x86_64", "aarch64": "arm64"}

_LOCAL_DEVICE = re.compile(r"(?:^|[\s=,])(/dev/(?:vd|xvd|sd|hd|nvme)[a-z0-9]+)")
_UNSAYABLE = re.compile(r"[\"'\\]")


@dataclass(frozen=True)
class Volume:
    """One volume that a machine gets.

    Attributes:
        device: its name in the block device mapping.
        size: GiB, as EC2 counts volumes: the disk's size rounded up.
        disk: number of the manifest's disk whose bytes it begins with; None for the boot disk and for blanks.
        blank: the filesystem that the guest makes on it, if it is a whole blank disk.
    """

    device: str
    size: int
    disk: int | None = None
    blank: Blank | None = None


@dataclass(frozen=True)
class BootMapping:
    """How EC2 boots an image.

    Attributes:
        boot_mode, architecture: for RegisterImage.
        volumes: the root device first; then the manifest's disks in their order.
        boot_disk: kernel and command line of the boot disk to be made; None if the image has a boot loader.
    """

    boot_mode: BootMode
    architecture: Arch
    volumes: tuple[Volume, ...]
    boot_disk: DirectBoot | None = None

    @property
    def snapshots(self) -> tuple[Volume, ...]:
        """The volumes that start from a snapshot: all but the blanks."""
        return tuple(volume for volume in self.volumes if volume.blank is None)


def map_boot(manifest: Manifest) -> BootMapping:
    """Decide how EC2 boots an image.

    Raises:
        CannotBoot: with the reason and a remedy.
    """
    boot = manifest.boot
    architecture = ARCHITECTURES[manifest.architecture]
    if isinstance(boot, DirectBoot):
        _check_direct(manifest, boot)
        mode: BootMode = "legacy-bios"
        volumes = [Volume(ROOT_DEVICE, 1)]
        rest = list(enumerate(manifest.disks))
    else:
        if boot.mode == "bios" and architecture != "x86_64":
            raise CannotBoot(
                f"{manifest.title} boots with a BIOS, which EC2 does not have for {architecture}; use UEFI"
            )
        mode = "legacy-bios" if boot.mode == "bios" else "uefi"
        volumes = [_volume(manifest, ROOT_DEVICE, 0, manifest.disks[0])]
        rest = list(enumerate(manifest.disks))[1:]
    if len(rest) > len(DEVICES):
        raise CannotBoot(
            f"{manifest.title} has {len(manifest.disks)} disks, and a machine at EC2 takes at most {MAX_VOLUMES}; join some"
        )
    volumes += [_volume(manifest, DEVICES[at], index, disk) for at, (index, disk) in enumerate(rest)]
    return BootMapping(mode, architecture, tuple(volumes), boot if isinstance(boot, DirectBoot) else None)


def add_blanks(found: BootMapping, blanks: tuple[Blank, ...]) -> tuple[Volume, ...]:
    """The volumes of a machine with additional blank disks; CannotBoot if there are too many."""
    free = DEVICES[len(found.volumes) - 1 :]
    if len(blanks) > len(free):
        raise CannotBoot(
            f"{len(blanks)} more disks make {len(found.volumes) + len(blanks)}, and a machine at EC2 takes "
            f"at most {MAX_VOLUMES}; ask for fewer"
        )
    more = [Volume(device, _gib(blank.size), blank=blank) for device, blank in zip(free, blanks, strict=False)]
    return (*found.volumes, *more)


def _volume(manifest: Manifest, device: str, index: int, disk: Disk) -> Volume:
    if disk.size > MAX_VOLUME:
        raise CannotBoot(
            f"disk {index} of {manifest.title} has {disk.size} bytes, and a volume at EC2 has at most {MAX_VOLUME}"
        )
    blank = disk.partition.blank if isinstance(disk, BareDisk) else None
    return Volume(device, _gib(disk.size), index if blank is None else None, blank)


def _gib(size: int) -> int:
    return max(1, -(-size // GIB))


def _check_direct(manifest: Manifest, boot: DirectBoot) -> None:
    """Check that a kernel without a boot loader can get one: its command line must mean the same at EC2."""
    if manifest.architecture != "x86_64":
        raise CannotBoot(
            f"{manifest.title} has a kernel without a boot loader, and boot disks are made for x86_64 only; "
            "give the image an EFI system partition"
        )
    if found := _LOCAL_DEVICE.search(boot.cmdline):
        raise CannotBoot(
            f"the kernel command line of {manifest.title} names {found[1]}, and disks at EC2 have other names; use "
            "PARTUUID=, PARTLABEL=, UUID= or LABEL="
        )
    if _UNSAYABLE.search(boot.cmdline):
        raise CannotBoot(
            f"the command line of {manifest.title} holds quotes or backslashes, which a boot loader changes; "
            "write it without them"
        )
