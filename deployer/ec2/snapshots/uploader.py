"""Uploading a disk as a snapshot: StartSnapshot, PutSnapshotBlock by many workers, CompleteSnapshot.

Each worker reads a block, hashes it, compares it with the parent's, sends it if it is new, and syncs that into the journal
before it takes the next; so if the process is killed, the next one sends only the rest. AWS checks the SHA-256 of each block,
and at the end that of all of them.
"""

import base64
import hashlib
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from deployer.ec2.aws.adaptive_concurrency import AdaptiveConcurrency
from deployer.ec2.aws.client import AwsClient
from deployer.ec2.errors import AwsFailed, AwsMissing, SnapshotFailed, SnapshotGone
from deployer.ec2.snapshots.blocks import (
    BLOCK_SIZE,
    ZERO_DIGEST,
    BlockAction,
    Digests,
    ParentSnapshot,
    linear_checksum,
    plan_blocks,
)
from deployer.ec2.snapshots.buffer_pool import BufferPool
from deployer.ec2.snapshots.disk_reader import OpenDisk, block_digest
from deployer.ec2.snapshots.upload_journal import JournalHeader, UploadJournal
from signer.runtime.progress import Advance, ignore_progress

WORKERS = 64
"""Requests under way. AWS takes some 500 MB/s from one account (1000 blocks a second); at 60 ms each that is 64."""

MAX_WORKERS = 256
"""The most workers: each has a connection and a thread; their blocks share one budget (`buffer_pool`)."""

TIMEOUT = 24 * 60
"""Minutes without a block after which AWS cancels the snapshot: an upload can go on a day after a crash, and an abandoned
one does not stay."""

SEALING = 900.0
"""Seconds to wait for a completed snapshot to be usable. It takes some seconds, and more for terabytes."""

TWICE = 60.0
"""Seconds to wait for it where AWS refused to complete it, which it does when it has been completed before; and for it
to be known at all."""

_YOUNG = frozenset({"ResourceNotFoundException", "ValidationException.INVALID_SNAPSHOT_ID"})
"""Fault codes of the EBS direct APIs for a snapshot that was started a second ago."""

_CONFLICT = frozenset({"ValidationException.CONFLICTING_BLOCK_UPDATE"})
"""Their fault code for a block of which an earlier, abandoned attempt is still being written."""


@dataclass(frozen=True)
class UploadResult:
    """A snapshot that AWS has completed.

    Attributes:
        snapshot_id: AWS's name of it.
        digests: SHA-256 of all its non-zero blocks, the parent's included.
        sent: blocks that this call sent.
        resumed: blocks that an earlier call had sent.
    """

    snapshot_id: str
    digests: Digests
    sent: int
    resumed: int


class SnapshotUploader:
    """Uploads to one account, each with separate workers. For any number of threads."""

    def __init__(
        self,
        aws: AwsClient,
        *,
        workers: int = WORKERS,
        buffers: BufferPool | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        """Args: the account; requests under way; a buffer pool to share; a monotonic clock in seconds, and a function that
        sleeps."""
        self._aws, self._workers = aws, min(max(workers, 1), MAX_WORKERS)
        self._buffers = buffers or BufferPool()
        self._clock, self._sleep = clock, sleep

    def upload(
        self,
        disk: OpenDisk,
        journal: UploadJournal,
        *,
        token: str,
        parent: ParentSnapshot | None = None,
        tags: Mapping[str, str] | None = None,
        description: str = "",
        before: Callable[[], bool] = lambda: True,
        advance: Advance = ignore_progress,
    ) -> UploadResult | None:
        """Upload a disk, or resume after the last block in the journal.

        Args:
            disk: open.
            journal: of this content; begun anew if its header names another content or parent.
            token: 64 hex digits, fresh; used only if the journal has none.
            parent: the snapshot to build on; the upload resumes only with the journal's parent.
            tags, description: of the snapshot.
            before: called once all blocks are sent; False abandons the snapshot, incomplete.
            advance: called with the number of processed bytes, from any thread.

        Returns:
            None if `before` returned False.

        Raises:
            SnapshotGone: the snapshot can no longer be written; the journal is useless.
            SnapshotFailed, AwsFailed: any other failure; the journal stays valid.
        """
        self._start(disk, journal, token, parent, tags or {}, description)
        resumed = len(journal.blocks)
        known = self._put_all(disk, journal, parent, advance)
        if not before():
            return None
        self._complete(journal.snapshot_id, len(journal.blocks), linear_checksum(journal.blocks))
        return UploadResult(journal.snapshot_id, known, len(journal.blocks) - resumed, resumed)

    def _start(
        self,
        disk: OpenDisk,
        journal: UploadJournal,
        token: str,
        parent: ParentSnapshot | None,
        tags: Mapping[str, str],
        description: str,
    ) -> None:
        content, below = disk.layout.key, parent.snapshot_id if parent else ""
        heading = journal.heading
        if heading is None or (heading.content, heading.parent) != (content, below):
            heading = JournalHeader(content=content, parent=below, token=token)
            journal.begin(heading)
        if journal.snapshot_id:
            return
        wanted: dict[str, Any] = {"ParentSnapshotId": below} if below else {}
        answer = self._aws.ebs(
            "start_snapshot",
            VolumeSize=disk.layout.gib,
            ClientToken=heading.token,
            Timeout=TIMEOUT,
            Description=description[:255],
            Tags=[{"Key": key, "Value": value} for key, value in sorted(tags.items())],
            **wanted,
        )
        if answer["BlockSize"] != BLOCK_SIZE:
            raise SnapshotFailed(
                f"{answer['SnapshotId']}: has blocks of {answer['BlockSize']} bytes instead of {BLOCK_SIZE}"
            )
        journal.started(answer["SnapshotId"])

    def _put_all(
        self, disk: OpenDisk, journal: UploadJournal, parent: ParentSnapshot | None, advance: Advance
    ) -> dict[int, bytes]:
        """Send the new blocks; returns the digests of all non-zero blocks."""
        pace = AdaptiveConcurrency(self._workers, self._clock)
        sending = _Sending(self._aws, disk, journal, parent, pace, self._buffers, advance)
        with ThreadPoolExecutor(self._workers, thread_name_prefix="ebs") as pool:
            try:
                workers = [pool.submit(sending.work) for _ in range(self._workers)]
                failures = [failed for worker in workers if (failed := worker.exception()) is not None]
            finally:
                sending.stop()
        if failures:
            first, snapshot_id = failures[0], journal.snapshot_id
            if isinstance(first, AwsFailed) and self.state(snapshot_id) != "pending":
                raise SnapshotGone(f"{snapshot_id}: can no longer be written ({first})") from first
            raise first
        return sending.known

    def _complete(self, snapshot_id: str, count: int, checksum: str) -> None:
        proof: dict[str, Any] = {
            "Checksum": checksum,
            "ChecksumAlgorithm": "SHA256",
            "ChecksumAggregationMethod": "LINEAR",
        }
        try:
            self._aws.ebs(
                "complete_snapshot",
                again=_YOUNG,
                SnapshotId=snapshot_id,
                ChangedBlocksCount=count,
                **(proof if count else {}),
            )
        except AwsMissing as exc:
            raise SnapshotGone(f"{snapshot_id}: no longer exists; its uploaded blocks are lost ({exc})") from exc
        except AwsFailed as exc:
            if not exc.fault.startswith("ValidationException"):
                raise
            # A repeated request, if the first answer was lost: then it is completed, or soon will be. Otherwise AWS's blocks
            # differ from the journal for good.
            if not self._completed(snapshot_id, TWICE):
                raise SnapshotGone(f"{snapshot_id}: AWS cannot complete it: {exc}") from exc
            return
        if not self._completed(snapshot_id, SEALING):
            raise SnapshotFailed(f"{snapshot_id}: is still not completed after {SEALING:.0f} s; try again later")

    def _completed(self, snapshot_id: str, patience: float) -> bool:
        """Wait until a snapshot is completed; False after `patience` seconds; SnapshotGone if it cannot be completed."""
        begun, pause = self._clock(), 0.2
        while (state := self.state(snapshot_id)) != "completed":
            waited = self._clock() - begun
            # A snapshot that was started a moment ago may not be listed everywhere yet.
            if state != "pending" and (state or waited > TWICE):
                raise SnapshotGone(f"{snapshot_id}: its state at AWS is {state or 'missing'} instead of completed")
            if waited > patience:
                return False
            self._sleep(pause)
            pause = min(pause * 1.5, 5.0)
        return True

    def state(self, snapshot_id: str) -> str:
        """The state of a snapshot at AWS: "pending", "completed", "error"..., or empty if it does not exist."""
        try:
            found = self._aws.ec2("describe_snapshots", SnapshotIds=[snapshot_id])["Snapshots"]
        except AwsMissing:
            return ""
        return str(found[0]["State"]) if found else ""


class _Sending:
    """The shared state of the workers of one upload.

    Attributes:
        known: SHA-256 of the non-zero blocks that were processed so far.
    """

    def __init__(
        self,
        aws: AwsClient,
        disk: OpenDisk,
        journal: UploadJournal,
        parent: ParentSnapshot | None,
        pace: AdaptiveConcurrency,
        buffers: BufferPool,
        advance: Advance,
    ) -> None:
        self.known: dict[int, bytes] = {}
        self._aws, self._disk, self._journal, self._pace, self._advance = aws, disk, journal, pace, advance
        self._buffers = buffers
        self._old: Digests = parent.digests if parent else {}
        self._acknowledged = dict(journal.blocks)
        self._todo = plan_blocks(disk.layout, disk.solid(), parent)
        self._taking, self._stopped = threading.Lock(), threading.Event()

    def stop(self) -> None:
        """Let no worker take another block."""
        self._stopped.set()

    def work(self) -> None:
        """Process blocks until all are taken or another worker has failed."""
        try:
            while (step := self._take()) is not None:
                index, what = step
                value = self._old[index] if what is BlockAction.SAME else self._acknowledged.get(index)
                if value is None:
                    with self._buffers.one() as buffer:
                        value = self._read(index, what, buffer)
                        if value != self._old.get(index, ZERO_DIGEST):
                            self._put(index, buffer, value)
                if value != ZERO_DIGEST:
                    self.known[index] = value
                self._advance(BLOCK_SIZE)
        except BaseException:
            self.stop()
            raise

    def _take(self) -> tuple[int, BlockAction] | None:
        if self._stopped.is_set():
            return None
        with self._taking:
            return next(self._todo, None)

    def _read(self, index: int, what: BlockAction, buffer: bytearray) -> bytes:
        if what is BlockAction.ZERO:
            buffer[:] = bytes(BLOCK_SIZE)
            return ZERO_DIGEST
        self._disk.read(index, buffer)
        return block_digest(buffer) or ZERO_DIGEST

    def _put(self, index: int, buffer: bytearray, value: bytes) -> None:
        checksum, snapshot_id = base64.b64encode(value).decode(), self._journal.snapshot_id
        with self._pace.one():
            answer = self._aws.ebs(
                "put_snapshot_block",
                again=_YOUNG | _CONFLICT,
                throttled=self._pace.throttled,
                SnapshotId=snapshot_id,
                BlockIndex=index,
                BlockData=buffer,
                DataLength=BLOCK_SIZE,
                Checksum=checksum,
                ChecksumAlgorithm="SHA256",
            )
        if answer.get("Checksum", checksum) != checksum:
            raise SnapshotFailed(f"{snapshot_id}: AWS confirmed another checksum of block {index} than the one sent")
        self._journal.sent(index, value)


def client_token(content: str, parent: str, nonce: bytes) -> str:
    """A client token for one upload of this content on this parent.

    The nonce is needed since a token names one snapshot for good, and two sites that wrote the same one would lose it
    together (docs/ec2.md).
    """
    return hashlib.sha256(b"\0".join((b"partita-snapshot-v1", content.encode(), parent.encode(), nonce))).hexdigest()
