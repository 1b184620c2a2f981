"""The site's records of snapshots that it made or read back block by block itself. Tags can be set by anyone.

    SNAPSHOTS/<content key>.json       the record
    SNAPSHOTS/<content key>.digests    SHA-256 of each non-zero block: number (4 bytes), digest (32 bytes), ...
    SNAPSHOTS/<content key>.upload     the journal of an upload that is under way

One directory for each account and region. The record is written last and names the digests by their SHA-256, so a record
that can be read is complete. The records can be restored: without them, snapshots with our tags are read back once.
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
    """A verified snapshot.

    Attributes:
        snapshot_id: AWS's name of it.
        layout: of the disk; its key is the content key.
        family: its disk of an image, VO/NAME/DISK; a new version is compared with older ones of the same family.
        blocks: the number of non-zero blocks.
        checksum: hex SHA-256 of the file of digests.
        noted: when the record was made.
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
        """Args: a directory for them alone, which need not exist."""
        self.directory = directory

    def journal(self, content: str) -> Path:
        """The path of the journal of a content's upload."""
        return self.directory / f"{content}.upload"

    def get(self, content: str) -> SnapshotRecord | None:
        """The record of a content; None if it is missing or invalid."""
        path = self.directory / f"{content}.json"
        try:
            return parse(SnapshotRecord, path.read_bytes(), str(path), limit=MAX_RECORD)
        except (FileNotFoundError, DocumentError):
            return None
        except OSError as exc:
            raise _failed(path, exc) from exc

    def records(self) -> Iterator[SnapshotRecord]:
        """All valid records, ordered by content key."""
        try:
            names = sorted(path.stem for path in self.directory.glob("*.json"))
        except OSError as exc:
            raise _failed(self.directory, exc) from exc
        for name in names:
            if (record := self.get(name)) is not None:
                yield record

    def put(self, record: SnapshotRecord, digests: Digests) -> None:
        """Store a record. `record.checksum` is the SHA-256 of `pack_digests(digests)`."""
        path = self.directory / f"{record.content}.json"
        try:
            self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            files.write(path.with_suffix(".digests"), pack_digests(digests))
            files.write(path, canonical(record))
        except OSError as exc:
            raise _failed(path, exc) from exc

    def forget(self, content: str) -> None:
        """Remove the record of a content: its snapshot no longer exists or must not be used."""
        path = self.directory / f"{content}.json"
        try:
            path.unlink(missing_ok=True)
            path.with_suffix(".digests").unlink(missing_ok=True)
        except OSError as exc:
            raise _failed(path, exc) from exc

    def parent(self, record: SnapshotRecord) -> ParentSnapshot | None:
        """A record with its digests; None if they are missing or do not match its checksum."""
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
    """Digests in their format in a file."""
    return b"".join(_ENTRY.pack(index, digests[index]) for index in sorted(digests))


def _failed(path: Path, exc: OSError) -> Ec2RecordsUnusable:
    return Ec2RecordsUnusable(f"{path}: the snapshot records cannot be read or written: {exc.strerror}")
