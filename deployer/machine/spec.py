"""What a machine is, as values: its disks, how it boots, its states and what moves it between them.

All of them are documents, so that a node can keep a machine's description beside the machine. Paths are absolute, chosen
by the node and never by an image; every format is named, nothing is ever probed.
"""

import hashlib
import re
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from catalog.image.manifest import ImageId
from deployer.machine.properties import MachineProperties
from signer.documents import Document

MAX_DISKS = 24
"""Disks of one machine, seed not counted: targets vda to vdy with it, well below the PCI ports of a q35 machine."""

MAX_DISK_SERIAL = 20
"""Characters that virtio-blk has for a disk's serial number (VIRTIO 1.2, section 5.2.6.1)."""


def _plain_path(path: Path) -> Path:
    if not path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{str(path)[:200]!r} is not an absolute path without '..'")
    if not str(path).isprintable():
        raise ValueError(f"{str(path)[:200]!r} holds characters that cannot be printed")
    return path


HostPath = Annotated[Path, AfterValidator(_plain_path)]
Uuid = Annotated[str, Field(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
Architecture = Literal["x86_64", "aarch64"]
Virt = Literal["kvm", "qemu"]
"""What libvirt calls the accelerator: "kvm" is the processor's own, "qemu" is software emulation (TCG)."""


class RawFile(Document):
    """A raw file, shared by machines and only ever read: a cached partition, a blank, a seed."""

    kind: Literal["raw"] = "raw"
    path: HostPath


class Descriptor(Document):
    """A VMDK text file whose FLAT extents are raw files: a whole disk made of cached partitions. Only ever read."""

    kind: Literal["vmdk"] = "vmdk"
    path: HostPath


class Overlay(Document):
    """A qcow2 file that takes one machine's writes, above something that is only read."""

    kind: Literal["qcow2"] = "qcow2"
    path: HostPath
    base: Annotated[RawFile | Descriptor, Field(discriminator="kind")]


DiskSource = Annotated[RawFile | Overlay, Field(discriminator="kind")]


class DiskSpec(Document):
    """A virtio disk of a machine.

    Attributes:
        target: its name in the guest on a virtio bus, `vda` to `vdy`.
        source: where its bytes are. A raw file is read-only; an overlay is written.
        serial: what the guest finds it by, in /dev/disk/by-id/virtio-SERIAL.
    """

    target: Annotated[str, Field(pattern=r"^vd[a-y]$")]
    source: DiskSource
    serial: Annotated[str, Field(pattern=rf"^[A-Za-z0-9_.-]{{1,{MAX_DISK_SERIAL}}}$")] | None = None

    @property
    def read_only(self) -> bool:
        """Whether the guest is kept from writing."""
        return isinstance(self.source, RawFile)


class KernelBoot(Document):
    """The hypervisor loads kernel and initrd itself."""

    mode: Literal["direct"] = "direct"
    kernel: HostPath
    initrd: HostPath | None = None
    cmdline: Annotated[str, Field(max_length=2048, pattern=r"^[\x20-\x7e]*$")] = ""


class BiosBoot(Document):
    """The BIOS loads the boot code of the first disk."""

    mode: Literal["bios"] = "bios"


class UefiBoot(Document):
    """UEFI firmware: its read-only code, and the variables, a raw file of the machine's own made from the template."""

    mode: Literal["uefi"] = "uefi"
    loader: HostPath
    template: HostPath
    variables: HostPath


MachineBoot = Annotated[KernelBoot | BiosBoot | UefiBoot, Field(discriminator="mode")]


class DomainTag(Document):
    """The tag of a machine in the hypervisor: its owner and the image that it runs."""

    owner: Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[\x20-\x7e]+$")]
    image: ImageId


class MachineSpec(MachineProperties):
    """A machine as it is described to the hypervisor.

    Attributes:
        uuid: the machine's identity, everywhere.
        name: what people see in the hypervisor's lists.
        virt: the accelerator.
        machine: QEMU's machine type.
        disks: in order; targets follow it without a gap (the guest counts, it does not read names).
        seed: a NoCloud ISO; it becomes the last disk, read-only.
        console: the file that gets everything the guest writes to its first serial port.
        tag: owner and image.
    """

    uuid: Uuid
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
    virt: Virt
    architecture: Architecture
    machine: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.+_-]{0,63}$")]
    boot: MachineBoot
    disks: Annotated[tuple[DiskSpec, ...], Field(max_length=MAX_DISKS)]
    seed: HostPath | None = None
    console: HostPath
    tag: DomainTag

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if [disk.target for disk in self.disks] != [disk_target(index) for index in range(len(self.disks))]:
            raise ValueError("the targets of a machine's disks are vda, vdb and so on, in order")
        written = [disk.source.path for disk in self.disks if isinstance(disk.source, Overlay)]
        if len(set(written)) != len(written):
            raise ValueError("two disks of a machine write to the same file")
        if isinstance(self.boot, BiosBoot) and self.architecture != "x86_64":
            raise ValueError(f"{self.architecture} has no BIOS; boot directly or with UEFI")
        return self


MACHINE_TYPE: Final[dict[str, str]] = {"x86_64": "q35", "aarch64": "virt"}
"""QEMU's machine type per architecture: of those that its security policy covers."""


def disk_target(index: int) -> str:
    """The target of the disk at that place, from 0: vda, vdb, ..."""
    return f"vd{chr(ord('a') + index)}"


def mac_of(uuid: str) -> str:
    """A machine's MAC address: QEMU's prefix and 24 bits derived from the machine's UUID, the same every time."""
    tail = hashlib.sha256(uuid.encode()).digest()[:3]
    return "52:54:00:" + ":".join(f"{byte:02x}" for byte in tail)


_HOST_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
MAX_HOSTNAME = 64
"""Characters: what Linux keeps of a host name (HOST_NAME_MAX, sethostname(2)); RFC 1123 would allow 255."""


def check_hostname(text: str) -> str:
    """Return a host name as RFC 1123, section 2.1 has it (lower case), or raise ValueError with what would be right."""
    labels = text.split(".")
    if len(text) > MAX_HOSTNAME or not all(_HOST_LABEL.fullmatch(label) for label in labels):
        raise ValueError(
            f"{text[:80]!r} is not a valid host name: labels of at most 63 lower-case letters, digits and inner hyphens, "
            f"joined by dots, {MAX_HOSTNAME} characters in all"
        )
    if labels[-1].isdigit():
        raise ValueError(f"{text!r} is not a valid host name: its last label is a number, so it reads as an address")
    return text


MAX_HOSTNAME_BASE = 40
"""Characters of an image's name that begin a host name: the rest is for what tells machines apart."""


def hostname_base(name: str) -> str:
    """An image's name as the beginning of a host name: letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower())[:MAX_HOSTNAME_BASE].strip("-") or "machine"
