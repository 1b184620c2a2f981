"""Reading snapshots back, block by block: what AWS has is compared with what was verified."""

import base64
import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from deployer.ec2.aws.client import AwsClient
from deployer.ec2.errors import SnapshotFailed
from deployer.ec2.snapshots.blocks import BLOCK_SIZE, ZERO_DIGEST, Digests
from deployer.ec2.snapshots.buffer_pool import BufferPool
from signer.runtime.progress import Advance, ignore_progress

WORKERS = 64
"""Requests under way, each with a block in memory, within the budget of whoever reads (`buffers`)."""

BATCH = 4096
"""Blocks that are asked for before the next page of the list is: a list need not fit into memory."""

BlockSink = Callable[[int, bytes], None]
"""What a block is given to: its number and its bytes, from any thread."""


def read_snapshot(
    aws: AwsClient,
    snapshot_id: str,
    take: BlockSink,
    *,
    workers: int = WORKERS,
    buffers: BufferPool | None = None,
    advance: Advance = ignore_progress,
) -> int:
    """Read all blocks that a snapshot has; those that it has not are zero.

    Args:
        aws: the account.
        snapshot_id: a completed snapshot.
        take: given each block, checked against the SHA-256 that AWS says it has.
        workers: requests under way.
        buffers: what holds blocks, if others share it: each that is read counts as one.
        advance: called with bytes just read, from any thread.

    Returns:
        How many blocks.

    Raises:
        SnapshotFailed: a block is not what AWS says; AwsFailed.
    """
    listed = aws.ebs_list("list_snapshot_blocks", "Blocks", SnapshotId=snapshot_id, MaxResults=BATCH)

    held = buffers or BufferPool()

    def one(index: int, token: str) -> None:
        with held.room():
            answer = aws.ebs("get_snapshot_block", SnapshotId=snapshot_id, BlockIndex=index, BlockToken=token)
            data: bytes = answer["BlockData"]
            if (
                len(data) != BLOCK_SIZE
                or base64.b64encode(hashlib.sha256(data).digest()).decode() != answer["Checksum"]
            ):
                raise SnapshotFailed(f"{snapshot_id}: block {index} is not what its checksum says")
            take(index, data)
        advance(BLOCK_SIZE)

    count = 0
    with ThreadPoolExecutor(workers, thread_name_prefix="ebs") as pool:
        try:
            while batch := list(islice(listed, BATCH)):
                for done in [pool.submit(one, block["BlockIndex"], block["BlockToken"]) for block in batch]:
                    done.result()
                count += len(batch)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return count


def snapshot_matches(
    aws: AwsClient,
    snapshot_id: str,
    wanted: Digests,
    *,
    workers: int = WORKERS,
    buffers: BufferPool | None = None,
    advance: Advance = ignore_progress,
) -> bool:
    """Whether a snapshot has exactly these blocks that are not zero; read to the first that is another one.

    Args:
        aws, snapshot_id, workers, buffers, advance: as in :func:`read_snapshot`; errors too.
        wanted: SHA-256 by number.
    """
    found: set[int] = set()

    def take(index: int, data: bytes) -> None:
        value = hashlib.sha256(data).digest()
        if value != wanted.get(index, ZERO_DIGEST):
            raise _Other
        if value != ZERO_DIGEST:
            found.add(index)

    try:
        read_snapshot(aws, snapshot_id, take, workers=workers, buffers=buffers, advance=advance)
    except _Other:
        return False
    return found == wanted.keys()


class _Other(Exception):
    """A block is another one than it should be."""
