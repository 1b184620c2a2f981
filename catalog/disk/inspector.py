"""Inspection and conversion of foreign disks. Only this module opens foreign formats, always in the sandbox.

The person who imports names the format; the content can only contradict it. Accepted are `raw`, and `qcow2` without
backing file, data file, encryption, internal snapshots, dirty or corrupt marks, and unknown features (docs/trust-model.md
says which attacks used each of these).
"""

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from catalog.disk import inspector_child
from catalog.disk.sandbox import ChildResult, ResourceLimits, python_command, run_confined
from catalog.errors import DiskRefused, NotFound
from signer.documents import D, Document, parse
from signer.errors import DocumentError
from signer.runtime.progress import Advance, ignore_progress
from signer.runtime.terminal import format_size

DiskFormat = Literal["raw", "qcow2"]

MAX_VIRTUAL_SIZE = 2 << 40
"""Bytes. 2 TiB: machine images are far smaller, and a qcow2 of 6 MB may claim a PiB."""

SECTOR = 512

CONVERSION_SPEED = 20 << 20
"""Bytes per second of a conversion on the slowest machine in use; determines its time limit."""

_DIRTY, _CORRUPT, _DATA_FILE, _COMPRESSION = range(4)
"""Incompatible feature bits of qcow2 version 3; higher bits are refused."""

_LEAKED = 3
"""Exit code of `qemu-img check` for leaked clusters, which are harmless."""

_TABLES = ResourceLimits(cpu=120, wall=300)
"""Limits of `qemu-img check`, which walks the tables of a qcow2 of up to 2 TiB."""

_TABLED = {"raw", "gpt"}
"""The inspector's names for a disk of plain sectors; `gpt` is its name for any partition table."""


class _Found(Document):
    failures: tuple[str, ...]
    virtual_size: int


class _Qcow2(Document):
    version: int
    backing: bool
    cluster_bits: int
    size: int
    crypt: int
    l1_size: int
    snapshots: int
    incompatible: tuple[int, ...]


class InspectionReport(Document):
    """The report of the child: bytes in the file, formats matched with their failed checks, the qcow2 header."""

    size: int
    formats: dict[str, _Found]
    qcow2: _Qcow2 | None


class QemuImgInfo(Document):
    """The output of `qemu-img info`, as far as it matters here."""

    model_config = ConfigDict(extra="ignore")

    format: str
    virtual_size: Annotated[int, Field(alias="virtual-size")]
    encrypted: bool = False
    backing: Annotated[str | None, Field(alias="backing-filename")] = None
    dirty: Annotated[bool, Field(alias="dirty-flag")] = False
    snapshots: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class InspectedDisk:
    """A disk that may be read.

    Attributes:
        path: the file.
        format: as it was named.
        size: bytes that the guest sees.
    """

    path: Path
    format: DiskFormat
    size: int


def inspect_disk(path: Path, named: DiskFormat, *, max_size: int = MAX_VIRTUAL_SIZE) -> InspectedDisk:
    """Check that a disk has the named format and may be read.

    Args:
        path: the disk; a regular file.
        named: its format.
        max_size: the largest virtual size accepted, in bytes.

    Raises:
        NotFound: there is no such file.
        DiskRefused: the disk has another format, or two at once, depends on other files, or is absurd; the message says
            which.
        Unavailable: this machine cannot run a sandbox.
    """
    stored = _regular(path)
    report = _report(path)
    check_report(str(path), named, report, max_size=max_size)
    if named == "raw":
        return InspectedDisk(path, named, stored)
    info = _info(path, named)
    check_info(str(path), report, info)
    _check(path)
    return InspectedDisk(path, named, info.virtual_size)


def check_report(name: str, named: DiskFormat, report: InspectionReport, *, max_size: int) -> None:
    """Raise DiskRefused, with what is wrong and what to do, if the inspector's report does not allow the disk."""
    found = set(report.formats)
    others = sorted(found - (_TABLED if named == "raw" else {named}))
    if len(found) > 1 and others:
        raise DiskRefused(
            f"{name}: matches several formats at once ({', '.join(sorted(found))}), as only a manipulated disk does; "
            "make it again, or convert it to raw yourself"
        )
    if others:
        raise DiskRefused(f"{name}: was named {named}, but its content is {others[0]}; {_advice(others[0], named)}")
    if report.size == 0:
        raise DiskRefused(f"{name}: is empty")
    _check_size(name, report.size, max_size)
    if named == "raw":
        if report.size % SECTOR:
            raise DiskRefused(f"{name}: has {report.size} bytes, not a multiple of {SECTOR}; truncated, or not a disk")
    elif report.qcow2 is None:
        raise DiskRefused(f"{name}: was named qcow2, but has no complete qcow2 header; name its format with --format")
    else:
        _check_size(name, report.qcow2.size, max_size)
        _check_qcow2(name, report.qcow2)
    for format_, seen in report.formats.items():
        if seen.failures:
            raise DiskRefused(f"{name}: refused as {format_}: {'; '.join(seen.failures)}")


def check_info(name: str, report: InspectionReport, info: QemuImgInfo) -> None:
    """Raise DiskRefused if the report of qemu-img differs from the inspector's, or does not allow the disk."""
    assert report.qcow2 is not None  # noqa: S101 - check_report ensures it
    if info.format != "qcow2" or info.virtual_size != report.qcow2.size:
        raise DiskRefused(
            f"{name}: the inspector reads a qcow2 of {report.qcow2.size} bytes, qemu-img a {info.format} of "
            f"{info.virtual_size}; a disk that two programs read differently is not imported"
        )
    if info.backing is not None or info.encrypted or info.dirty or info.snapshots:
        raise DiskRefused(
            f"{name}: qemu-img reports a backing file, encryption, a dirty mark or snapshots; flatten the disk first"
        )


def convert_disk(disk: InspectedDisk, directory: Path, advance: Advance = ignore_progress) -> Path:
    """Write the content of a disk, raw and sparse, to a new file in `directory`; returns its path.

    Args:
        disk: the result of :func:`inspect_disk`.
        directory: an existing directory of the caller; the child can write only there.
        advance: called with the number of bytes just passed.

    Raises:
        DiskRefused: the disk is damaged, or exceeded the limits of the sandbox.
    """
    target = directory / "converted.raw"
    done = 0

    def watch(output: bytes) -> None:
        """Report progress from output such as `(12.50/100%)`."""
        nonlocal done
        for part in output.split(b"(")[1:]:
            number = part.partition(b"/")[0]
            if number.replace(b".", b"", 1).isdigit():
                now = min(disk.size, int(float(number) * disk.size / 100))
                advance(max(0, now - done))
                done = max(done, now)

    seconds = 60 + disk.size // CONVERSION_SPEED
    # The default cache mode is "unsafe", and some file systems refuse O_DIRECT; hence writeback, and an fsync here.
    command = ["qemu-img", "convert", "-p", "-f", disk.format, "-O", "raw", "-t", "writeback", "-S", "16k"]
    result = run_confined(
        [*command, "--", "/disk", f"/out/{target.name}"],
        reads={"/disk": disk.path},
        writes={"/out": directory},
        limits=ResourceLimits(memory=2 << 30, cpu=seconds, wall=seconds * 4, file_size=disk.size),
        watch=watch,
    )
    if result.code:
        raise DiskRefused(f"{disk.path}: cannot be converted: {_reason(result)}")
    if target.stat().st_size != disk.size:
        raise DiskRefused(f"{disk.path}: conversion gave {target.stat().st_size} bytes instead of {disk.size}")
    advance(disk.size - done)
    return target


def _regular(path: Path) -> int:
    """The size of a regular file; NotFound or DiskRefused for anything else."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError) as exc:
        problem = "is a dangling symbolic link" if path.is_symlink() else "does not exist"
        raise NotFound(f"{path}: {problem}; name a disk image") from exc
    except OSError as exc:
        raise DiskRefused(f"{path}: cannot be read: {exc.strerror}") from exc
    if not stat.S_ISREG(status.st_mode):
        kind = "directory" if stat.S_ISDIR(status.st_mode) else "device, pipe or socket"
        raise DiskRefused(f"{path}: is a {kind}, not a regular file; copy the disk into a file first")
    if not os.access(path, os.R_OK):
        raise DiskRefused(f"{path}: is not readable by this user")
    return status.st_size


def _report(path: Path) -> InspectionReport:
    command, reads = python_command(Path(inspector_child.__file__), "/disk")
    result = run_confined(command, reads={**reads, "/disk": path})
    if result.code:
        raise DiskRefused(f"{path}: the format inspector failed: {_reason(result)}")
    return _parse(InspectionReport, result.output, f"the format inspector's report on {path}")


def _info(path: Path, named: DiskFormat) -> QemuImgInfo:
    result = run_confined(["qemu-img", "info", "--output=json", "-f", named, "--", "/disk"], reads={"/disk": path})
    if result.code:
        raise DiskRefused(f"{path}: qemu-img cannot read the disk: {_reason(result)}")
    return _parse(QemuImgInfo, result.output, f"qemu-img's report on {path}")


def _check(path: Path) -> None:
    """Walk all tables of a qcow2, because a truncated or damaged disk reads as zeros."""
    command = ["qemu-img", "check", "--output=json", "-f", "qcow2", "/disk"]
    result = run_confined(command, reads={"/disk": path}, limits=_TABLES)
    if result.code not in (0, _LEAKED):
        raise DiskRefused(
            f"{path}: is damaged or truncated: {_reason(result)}; copy it again, "
            "or repair it with qemu-img check -r all and see what is lost"
        )


def _parse(model: type[D], output: bytes, name: str) -> D:
    """Parse the output of a child strictly: the bytes that it read may have taken it over."""
    try:
        return parse(model, output, name)
    except DocumentError as exc:
        raise DiskRefused(f"{name} is not valid: {exc}") from exc


def _check_size(name: str, size: int, max_size: int) -> None:
    if size > max_size:
        raise DiskRefused(
            f"{name}: has {format_size(size)}, more than the {format_size(max_size)} allowed; see --max-size"
        )


def _check_qcow2(name: str, header: _Qcow2) -> None:
    faults = (
        (header.version not in (2, 3), f"is qcow2 version {header.version}; only 2 and 3 are supported"),
        (header.backing, "has a backing file, which contains part of its content; flatten it with qemu-img convert"),
        (_DATA_FILE in header.incompatible, "has an external data file; flatten it with qemu-img convert"),
        (header.crypt, "is encrypted; an image that cannot be read cannot be endorsed"),
        (
            header.snapshots,
            "has internal snapshots, which would be published too; delete them with qemu-img snapshot -d",
        ),
        (_CORRUPT in header.incompatible, "is marked corrupt; repair it with qemu-img check -r"),
        (_DIRTY in header.incompatible, "is marked dirty (not closed cleanly); repair it with qemu-img check -r"),
        (
            any(bit > _COMPRESSION for bit in header.incompatible),
            f"uses unsupported features (bits {header.incompatible}); convert it with qemu-img convert",
        ),
        (not 9 <= header.cluster_bits <= 21, f"has clusters of 2^{header.cluster_bits} bytes; 2^9 to 2^21 are valid"),
        (header.size == 0, "has a virtual size of 0"),
        (header.size % SECTOR, f"has a virtual size of {header.size} bytes, not a multiple of {SECTOR}"),
    )
    for wrong, reason in faults:
        if wrong:
            raise DiskRefused(f"{name}: {reason}")


def _advice(found: str, named: DiskFormat) -> str:
    if found in (*_TABLED, "qcow2"):
        return f"give --format {'qcow2' if found == 'qcow2' else 'raw'}"
    return f"convert it to {named} with qemu-img first"


def _reason(result: ChildResult) -> str:
    line = result.errors.splitlines()[-1] if result.errors else ""
    return (line[:200] or f"exit code {result.code}").removeprefix("qemu-img: ")
