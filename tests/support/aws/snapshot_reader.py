"""Snapshots as files and as digests, to compare them with the disks that they were made of."""

import hashlib
import os
from pathlib import Path

from deployer.ec2.aws.client import AwsClient
from deployer.ec2.snapshots.blocks import BLOCK_SIZE, GIB, ZERO_DIGEST
from deployer.ec2.snapshots.reader import WORKERS, read_snapshot
from signer.runtime.progress import Advance, ignore_progress


def snapshot_digests(
    aws: AwsClient, snapshot_id: str, *, workers: int = WORKERS, advance: Advance = ignore_progress
) -> dict[int, bytes]:
    """SHA-256 of a snapshot's blocks that are not zero, of bytes that were read; errors as in :func:`read_snapshot`."""
    found: dict[int, bytes] = {}

    def take(index: int, data: bytes) -> None:
        if (value := hashlib.sha256(data).digest()) != ZERO_DIGEST:
            found[index] = value

    read_snapshot(aws, snapshot_id, take, workers=workers, advance=advance)
    return found


def write_snapshot(aws: AwsClient, snapshot_id: str, gib: int, path: Path, *, workers: int = WORKERS) -> int:
    """Write a snapshot to a new, sparse file as large as its volume; returns how many blocks it has.

    Errors as in :func:`read_snapshot`; nothing is left of the file then.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(descriptor, gib * GIB)

        def take(index: int, data: bytes) -> None:
            view, offset = memoryview(data), index * BLOCK_SIZE
            while view:
                done = os.pwrite(descriptor, view, offset)
                view, offset = view[done:], offset + done

        return read_snapshot(aws, snapshot_id, take, workers=workers)
    except BaseException:
        path.unlink()
        raise
    finally:
        os.close(descriptor)
