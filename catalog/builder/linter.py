"""The linter, which warns endorsers about keys, passwords and credentials inside an image.

A warning does not refuse the image, which may need a published key. Filesystems are read without mounting, by a child in
the sandbox (`linter_child` has the rules); a filesystem that cannot be read is reported as unread.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pydantic import ValidationError

from catalog.builder import linter_child
from catalog.disk.sandbox import ResourceLimits, python_command, run_confined
from catalog.errors import DiskRefused
from catalog.image.bundle import Bundle
from catalog.image.manifest import OperatingSystem, PlacedPartition
from signer.documents import Document, parse
from signer.errors import DocumentError
from signer.runtime import files

SCRATCH = 512 << 20
"""Bytes of memory for the files of a filesystem; a larger one is reported as partly unread."""

UNREADABLE = "unread"
"""The rule of a finding about a filesystem that could not be read."""

_MAGIC = (
    ("ext", 1080, b"\x53\xef"),
    ("erofs", 1024, b"\xe2\xe1\xf5\xe0"),
    ("xfs", 0, b"XFSB"),
    ("btrfs", 65600, b"_BHRfS_M"),
    ("squashfs", 0, b"hsqs"),
    ("an encrypted volume", 0, b"LUKS\xba\xbe"),
    ("an LVM volume", 536, b"LVM2 001"),
)


class Finding(Document):
    """A finding: the rule, the partition (empty until it is known), the path in it, and the reason."""

    rule: str
    where: str = ""
    path: str = ""
    why: str

    def __str__(self) -> str:
        return f"{self.where}: {self.path}: {self.why}" if self.path else f"{self.where}: {self.why}"


class _ChildReport(Document):
    findings: tuple[Finding, ...]
    release: dict[str, str]
    error: str


@dataclass(frozen=True)
class LintReport:
    """The findings, and the operating system according to the image's os-release."""

    findings: tuple[Finding, ...] = ()
    os: OperatingSystem | None = None

    @classmethod
    def joined(cls, reports: Sequence[Self]) -> Self:
        """Join reports; the first operating system counts."""
        systems = [report.os for report in reports if report.os]
        return cls(tuple(one for report in reports for one in report.findings), systems[0] if systems else None)


def lint_bundle(bundle: Bundle) -> LintReport:
    """Lint all partitions of an image; NotFound if a content is missing."""
    reports = []
    for number, disk in enumerate(bundle.manifest.disks):
        for part in disk.partitions:
            if part.content is not None:
                position = str(part.number) if isinstance(part, PlacedPartition) else f"of disk {number}"
                where = f"partition {position} ({part.label})" if part.label else f"partition {position}"
                reports.append(lint_file(bundle.content(part.content), where))
    return LintReport.joined(reports)


def lint_file(path: Path, where: str) -> LintReport:
    """Lint a partition in a file; `where` names it in findings."""
    filesystem = detect_filesystem(path)
    if filesystem not in ("ext", "erofs"):
        unread = f"is {filesystem}, which is not read; check yourself that it contains no keys or passwords"
        return LintReport((Finding(rule=UNREADABLE, where=where, why=unread),) if filesystem else ())
    command, reads = python_command(Path(linter_child.__file__), filesystem, "/disk")
    try:
        limits = ResourceLimits(scratch=SCRATCH, file_size=SCRATCH)
        result = run_confined(command, reads={**reads, "/disk": path}, limits=limits)
        report = parse(_ChildReport, result.output, f"the linter's report on {where}")
    except (DiskRefused, DocumentError) as exc:
        return LintReport((Finding(rule=UNREADABLE, where=where, why=f"could not be read: {exc}"),))
    findings = [found.model_copy(update={"where": where}) for found in report.findings]
    if report.error:
        findings.append(Finding(rule=UNREADABLE, where=where, why=f"could be read only in part: {report.error}"))
    return LintReport(tuple(findings), _system(report.release))


def lint_tree(tree: Path, where: str) -> LintReport:
    """Lint a directory of trusted files."""
    findings, release = linter_child.scan_tree(tree)
    return LintReport(tuple(Finding(where=where, **found) for found in findings), _system(release))


def detect_filesystem(path: Path) -> str | None:
    """The filesystem or volume type of a partition by its magic number; None if it is unknown."""
    with files.opened(path) as descriptor:
        return next((name for name, at, magic in _MAGIC if os.pread(descriptor, len(magic), at) == magic), None)


def _system(release: dict[str, str]) -> OperatingSystem | None:
    try:
        return OperatingSystem(id=release["ID"], version=release.get("VERSION_ID", "")) if "ID" in release else None
    except ValidationError:  # values that a manifest may not contain
        return None
