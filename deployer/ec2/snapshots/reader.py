"""Reading snapshots back, block by block, to compare them with verified contents."""

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
"""Requests under way, each with a block in memory, within the budget of the `buffers`."""

BATCH = 4096
"""Blocks in one page of the list; they are read before the next page, so that a list need not fit into memory."""

BlockSink = Callable[[int, bytes], None]
"""Receives the number and the bytes of a block, from any thread."""


def read_snapshot(
    aws: AwsClient,
    snapshot_id: str,
    take: BlockSink,
    *,
    workers: int = WORKERS,
    buffers: BufferPool | None = None,
    advance: Advance = ignore_progress,
) -> int:
    """Read all blocks that a snapshot has; missing ones are zero.

    Args:
        aws: the account.
        snapshot_id: a completed snapshot.
        take: called with each block, checked against AWS's SHA-256 of it.
        workers: requests under way.
        buffers: a pool to share; each block that is read counts as a buffer.
        advance: called with the number of bytes just read, from any thread.

    Returns:
        The number of blocks.

    Raises:
        SnapshotFailed: a block differs from its checksum; AwsFailed.
    """
    listed = aws.ebs_list("list_snapshot_blocks", "Blocks", SnapshotId=snapshot_id, MaxResults=BATCH)

    pool_of_buffers = buffers or BufferPool()

    def one(index: int, token: str) -> None:
        with pool_of_buffers.counted():
            answer = aws.ebs("get_snapshot_block", SnapshotId=snapshot_id, BlockIndex=index, BlockToken=token)
            data: bytes = answer["BlockData"]
            if (
                len(data) != BLOCK_SIZE
                or base64.b64encode(hashlib.sha256(data).digest()).decode() != answer["Checksum"]
            ):
                raise SnapshotFailed(f"{snapshot_id}: block {index} differs from its checksum")
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
    """Whether a snapshot has exactly these non-zero blocks; reading ends at the first that differs.

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
    """A block differs from the expected one."""
