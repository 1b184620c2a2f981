"""The audit log: one line per action or decision, chained by hashes so that a changed or missing line is noticed.

A line is canonical JSON (RFC 8785) and a line feed; its `prev` is the SHA-256 of the whole line before it, so that
`tail -n 1 LOG | sha256sum` is the head of the chain. Each line is on the disk before the recorded action continues. The
chain alone does not show that its end was cut off: a head must be kept elsewhere, as receipts do. docs/formats.md has the
form.
"""

import hashlib
import os
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Self

from pydantic import Field

from signer.documents import Document, canonical, parse_canonical
from signer.errors import AuditBroken, AuditUnwritable, DocumentError, SignerError
from signer.runtime import files
from signer.statements.endorsement import Instant

ZERO_HASH = "0" * 64
"""The `prev` of the first line."""

MAX_LINE = 2 << 20
"""Bytes. A decision with some hundred rules has 50 KB; no entry comes near the limit."""

MAX_FAULTS = 100
"""Faults that a check reports one by one; a log with more has been replaced, not edited."""

MARK_EVERY = 256
"""Entries between two positions kept in memory, so that reading a page from the middle does not start at the beginning."""

Sha256Hex = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
EntryKind = Annotated[str, Field(pattern=r"^[a-z]([a-z-]{0,30}[a-z])?$")]


class AuditLogEntry(Document):
    """One line.

    Attributes:
        seq: the number of the line; the first is 1.
        at: when it was written.
        kind: the kind of action, such as `publish`, `endorse`, `revoke`, `decision`, `deployment`, `end`.
        prev: SHA-256 of the previous line, with its line feed.
        data: the facts, by kind.
    """

    seq: Annotated[int, Field(ge=1)]
    at: Instant
    kind: EntryKind
    prev: Sha256Hex
    data: dict[str, Any]


class AuditHead(Document):
    """The end of a chain: the number of entries and the SHA-256 of the last line. A head kept elsewhere shows truncation."""

    seq: Annotated[int, Field(ge=0)]
    sha256: Sha256Hex

    def __str__(self) -> str:
        return f"{self.seq}:{self.sha256}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `SEQ:SHA256` as `str` writes it; ValueError otherwise."""
        seq, _, digest = text.partition(":")
        if not (seq.isascii() and seq.isdigit() and len(seq) < 16):
            raise ValueError(
                f"{text[:80]!r} is not a valid head of an audit log; write NUMBER:SHA256 as in `audit show`"
            )
        return cls(seq=int(seq), sha256=digest)


@dataclass(frozen=True)
class AuditHeadPin:
    """A head that was kept elsewhere; `where` says where, for messages."""

    head: AuditHead
    where: str


@dataclass
class AuditReport:
    """The result of checking a whole log: sentences in `faults`; `torn` bytes after the last line feed are not a fault."""

    entries: int = 0
    head: AuditHead | None = None
    torn: int = 0
    repairs: int = 0
    faults: list[str] = field(default_factory=list)

    @property
    def intact(self) -> bool:
        """Whether no line was edited, dropped or reordered, nor (as far as the pins show) the end cut off."""
        return not self.faults


class AuditLog:
    """An open log. Safe to use from several threads; several processes may have the same one open.

    Args:
        path: the file, made if absent, readable by its owner only.
        now: the time of opening; it dates the entry that replaces a line torn by a crash.

    Raises:
        AuditBroken: the last line is not an entry, or has the wrong number.
        AuditUnwritable: the log cannot be opened or written.
    """

    def __init__(self, path: Path, now: datetime) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._seq, self._size, self._last = 0, 0, ZERO_HASH
        self._marks: list[int] = []
        self._failed = ""
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            files.sync_path(path.parent)
        except OSError as exc:
            raise AuditUnwritable(f"{path}: the audit log cannot be opened: {exc.strerror}") from exc
        try:
            with self._exclusive():
                self._catch_up(now)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1

    @property
    def head(self) -> AuditHead:
        """The end of the chain, as far as this process knows."""
        return AuditHead(seq=self._seq, sha256=self._last)

    def append(self, kind: str, data: Mapping[str, Any], now: datetime) -> AuditHead:
        """Write one entry; it is on the disk when this returns.

        Args:
            kind: the kind of action.
            data: JSON values; numbers are integers.
            now: the time of the entry.

        Raises:
            AuditUnwritable: the entry was not written; the action must not be carried out.
        """
        with self._exclusive():
            self._catch_up(now)
            return self._write(kind, data, now)

    def entries(self, after: int, limit: int, kinds: Collection[str] = ()) -> list[AuditLogEntry]:
        """Read up to `limit` entries with numbers above `after`, of these kinds (all if none is given); oldest first."""
        found: list[AuditLogEntry] = []
        with self.path.open("rb") as file:
            passed = min(after // MARK_EVERY, len(self._marks))
            file.seek(self._marks[passed - 1] if passed else 0)
            for number, line in enumerate(_lines(file), passed * MARK_EVERY + 1):
                if not line.endswith(b"\n") or len(found) == limit:
                    break
                if number > after:
                    entry = read_entry(line, f"{self.path}: line {number}")
                    if not kinds or entry.kind in kinds:
                        found.append(entry)
        return found

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Make this thread the only writer, first within this process, then among all processes."""
        with self._lock:
            try:
                files.lock_open(self._descriptor, wait=True)
            except (OSError, ValueError) as exc:  # a closed descriptor is -1
                raise AuditUnwritable(f"{self.path}: the audit log was closed") from exc
            try:
                yield
            finally:
                files.unlock_open(self._descriptor)

    def _catch_up(self, now: datetime) -> None:
        """Read the lines of other processes; a line that a dead process left half written is removed, and that recorded."""
        if self._failed:
            raise AuditUnwritable(f"{self.path}: {self._failed}; repair the disk, then restart the service")
        size = os.fstat(self._descriptor).st_size
        if size < self._size:
            raise AuditBroken(f"{self.path}: truncated while it was open: {size} bytes are left of {self._size}")
        if size == self._size:
            return
        last, torn = b"", b""
        with self.path.open("rb") as file:
            file.seek(self._size)
            for line in _lines(file):
                if len(line) > MAX_LINE:
                    raise AuditBroken(f"{self.path}: line {self._seq + 1} is longer than any entry")
                if not line.endswith(b"\n"):
                    torn = line
                    break
                last = line
                self._advance(line)
        if last:
            entry = read_entry(last, f"{self.path}: line {self._seq}", AuditBroken)
            if entry.seq != self._seq:
                raise AuditBroken(
                    f"{self.path}: line {self._seq} has the entry number {entry.seq}; run `partita audit verify`"
                )
        if torn:
            dropped = os.fstat(self._descriptor).st_size - self._size
            os.ftruncate(self._descriptor, self._size)
            self._write("repaired", {"bytes": dropped, "sha256": hashlib.sha256(torn).hexdigest()}, now)

    def _advance(self, line: bytes) -> None:
        self._seq += 1
        self._size += len(line)
        self._last = hashlib.sha256(line).hexdigest()
        if self._seq % MARK_EVERY == 0:
            self._marks.append(self._size)

    def _write(self, kind: str, data: Mapping[str, Any], now: datetime) -> AuditHead:
        entry = AuditLogEntry(
            seq=self._seq + 1, at=now.replace(microsecond=0), kind=kind, prev=self._last, data=dict(data)
        )
        line = canonical(entry) + b"\n"
        if len(line) > MAX_LINE:
            raise AuditUnwritable(f"{self.path}: an entry of {len(line)} bytes is more than the {MAX_LINE} allowed")
        read_entry(line, "audit entry")  # an entry that readers would refuse must not enter the chain
        try:
            left = line
            while left:
                left = left[os.write(self._descriptor, left) :]
        except OSError as exc:
            os.ftruncate(self._descriptor, self._size)
            raise AuditUnwritable(f"{self.path}: the audit log cannot be written: {exc.strerror}") from exc
        try:
            os.fsync(self._descriptor)
        except OSError as exc:
            # After a failed sync the contents of the disk are unknown, and a second sync may falsely succeed: stop here.
            self._failed = f"a sync of the audit log failed: {exc.strerror}"
            raise AuditUnwritable(f"{self.path}: {self._failed}") from exc
        self._advance(line)
        return self.head


def read_entry(line: bytes, what: str, error: type[SignerError] | None = None) -> AuditLogEntry:
    """Read one line, its line feed included, as an entry; DocumentError, or the given error, if it is malformed."""
    try:
        return parse_canonical(AuditLogEntry, line.removesuffix(b"\n"), what, limit=MAX_LINE)
    except DocumentError as exc:
        if error is None:
            raise
        raise error(f"{exc}; run `partita audit verify`") from exc


def read_log(path: Path) -> Iterator[AuditLogEntry]:
    """Yield all whole entries of a log without checking the chain; DocumentError at the first malformed line."""
    with _opened(path) as file:
        for number, line in enumerate(_lines(file), 1):
            if line.endswith(b"\n"):
                yield read_entry(line, f"{path}: line {number}")


def verify_log(path: Path, pins: Sequence[AuditHeadPin] = ()) -> AuditReport:
    """Check that every line of a log is well-formed, in its place and unchanged, and that it contains every pinned head.

    Args:
        path: the log. It may be in use.
        pins: heads that were kept elsewhere; without one, a truncated end is not noticed.

    Raises:
        AuditUnwritable: the log cannot be read.
    """
    report, last = AuditReport(), ZERO_HASH
    wanted: dict[int, list[AuditHeadPin]] = {}
    for one in pins:
        if one.head.seq:  # every log contains the head of an empty one
            wanted.setdefault(one.head.seq, []).append(one)
    with _opened(path) as file:
        for line in _lines(file):
            if len(line) > MAX_LINE:
                report.faults.append(f"line {report.entries + 1}: longer than any entry; the rest was not read")
                break
            if not line.endswith(b"\n"):
                report.torn = len(line)
                break
            report.entries += 1
            faults = _check_line(line, report.entries, last)
            report.repairs += b'"kind":"repaired"' in line
            last = hashlib.sha256(line).hexdigest()
            faults += [
                f"line {report.entries}: differs from the entry that {one.where} has recorded"
                for one in wanted.pop(report.entries, ())
                if one.head.sha256 != last
            ]
            report.faults += faults[: max(0, MAX_FAULTS - len(report.faults))]
    report.head = AuditHead(seq=report.entries, sha256=last)
    for seq in sorted(seq for seq in wanted if seq > report.entries):
        report.faults.append(
            f"the log is truncated: it has {report.entries} entries, but {wanted[seq][0].where} has recorded number {seq}"
        )
    return report


def _check_line(line: bytes, number: int, last: str) -> list[str]:
    """Return the faults of a line, given its number and the hash of the previous line."""
    try:
        entry = read_entry(line, f"line {number}")
    except DocumentError as exc:
        return [str(exc)]
    faults = []
    if entry.prev != last:
        before = f"line {number - 1} was changed or replaced" if number > 1 else "it is not the first entry of the log"
        faults.append(f"line {number}: does not continue the chain: {before}")
    if entry.seq != number:
        faults.append(
            f"line {number}: has the entry number {entry.seq}: earlier entries were dropped, added or reordered"
        )
    return faults


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield lines with their line feeds; an overlong line comes in pieces, so that a broken file does not fill memory."""
    while line := file.readline(MAX_LINE + 1):
        yield line


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as exc:
        raise AuditUnwritable(f"{path}: the audit log cannot be read: {exc.strerror}") from exc
