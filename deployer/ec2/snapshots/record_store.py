"""What this site knows of its snapshots, because it made or read every block of them itself. Tags can be set by anyone.

    SNAPSHOTS/<content key>.json       the record
    SNAPSHOTS/<content key>.digests    SHA-256 of each block that is not zero: number (4 bytes), digest (32 bytes), ...
    SNAPSHOTS/<content key>.upload     the journal of an upload that is under way

One directory for each account and region. The record is written last and names the digests by their SHA-256, so a record
that can be read is whole. All of it can be made again: without it, snapshots that bear our tags are read back once.
"""

import hashlib
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import Field

from deployer.ec2.errors import Ec2RecordsUnusable
from deployer.ec2.snapshots.blocks import Digests, Layout, ParentSnapshot
from signer.documents import Document, canonical, parse
from signer.errors import DocumentError
from signer.runtime import files
from signer.statements.endorsement import Instant

MAX_RECORD = 1 << 20
"""Bytes: a disk of 128 partitions and 256 gaps takes a tenth of it."""

_ENTRY = struct.Struct(">I32s")


class SnapshotRecord(Document):
    """A snapshot that is what it should be.

    Attributes:
        snapshot_id: AWS's name of it.
        layout: of the disk; its key is the content key.
        family: what kind of image it came from, VO/NAME; a new version of one is compared with the old.
        blocks: how many are not zero.
        checksum: hex SHA-256 of the file of digests.
        noted: when.
    """

    snapshot_id: Annotated[str, Field(pattern=r"^snap-[0-9a-f]{8,40}$")]
    layout: Layout
    family: str = ""
    blocks: Annotated[int, Field(ge=0)]
    checksum: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    noted: Instant

    @property
    def content(self) -> str:
        """The content key."""
        return self.layout.key


class SnapshotRecords:
    """The records of one account in one region; for any number of threads and processes."""

    def __init__(self, directory: Path) -> None:
        """Args: its own directory, which need not be there."""
        self.directory = directory

    def journal(self, content: str) -> Path:
        """Where the upload of a content has its journal."""
        return self.directory / f"{content}.upload"

    def get(self, content: str) -> SnapshotRecord | None:
        """The record of a content; None if there is none, or none that can be read."""
        path = self.directory / f"{content}.json"
        try:
            return parse(SnapshotRecord, path.read_bytes(), str(path), limit=MAX_RECORD)
        except (FileNotFoundError, DocumentError):
            return None
        except OSError as exc:
            raise _failed(path, exc) from exc

    def records(self) -> Iterator[SnapshotRecord]:
        """All of them, in no order."""
        try:
            names = sorted(path.stem for path in self.directory.glob("*.json"))
        except OSError as exc:
            raise _failed(self.directory, exc) from exc
        for name in names:
            if (record := self.get(name)) is not None:
                yield record

    def put(self, record: SnapshotRecord, digests: Digests) -> None:
        """Note a snapshot. `record.checksum` is that of `packed(digests)`."""
        path = self.directory / f"{record.content}.json"
        try:
            self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            files.write(path.with_suffix(".digests"), pack_digests(digests))
            files.write(path, canonical(record))
        except OSError as exc:
            raise _failed(path, exc) from exc

    def forget(self, content: str) -> None:
        """The snapshot is gone, or not to be used."""
        path = self.directory / f"{content}.json"
        try:
            path.unlink(missing_ok=True)
            path.with_suffix(".digests").unlink(missing_ok=True)
        except OSError as exc:
            raise _failed(path, exc) from exc

    def parent(self, record: SnapshotRecord) -> ParentSnapshot | None:
        """A record with its digests; None where they are not the record's."""
        path = self.directory / f"{record.content}.digests"
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise _failed(path, exc) from exc
        if hashlib.sha256(data).hexdigest() != record.checksum:
            return None
        return ParentSnapshot(record.snapshot_id, record.layout, dict(_ENTRY.iter_unpack(data)))


def pack_digests(digests: Digests) -> bytes:
    """Digests as they lie in a file."""
    return b"".join(_ENTRY.pack(index, digests[index]) for index in sorted(digests))


def _failed(path: Path, exc: OSError) -> Ec2RecordsUnusable:
    return Ec2RecordsUnusable(f"{path}: the snapshot records cannot be written: {exc.strerror}")
