"""What is this disk really, and may it be read? Foreign formats are opened here and nowhere else, in confinement.

The format is always named by the person who imports; what the content itself claims can only refuse it. Accepted are
`raw`, and `qcow2` that stands on its own: no backing file, no data file, no encryption, no internal snapshots, nothing
unclean and nothing unknown (docs/trust-model.md says which attacks each of these has carried).
"""

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from catalog.disk import inspector_child
from catalog.disk.sandbox import ResourceLimits, python_command, run_confined
from catalog.errors import DiskRefused, NotFound
from signer.documents import D, Document, parse
from signer.errors import DocumentError
from signer.runtime.progress import Advance, ignore_progress
from signer.runtime.terminal import format_size as text_size

DiskFormat = Literal["raw", "qcow2"]

MAX_VIRTUAL_SIZE = 2 << 40
"""Bytes. 2 TiB: no machine image is near it, and a qcow2 of 6 MB may claim a PiB."""

SECTOR = 512

CONVERSION_SPEED = 20 << 20
"""Bytes a second that a conversion reaches on the slowest machine in use; its time limit is reckoned with it."""

_DIRTY, _CORRUPT, _DATA_FILE, _COMPRESSION = range(4)
"""Bits of incompatible features of qcow2 version 3; the inspector knows no others."""

_LEAKED = 3
"""What `qemu-img check` ends with where clusters are lost to nobody's harm."""

_TABLES = ResourceLimits(cpu=120, wall=300)
"""Walking the tables of a 2 TiB qcow2 takes longer than looking at its header."""

_TABLED = {"raw", "gpt"}
"""What the inspector calls a disk that is just sectors; `gpt` is its name for any partition table."""


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
    """What the confined child saw: bytes in the file, formats matched with their failed checks, the qcow2 header."""

    size: int
    formats: dict[str, _Found]
    qcow2: _Qcow2 | None


class QemuImgInfo(Document):
    """What `qemu-img info` says, as far as it decides anything."""

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
    """Find out whether a disk is what it is said to be and may be read.

    Args:
        path: the disk; a regular file.
        named: its format.
        max_size: the largest virtual size accepted, in bytes.

    Raises:
        NotFound: there is no such file.
        DiskRefused: it is another format, or two at once, or depends on other files, or is absurd; says which.
        Unavailable: this machine cannot confine the child that looks.
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
    """Decide on what the inspector saw; DiskRefused says what is wrong and what to do."""
    found = set(report.formats)
    others = sorted(found - (_TABLED if named == "raw" else {named}))
    if len(found) > 1 and others:
        raise DiskRefused(
            f"{name}: is several formats at once ({', '.join(sorted(found))}), which no honest disk is; "
            "make it again, or convert it to raw yourself"
        )
    if others:
        raise DiskRefused(f"{name}: was named {named}, and its content is {others[0]}; {_advice(others[0], named)}")
    if report.size == 0:
        raise DiskRefused(f"{name}: is empty")
    _judge_size(name, report.size, max_size)
    if named == "raw":
        if report.size % SECTOR:
            raise DiskRefused(
                f"{name}: has {report.size} bytes, not a multiple of {SECTOR}; it is truncated or no disk"
            )
    elif report.qcow2 is None:
        raise DiskRefused(f"{name}: was named qcow2, and has no complete qcow2 header; name its format with --format")
    else:
        _judge_size(name, report.qcow2.size, max_size)
        _judge_qcow2(name, report.qcow2)
    for format_, seen in report.formats.items():
        if seen.failures:
            raise DiskRefused(f"{name}: is refused as {format_}: {'; '.join(seen.failures)}")


def check_info(name: str, report: InspectionReport, info: QemuImgInfo) -> None:
    """Decide on what qemu-img says, which must be what the inspector said; DiskRefused where they differ."""
    assert report.qcow2 is not None  # noqa: S101 - judge_report saw to it
    if info.format != "qcow2" or info.virtual_size != report.qcow2.size:
        raise DiskRefused(
            f"{name}: the inspector reads a qcow2 of {report.qcow2.size} bytes, qemu-img a {info.format} of "
            f"{info.virtual_size}; a disk that two readers read differently is not imported"
        )
    if info.backing is not None or info.encrypted or info.dirty or info.snapshots:
        raise DiskRefused(f"{name}: qemu-img reports a backing file, encryption, dirt or snapshots; flatten it first")


def convert_disk(disk: InspectedDisk, directory: Path, advance: Advance = ignore_progress) -> Path:
    """Write the disk's content, raw and sparse, to a new file in `directory`; returns its path.

    Args:
        disk: as :func:`inspect` found it.
        directory: an existing directory of the caller's own; the child may write there and nowhere else.
        advance: called with the number of bytes just passed.

    Raises:
        DiskRefused: the disk is damaged, or took more than its limits.
    """
    target = directory / "converted.raw"
    done = 0

    def watch(output: bytes) -> None:
        """Follow lines such as `(12.50/100%)`."""
        nonlocal done
        for part in output.split(b"(")[1:]:
            number = part.partition(b"/")[0]
            if number.replace(b".", b"", 1).isdigit():
                now = min(disk.size, int(float(number) * disk.size / 100))
                advance(max(0, now - done))
                done = max(done, now)

    seconds = 60 + disk.size // CONVERSION_SPEED
    # Default cache mode would be "unsafe". O_DIRECT is refused by some file systems, so: write back, and fsync here.
    command = ["qemu-img", "convert", "-p", "-f", disk.format, "-O", "raw", "-t", "writeback", "-S", "16k"]
    outcome = run_confined(
        [*command, "--", "/disk", f"/out/{target.name}"],
        reads={"/disk": disk.path},
        writes={"/out": directory},
        limits=ResourceLimits(memory=2 << 30, cpu=seconds, wall=seconds * 4, file_size=disk.size),
        watch=watch,
    )
    if outcome.code:
        raise DiskRefused(f"{disk.path}: cannot be read through: {_why(outcome.complaint, outcome.code)}")
    if target.stat().st_size != disk.size:
        raise DiskRefused(f"{disk.path}: gave {target.stat().st_size} bytes where {disk.size} were announced")
    advance(disk.size - done)
    return target


def _regular(path: Path) -> int:
    """The size of a regular file; NotFound or DiskRefused for anything else."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError) as exc:
        gone = "is a link to nothing" if path.is_symlink() else "does not exist"
        raise NotFound(f"{path}: {gone}; name a disk image") from exc
    except OSError as exc:
        raise DiskRefused(f"{path}: cannot be looked at: {exc.strerror}") from exc
    if not stat.S_ISREG(status.st_mode):
        kind = "directory" if stat.S_ISDIR(status.st_mode) else "device, pipe or socket"
        raise DiskRefused(f"{path}: is a {kind}, not a file; copy the disk into a file first")
    if not os.access(path, os.R_OK):
        raise DiskRefused(f"{path}: may not be read by this user")
    return status.st_size


def _report(path: Path) -> InspectionReport:
    command, reads = python_command(Path(inspector_child.__file__), "/disk")
    outcome = run_confined(command, reads={**reads, "/disk": path})
    if outcome.code:
        raise DiskRefused(f"{path}: the format inspector failed on it: {_why(outcome.complaint, outcome.code)}")
    return _believe(InspectionReport, outcome.output, f"the format inspector's report on {path}")


def _info(path: Path, named: DiskFormat) -> QemuImgInfo:
    outcome = run_confined(["qemu-img", "info", "--output=json", "-f", named, "--", "/disk"], reads={"/disk": path})
    if outcome.code:
        raise DiskRefused(f"{path}: qemu-img cannot read it: {_why(outcome.complaint, outcome.code)}")
    return _believe(QemuImgInfo, outcome.output, f"qemu-img's report on {path}")


def _check(path: Path) -> None:
    """Have all of qcow2's tables walked: a truncated or damaged disk reads as zeros otherwise."""
    outcome = run_confined(
        ["qemu-img", "check", "--output=json", "-f", "qcow2", "/disk"], reads={"/disk": path}, limits=_TABLES
    )
    if outcome.code not in (0, _LEAKED):
        raise DiskRefused(
            f"{path}: is damaged or truncated: {_why(outcome.complaint, outcome.code)}; copy it again, "
            "or repair it with qemu-img check -r all and look what is lost"
        )


def _believe(model: type[D], output: bytes, what: str) -> D:
    """Read what a child printed, strictly: the bytes that it read may have taken it over."""
    try:
        return parse(model, output, what)
    except DocumentError as exc:
        raise DiskRefused(f"{what} makes no sense: {exc}") from exc


def _judge_size(name: str, size: int, max_size: int) -> None:
    if size > max_size:
        raise DiskRefused(
            f"{name}: claims {text_size(size)}, more than the {text_size(max_size)} allowed; see --max-size"
        )


def _judge_qcow2(name: str, header: _Qcow2) -> None:
    faults = (
        (header.version not in (2, 3), f"is qcow2 version {header.version}; 2 and 3 are read"),
        (header.backing, "has a backing file: its content lies in another file; flatten it with qemu-img convert"),
        (
            _DATA_FILE in header.incompatible,
            "keeps its content in an external data file; flatten it with qemu-img convert",
        ),
        (header.crypt, "is encrypted; an image that nobody can read cannot be endorsed"),
        (
            header.snapshots,
            "has internal snapshots, which would be published with it; delete them with qemu-img snapshot -d",
        ),
        (_CORRUPT in header.incompatible, "is marked corrupt; repair it with qemu-img check -r"),
        (_DIRTY in header.incompatible, "is marked dirty: it was not closed cleanly; repair it with qemu-img check -r"),
        (
            any(bit > _COMPRESSION for bit in header.incompatible),
            f"uses features that are not read here (bits {header.incompatible}); convert it with qemu-img convert",
        ),
        (not 9 <= header.cluster_bits <= 21, f"has clusters of 2^{header.cluster_bits} bytes; 2^9 to 2^21 are valid"),
        (header.size == 0, "has a virtual size of 0"),
        (header.size % SECTOR, f"has a virtual size of {header.size} bytes, not a multiple of {SECTOR}"),
    )
    for wrong, reason in faults:
        if wrong:
            raise DiskRefused(f"{name}: {reason}")


def _advice(found: str, named: DiskFormat) -> str:
    if found in ("raw", "gpt"):
        return "say --format raw"
    if found == "qcow2":
        return "say --format qcow2"
    return f"convert it to {named} with qemu-img first"


def _why(complaint: str, code: int) -> str:
    line = complaint.splitlines()[-1] if complaint else ""
    return (line[:200] or f"it ended with {code}").removeprefix("qemu-img: ")
