"""The snapshot of a disk: found by its content, or made, once for all sites of an account.

A snapshot is used if this site made it, or has read all of it back and found it right; tags alone prove nothing. If two sites
upload one content at once, each finds the other's snapshot when its own blocks are sent: the one completed first is kept, and
the site that completes later deletes its own.
"""

import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from hashlib import sha256
from typing import Any

from deployer.ec2.aws.client import AwsClient
from deployer.ec2.errors import AwsFailed, AwsMissing, SnapshotGone
from deployer.ec2.snapshots.blocks import Digests, Layout, ParentSnapshot, shared_bytes
from deployer.ec2.snapshots.buffer_pool import BufferPool
from deployer.ec2.snapshots.disk_reader import OpenDisk, block_digests
from deployer.ec2.snapshots.reader import snapshot_matches
from deployer.ec2.snapshots.record_store import SnapshotRecord, SnapshotRecords, pack_digests
from deployer.ec2.snapshots.upload_journal import UploadJournal
from deployer.ec2.snapshots.uploader import WORKERS, SnapshotUploader, client_token
from signer.runtime.clock import utc_now
from signer.runtime.progress import Advance, ignore_progress

CONTENT_TAG = "partita:content"
"""The tag with the content key."""

STARTS = 3
"""Attempts of an upload whose snapshots AWS cancels."""

CANDIDATES = 4
"""Snapshots with our tag that are read back before this site makes one: each costs a download of the disk."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Snapshot:
    """A snapshot that may be used, and the work that it took.

    Attributes:
        snapshot_id: AWS's name of it.
        content: the content key of its disk.
        gib: the size of its volume.
        checksum: hex SHA-256 over its blocks' digests, as in the records.
        sent: blocks that were sent for it now; 0 if it existed.
        resumed: blocks that an interrupted attempt had sent.
        parent: the snapshot that it builds on, if it was made now, or empty.
        read_back: whether another site made it, and this one has read it back.
    """

    snapshot_id: str
    content: str
    gib: int
    checksum: str
    sent: int = 0
    resumed: int = 0
    parent: str = ""
    read_back: bool = False


class Snapshots:
    """The snapshots of one account in one region."""

    def __init__(
        self,
        aws: AwsClient,
        ledger: SnapshotRecords,
        *,
        workers: int = WORKERS,
        buffers: BufferPool | None = None,
        now: Callable[[], datetime] = utc_now,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
        nonce: Callable[[], bytes] = lambda: os.urandom(16),
    ) -> None:
        """Args: the account and its records; requests under way, and a pool of their buffers; the present in UTC, a monotonic
        clock and a function that sleeps, both in seconds, and a source of unique bytes."""
        self._aws, self._ledger, self._workers = aws, ledger, workers
        self._now, self._nonce = now, nonce
        self._buffers = buffers or BufferPool()
        self._uploading = SnapshotUploader(aws, workers=workers, buffers=self._buffers, clock=clock, sleep=sleep)

    def ensure(
        self,
        disk: OpenDisk,
        *,
        family: str = "",
        tags: Mapping[str, str] | None = None,
        description: str = "",
        advance: Advance = ignore_progress,
    ) -> Snapshot:
        """A snapshot of a disk: an existing one, or a new one.

        Args:
            disk: open and verified.
            family: VO/NAME/DISK; a new snapshot may build on an older one of the same family.
            tags: for a new snapshot, beside our own.
            description: for a new snapshot.
            advance: called with the number of processed bytes, from any thread.

        Raises:
            SnapshotFailed, Ec2RecordsUnusable, AwsFailed: the next call resumes the upload.
        """
        content = disk.layout.key
        place = self._ledger.journal(content)
        # A process that died between the record and the journal's end has left the journal of a completed upload.
        if (known := self.present(content)) is not None and not place.exists():
            return known
        with UploadJournal(place) as journal:
            if (
                known := self.present(content)
            ) is not None:  # another process made it while this one waited for the journal
                journal.finish()
                return known
            refused: set[str] = set()
            if (theirs := self._theirs(disk, family, refused, journal.snapshot_id)) is not None:
                self._undo(journal)
                return theirs
            return self._make(disk, journal, family, dict(tags or {}), description, refused, advance)

    def present(self, content: str) -> Snapshot | None:
        """The snapshot of a content, if this site knows it to be right and AWS still has it; nothing is made."""
        record = self._ledger.get(content)
        if record is None:
            return None
        if self._uploading.state(record.snapshot_id) == "completed":
            return _snapshot(record)
        self._ledger.forget(content)
        return None

    def _theirs(self, disk: OpenDisk, family: str, refused: set[str], mine: str) -> Snapshot | None:
        """Another site's completed snapshot of this content, read back and found right; it is recorded then.

        Args:
            refused: IDs of wrong snapshots; more are added.
            mine: our snapshot, if there is one: once it is completed, only those completed before it count.
        """
        found = [one for one in self._completed(disk.layout, mine) if one not in refused]
        if not found:
            return None
        expected = block_digests(disk)
        for snapshot_id in found[:CANDIDATES]:
            if snapshot_matches(self._aws, snapshot_id, expected, workers=self._workers, buffers=self._buffers):
                return replace(self._note(snapshot_id, disk.layout, family, expected), read_back=True)
            refused.add(snapshot_id)
            _log.warning(
                "snapshot %s has the tag of content %s but other blocks; ignoring it", snapshot_id, disk.layout.key
            )
        return None

    def _completed(self, layout: Layout, mine: str) -> list[str]:
        """IDs of completed snapshots with the tag and the size of a content, in the order of completion, up to our own."""
        filters = [{"Name": f"tag:{CONTENT_TAG}", "Values": [layout.key]}, {"Name": "status", "Values": ["completed"]}]
        found = list(self._aws.ec2_list("describe_snapshots", "Snapshots", OwnerIds=["self"], Filters=filters))
        right = [one for one in found if one["State"] == "completed" and one["VolumeSize"] == layout.gib]
        names = [str(one["SnapshotId"]) for one in sorted(right, key=_completed_when)]
        if mine in names:
            return names[: names.index(mine)]
        # Completed and not listed yet: two snapshots are better than both sites deleting theirs for the other's.
        return [] if mine and self._uploading.state(mine) == "completed" else names

    def _make(
        self,
        disk: OpenDisk,
        journal: UploadJournal,
        family: str,
        tags: dict[str, str],
        description: str,
        refused: set[str],
        advance: Advance,
    ) -> Snapshot:
        theirs: Snapshot | None = None

        def nobody_else() -> bool:
            nonlocal theirs
            theirs = self._theirs(disk, family, refused, journal.snapshot_id)
            return theirs is None

        for attempt in range(1, STARTS + 1):
            parent = self._parent(disk.layout, family, journal)
            try:
                made = self._uploading.upload(
                    disk,
                    journal,
                    token=client_token(disk.layout.key, parent.snapshot_id if parent else "", self._nonce()),
                    parent=parent,
                    tags={**tags, CONTENT_TAG: disk.layout.key},
                    description=description,
                    before=nobody_else,
                    advance=advance,
                )
            except SnapshotGone:
                if attempt == STARTS:
                    raise
                self._undo(journal, begin_again=True)
                continue
            # Ours is kept, unless another site has completed one before it.
            if made is not None and nobody_else():
                kept = self._note(made.snapshot_id, disk.layout, family, made.digests)
                journal.finish()
                return replace(kept, sent=made.sent, resumed=made.resumed, parent=parent.snapshot_id if parent else "")
            assert theirs is not None  # noqa: S101 - else the upload would have been completed
            self._undo(journal)
            return theirs
        raise AssertionError

    def _note(self, snapshot_id: str, layout: Layout, family: str, known: Digests) -> Snapshot:
        record = SnapshotRecord(
            snapshot_id=snapshot_id,
            layout=layout,
            family=family,
            blocks=len(known),
            checksum=sha256(pack_digests(known)).hexdigest(),
            noted=self._now().replace(microsecond=0),
        )
        self._ledger.put(record, known)
        return _snapshot(record)

    def _undo(self, journal: UploadJournal, *, begin_again: bool = False) -> None:
        """Delete the snapshot under way and its journal; AWS cancels a snapshot that cannot be deleted."""
        if journal.snapshot_id:
            try:
                self._aws.ec2("delete_snapshot", SnapshotId=journal.snapshot_id)
            except AwsMissing:
                pass
            except AwsFailed as exc:
                _log.warning("the unused snapshot %s cannot be deleted: %s", journal.snapshot_id, exc)
        if begin_again:
            journal.forget()
        else:
            journal.finish()

    def _parent(self, layout: Layout, family: str, journal: UploadJournal) -> ParentSnapshot | None:
        """The parent: that of the journal, else the best one that this site knows and AWS still has."""
        if journal.heading is not None and journal.heading.content == layout.key:
            if not journal.heading.parent:
                return None
            known = [one for one in self._ledger.records() if one.snapshot_id == journal.heading.parent]
        else:
            known = find_parents(layout, family, self._ledger.records())
        for record in known:
            parent = self._ledger.parent(record)
            if parent is not None and self._uploading.state(record.snapshot_id) == "completed":
                return parent
        return None


def find_parents(layout: Layout, family: str, records: Iterable[SnapshotRecord]) -> list[SnapshotRecord]:
    """Snapshots that a new one may build on, the best first: with the most bytes from the same places, then the latest
    of the same family. Unrelated snapshots and those of larger volumes are left out."""
    scored = []
    for record in records:
        common = shared_bytes(layout, record.layout)
        kin = bool(family) and record.family == family
        if (common or kin) and record.layout.gib <= layout.gib:
            scored.append(((common, kin, record.noted, record.snapshot_id), record))
    return [record for _, record in sorted(scored, key=lambda one: one[0], reverse=True)]


def _snapshot(record: SnapshotRecord) -> Snapshot:
    return Snapshot(record.snapshot_id, record.content, record.layout.gib, record.checksum)


def _completed_when(found: Mapping[str, Any]) -> tuple[datetime, str]:
    when = found.get("CompletionTime") or found["StartTime"]
    return when, str(found["SnapshotId"])
