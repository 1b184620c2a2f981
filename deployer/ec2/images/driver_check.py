"""Check whether an image has the drivers for EC2: `nvme` for the disks, `ena` for the network. Yes, no, or unknown.

An image without `nvme` never finds its root at EC2, and one without `ena` has no network: both are found here, before anything
is uploaded, and not by a machine that is paid for. The check reads the initrd of a kernel without a boot loader, and the
kernel modules in ext filesystems (/lib/modules). For unreadable parts the answer is unknown. The bytes are untrusted and read
in confinement (`driver_check_child`). Source: Amazon EC2 User Guide, "Amazon EC2 Nitro-based instances", the needs of their AMIs.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from catalog.disk.sandbox import ResourceLimits, python_command, run_confined
from catalog.errors import CatalogError
from catalog.image.manifest import DirectBoot, Manifest
from deployer.ec2.images import driver_check_child as drivers_child
from deployer.hypervisor.disks import ImageContents
from signer.documents import Document, parse
from signer.errors import DocumentError

DISK, NETWORK = "nvme", "ena"
NEEDED: Final = {DISK: "EC2's disks (nvme)", NETWORK: "EC2's network (ena)"}

SCRATCH: Final = 1 << 30
"""Bytes in memory for an initrd that is packed with Zstandard."""

_EXT_MAGIC, _EXT_PLACE = b"\x53\xef", 1080
_PACKED: Final = (b"07070", b"\x1f\x8b", b"\xfd7zXZ", b"\x5d\0\0", b"BZh", b"\x28\xb5\x2f\xfd")
"""The first bytes of an initrd; other files are not given to the child."""


class KernelDrivers(Document):
    """The drivers that were found for one kernel.

    Attributes:
        version: the name of its directory; empty for an initrd.
        modules, builtin: the needed drivers that exist as modules, and those built into the kernel.
        listed: whether a list of built-in drivers was found.
    """

    version: str = ""
    modules: tuple[str, ...] = ()
    builtin: tuple[str, ...] = ()
    listed: bool = False

    def lacks(self) -> list[str]:
        """The needed drivers that were not found."""
        return [name for name in NEEDED if name not in (*self.modules, *self.builtin)]


class _Answer(Document):
    kernels: tuple[KernelDrivers, ...]
    trouble: str = ""


@dataclass(frozen=True)
class DriverVerdict:
    """Whether an image has the drivers, and the reason: the end of a sentence, empty for a plain yes."""

    answer: Literal["yes", "no", "unknown"]
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.answer}: {self.reason}" if self.reason else self.answer


def evaluate_drivers(root: Sequence[KernelDrivers], early: KernelDrivers | None, *, direct: bool) -> DriverVerdict:
    """Decide. Pure.

    Args:
        root: the kernels of the image's filesystems.
        early: the drivers in the initrd of a direct kernel; None without an initrd, or if it cannot be read.
        direct: whether the manifest gives the kernel, instead of a boot loader on the disk.
    """
    return _direct(root, early) if direct else _loaded(root)


def _loaded(root: Sequence[KernelDrivers]) -> DriverVerdict:
    """The boot loader chooses one of the kernels; which one is unknown here."""
    if not root:
        return DriverVerdict("unknown", "no kernel modules were found in a filesystem that is read here (ext)")
    bad = [kernel for kernel in root if kernel.lacks()]
    if not bad:
        return DriverVerdict("yes")
    lacking = "; ".join(f"{one.version} has no driver for {_named(one.lacks())}" for one in bad)
    if len(bad) < len(root):
        return DriverVerdict(
            "unknown", f"{lacking}; its other kernels have all of them, and which one boots is not known"
        )
    if not all(kernel.listed for kernel in bad):
        return DriverVerdict("unknown", f"{lacking} among its modules, and it does not list its built-in drivers")
    return DriverVerdict("no", lacking)


def _direct(root: Sequence[KernelDrivers], early: KernelDrivers | None) -> DriverVerdict:
    """The initrd finds the root, so it or the kernel must have the disks' driver; the network's may come from the root."""
    first = [early] if early is not None else []
    builtin = {name for kernel in (*first, *root) for name in kernel.builtin}
    listed = any(kernel.listed for kernel in (*first, *root))
    modules = {name for kernel in first for name in kernel.modules}
    lacking = [
        name
        for name, there in ((DISK, modules), (NETWORK, modules | {one for kernel in root for one in kernel.modules}))
        if name not in builtin | there
    ]
    if not lacking:
        return DriverVerdict("yes")
    where = "its initrd" if early is not None else "its readable part"
    if listed and early is not None:
        return DriverVerdict("no", f"{where} has no driver for {_named(lacking)}, and its kernel has none built in")
    return DriverVerdict(
        "unknown",
        f"{where} has no driver for {_named(lacking)}, and whether its kernel has it built in is unknown",
    )


def check_drivers(manifest: Manifest, contents: ImageContents) -> DriverVerdict:
    """Inspect an image whose contents are all here. Raises nothing: unreadable parts give "unknown"."""
    direct = isinstance(manifest.boot, DirectBoot)
    root: list[KernelDrivers] = []
    early: KernelDrivers | None = None
    troubles: list[str] = []
    if isinstance(manifest.boot, DirectBoot) and manifest.boot.initrd is not None:
        found, trouble = _kernels("initrd", contents.path(manifest.boot.initrd))
        early = found[0] if found else None
        troubles += [f"its initrd cannot be read ({trouble})"] if trouble else []
    for part in manifest.partitions():
        if part.content is not None and _has_magic(path := contents.path(part.content), (_EXT_MAGIC,), _EXT_PLACE):
            found, trouble = _kernels("ext", path)
            root += found
            troubles += [f"partition {part.label} cannot be read ({trouble})"] if trouble else []
    verdict = evaluate_drivers(root, early, direct=direct)
    if verdict.answer == "unknown" and troubles:
        return DriverVerdict("unknown", "; ".join([*troubles, verdict.reason]))
    return verdict


def _kernels(kind: str, path: Path) -> tuple[tuple[KernelDrivers, ...], str]:
    if kind == "initrd" and not _has_magic(path, _PACKED):
        return (), "not an archive of a known format"
    command, reads = python_command(Path(drivers_child.__file__), kind, "/found")
    limits = ResourceLimits(scratch=SCRATCH, file_size=SCRATCH)
    try:
        outcome = run_confined(command, reads={**reads, "/found": path}, limits=limits)
        answer = parse(_Answer, outcome.output, f"the drivers found in {path.name}")
    except (CatalogError, DocumentError) as exc:
        return (), str(exc)
    return answer.kernels, answer.trouble


def _has_magic(path: Path, magics: tuple[bytes, ...], offset: int = 0) -> bool:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(6).startswith(magics)


def _named(lacking: Iterable[str]) -> str:
    return " and ".join(NEEDED[name] for name in lacking)
