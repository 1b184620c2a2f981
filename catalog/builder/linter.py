"""Warnings about what an endorser should not vouch for: keys, passwords and credentials inside an image.

A warning refuses nothing by itself: an image may need a published key. Filesystems are read without mounting, in a
confined child (`lint_child` has the rules); what cannot be read is said to be unread, never passed over.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pydantic import ValidationError

from catalog.builder import linter_child as lint_child
from catalog.disk.sandbox import ResourceLimits, python_command, run_confined
from catalog.errors import DiskRefused
from catalog.image.bundle import Bundle
from catalog.image.manifest import BareDisk, OperatingSystem, PlacedPartition
from signer.documents import Document, parse
from signer.errors import DocumentError

SCRATCH = 512 << 20
"""Bytes of memory that a filesystem is taken apart into; what is larger is reported as looked at in part."""

UNREADABLE = "unread"
"""The rule of a finding that says what could not be looked at."""

_MAGIC = (
    ("ext", 1080, b"\x53\xef"),
    ("erofs", 1024, b"\xe2\xe1\xf5\xe0"),
    ("xfs", 0, b"XFSB"),
    ("btrfs", 65600, b"_BHRfS_M"),
    ("squashfs", 0, b"hsqs"),
    ("an encrypted volume", 0, b"LUKS\xba\xbe"),
    ("an LVM volume", 536, b"LVM2 001"),
)


@dataclass(frozen=True)
class Finding:
    """One thing that should not be there: the rule, the partition, the path in it, and why."""

    rule: str
    where: str
    path: str
    why: str

    def __str__(self) -> str:
        return f"{self.where}: {self.path}: {self.why}" if self.path else f"{self.where}: {self.why}"


@dataclass(frozen=True)
class LintReport:
    """What was found, and which operating system the image says it is."""

    findings: tuple[Finding, ...] = ()
    os: OperatingSystem | None = None

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Several as one; the first operating system counts."""
        systems = [part.os for part in parts if part.os]
        return cls(tuple(finding for part in parts for finding in part.findings), systems[0] if systems else None)


class _Found(Document):
    rule: str
    path: str
    why: str


class _Answer(Document):
    findings: tuple[_Found, ...]
    release: dict[str, str]
    trouble: str


def lint_bundle(bundle: Bundle) -> LintReport:
    """Look through all partitions of an image. NotFound where content is missing."""
    parts = []
    for number, disk in enumerate(bundle.manifest.disks):
        for part in (disk.partition,) if isinstance(disk, BareDisk) else disk.partitions:
            if part.content is not None:
                place = str(part.number) if isinstance(part, PlacedPartition) else f"of disk {number}"
                where = f"partition {place} ({part.label})" if part.label else f"partition {place}"
                parts.append(lint_file(bundle.content(part.content), where))
    return LintReport.joined(parts)


def lint_file(path: Path, where: str) -> LintReport:
    """Look through a partition that lies in a file; `where` is what to call it."""
    filesystem = detect_filesystem(path)
    if filesystem not in ("ext", "erofs"):
        unread = f"is {filesystem}, which is not looked into; see to it yourself that it holds no keys or passwords"
        return LintReport((Finding(UNREADABLE, where, "", unread),) if filesystem else ())
    command, reads = python_command(Path(lint_child.__file__), filesystem, "/disk")
    try:
        outcome = run_confined(
            command, reads={**reads, "/disk": path}, limits=ResourceLimits(scratch=SCRATCH, file_size=SCRATCH)
        )
        answer = parse(_Answer, outcome.output, f"the linter's report on {where}")
    except (DiskRefused, DocumentError) as exc:
        return LintReport((Finding(UNREADABLE, where, "", f"could not be looked into: {exc}"),))
    findings = [Finding(found.rule, where, found.path, found.why) for found in answer.findings]
    if answer.trouble:
        findings.append(Finding(UNREADABLE, where, "", f"could be looked into in part only: {answer.trouble}"))
    return LintReport(tuple(findings), _system(answer.release))


def lint_tree(tree: Path, where: str) -> LintReport:
    """Look through a directory of our own."""
    findings, release = lint_child.scan_tree(tree)
    return LintReport(tuple(Finding(where=where, **found) for found in findings), _system(release))


def detect_filesystem(path: Path) -> str | None:
    """What a partition holds, by its magic number; None for what holds no files that we know of."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return next((name for name, at, magic in _MAGIC if os.pread(descriptor, len(magic), at) == magic), None)
    finally:
        os.close(descriptor)


def _system(release: dict[str, str]) -> OperatingSystem | None:
    try:
        return OperatingSystem(id=release["ID"], version=release.get("VERSION_ID", "")) if "ID" in release else None
    except ValidationError:  # an os-release that no manifest can repeat
        return None
