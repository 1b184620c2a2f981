"""Memory of uploads: one budget of bytes for all workers of all uploads of a process."""

import random
import threading
from collections.abc import Iterator
from pathlib import Path

from deployer.ec2.snapshots.blocks import BLOCK_SIZE, Layout
from deployer.ec2.snapshots.buffer_pool import BufferPool
from deployer.ec2.snapshots.disk_reader import OpenDisk, open_disk
from deployer.ec2.snapshots.reader import read_snapshot
from deployer.ec2.snapshots.record_store import SnapshotRecords
from deployer.ec2.snapshots.snapshots import Snapshots
from tests.support.aws.fake_aws import AwsWorld
from tests.support.aws.memory_disks import Shelf, bare, plain_digests

MOST = 3
"""Blocks of the budget."""


class Watched:
    """A disk that looks at the budget whenever a block of it is read."""

    def __init__(self, disk: OpenDisk, buffers: BufferPool, seen: list[int]) -> None:
        self.layout: Layout = disk.layout
        self._disk, self._buffers, self._seen = disk, buffers, seen

    def solid(self) -> Iterator[int]:
        return self._disk.solid()

    def read(self, index: int, buffer: bytearray) -> None:
        self._seen.append(self._buffers.taken)
        self._disk.read(index, buffer)


def test_many_workers_of_several_uploads_stay_within_one_budget(world: AwsWorld, profile: str, tmp_path: Path) -> None:
    world.faults(latency=0.02)
    shelf, chance = Shelf(tmp_path / "shelf"), random.Random(5)
    aws, buffers, seen = world.aws(profile, connections=24), BufferPool(MOST * BLOCK_SIZE + 1), list[int]()
    data = {shelf.put(found): found for found in (chance.randbytes(9 * BLOCK_SIZE) for _ in range(2))}
    snapshots = Snapshots(aws, SnapshotRecords(tmp_path / "ledger"), workers=12, buffers=buffers)
    made: dict[str, bytes] = {}

    def upload(address: object, wanted: bytes) -> None:
        with open_disk(bare(address), shelf) as disk:  # type: ignore[arg-type]
            made[snapshots.ensure(Watched(disk, buffers, seen)).snapshot_id] = wanted

    threads = [threading.Thread(target=upload, args=item) for item in data.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    world.faults()
    assert len(made) == 2
    assert max(seen) == MOST
    read: list[int] = []
    for snapshot, wanted in made.items():
        found: dict[int, bytes] = {}

        def take(index: int, block: bytes, found: dict[int, bytes] = found) -> None:
            read.append(buffers.taken)
            found[index] = block

        read_snapshot(aws, snapshot, take, workers=12, buffers=buffers)
        assert plain_digests(b"".join(found[index] for index in sorted(found))) == plain_digests(wanted)
    assert 1 <= max(read) <= MOST
    assert buffers.taken == 0


def test_a_budget_below_one_block_is_one_block() -> None:
    buffers = BufferPool(1)
    with buffers.one() as first:
        assert (buffers.most, buffers.taken, len(first)) == (1, 1, BLOCK_SIZE)
    with buffers.one():
        assert buffers.taken == 1
