"""Snapshots by their content: made once, shared, built on, and believed only when they were read."""

import os
import subprocess
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from catalog.image.manifest import Blank
from deployer.ec2.aws.client import AwsClient
from deployer.ec2.snapshots.blocks import BLOCK_SIZE, Layout, Run
from deployer.ec2.snapshots.disk_reader import block_digests, open_disk
from deployer.ec2.snapshots.record_store import SnapshotRecord, SnapshotRecords
from deployer.ec2.snapshots.snapshots import CONTENT_TAG, Snapshots, find_parents
from tests.support.aws.fake_aws import AwsWorld
from tests.support.aws.memory_disks import MIB, MemoryDisk, Shelf, bare, gpt, plain_digests
from tests.support.aws.snapshot_reader import snapshot_digests, write_snapshot
from tests.support.node.boot_sector_guest import GOODBYE, SAID, boot_sector_image
from tests.support.node.bundle_contents import BundleContents

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def asked(world: AwsWorld, operation: str, since: int) -> int:
    """How often something was asked for."""
    return sum(line["operation"] == operation for line in world.log(since))


def snapshots_of(aws: AwsClient) -> set[str]:
    """All there are in an account."""
    return {one["SnapshotId"] for one in aws.ec2_list("describe_snapshots", "Snapshots", OwnerIds=["self"])}


def test_an_uploaded_disk_is_read_back_byte_for_byte_and_boots(world: AwsWorld, profile: str, tmp_path: Path) -> None:
    bundle = boot_sector_image(tmp_path / "image")
    aws = world.aws(profile)
    with open_disk(bundle.manifest.disks[0], BundleContents(bundle, tmp_path / "blanks")) as disk:
        made = Snapshots(aws, SnapshotRecords(tmp_path / "ledger")).ensure(disk)
        whole = bytearray()
        buffer = bytearray(BLOCK_SIZE)
        for index in range(disk.layout.blocks):
            disk.read(index, buffer)
            whole += buffer
        size = disk.layout.size
    assert made.sent == len(plain_digests(bytes(whole)))
    assert write_snapshot(aws, made.snapshot_id, made.gib, tmp_path / "back") == made.sent
    with (tmp_path / "back").open("rb") as file:
        assert file.read(size) == bytes(whole[:size])
        assert (tmp_path / "back").stat().st_size == 1 << 30
    # The volume is larger than the disk, as at EC2, and boots all the same.
    said = boot(tmp_path / "back", tmp_path / "serial")
    for line in SAID:
        assert line in said
    assert GOODBYE not in said


def boot(disk: Path, serial: Path) -> bytes:
    """What a guest says on its serial port until it has said all that it says by itself."""
    command = [
        "qemu-system-x86_64",
        "-machine",
        "pc,accel=tcg",
        "-m",
        "32",
        "-display",
        "none",
        "-nodefaults",
        "-net",
        "none",
    ]
    command += ["-drive", f"file={disk},format=raw,if=virtio", "-serial", f"file:{serial}"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as guest:
        try:
            for _ in range(600):
                said = serial.read_bytes() if serial.exists() else b""
                if SAID[-1] in said or guest.poll() is not None:
                    break
                time.sleep(0.1)
        finally:
            guest.kill()
    return said


def test_the_same_disk_again_sends_nothing_from_any_site(world: AwsWorld, profile: str, tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "shelf")
    disk = gpt((MIB, shelf.put(os.urandom(3 * MIB))), size=6 * MIB)
    with open_disk(disk, shelf) as blocks:
        aws = world.aws(profile)
        first = Snapshots(aws, SnapshotRecords(tmp_path / "here")).ensure(blocks)
        begun = world.asked()
        here = Snapshots(aws, SnapshotRecords(tmp_path / "here")).ensure(blocks)
        assert asked(world, "GetSnapshotBlock", begun) == 0
        there = Snapshots(world.aws(profile), SnapshotRecords(tmp_path / "there")).ensure(blocks)
        known = Snapshots(world.aws(profile), SnapshotRecords(tmp_path / "there")).ensure(blocks)
    assert {first.snapshot_id} == {here.snapshot_id, there.snapshot_id, known.snapshot_id}
    assert (here.sent, there.sent, known.sent) == (0, 0, 0)
    assert (here.read_back, there.read_back, known.read_back) == (False, True, False)
    assert asked(world, "PutSnapshotBlock", begun) == asked(world, "StartSnapshot", begun) == 0
    assert asked(world, "GetSnapshotBlock", begun) == first.sent
    assert len(snapshots_of(aws)) == 1


def test_a_journal_of_what_is_done_is_removed(world: AwsWorld, profile: str, tmp_path: Path) -> None:
    """Its site died after the ledger had noted the snapshot, and before the journal was gone."""
    ledger = SnapshotRecords(tmp_path / "ledger")
    with open_disk(gpt((MIB, Blank(filesystem="none", size=MIB)), size=4 * MIB), Shelf(tmp_path / "shelf")) as blocks:
        first = Snapshots(world.aws(profile), ledger).ensure(blocks)
        journal = ledger.journal(blocks.layout.key)
        assert not journal.exists()
        journal.write_bytes(b"")
        again = Snapshots(world.aws(profile), ledger).ensure(blocks)
    assert (again.snapshot_id, again.sent) == (first.snapshot_id, 0)
    assert not journal.exists()


def test_an_update_sends_what_changed_through_its_parent(world: AwsWorld, profile: str, tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "shelf")
    root, data = bytearray(os.urandom(4 * MIB)), os.urandom(2 * MIB)
    data_address = shelf.put(data)
    old = gpt((MIB, shelf.put(bytes(root))), (6 * MIB, data_address), size=10 * MIB)
    root[2 * BLOCK_SIZE + 77] ^= 1
    root[5 * BLOCK_SIZE : 6 * BLOCK_SIZE] = bytes(
        BLOCK_SIZE
    )  # what becomes zero has to be sent too: the parent has something there
    new = gpt((MIB, shelf.put(bytes(root))), (6 * MIB, data_address), size=10 * MIB)
    aws, snapshots = world.aws(profile), Snapshots(world.aws(profile), SnapshotRecords(tmp_path / "ledger"))
    with open_disk(old, shelf) as blocks:
        first = snapshots.ensure(blocks, family="star/hello")
    begun = world.asked()
    with open_disk(new, shelf) as blocks:
        second = snapshots.ensure(blocks, family="star/hello")
        wanted = block_digests(blocks)
    assert second.parent == first.snapshot_id
    assert second.sent == asked(world, "PutSnapshotBlock", begun) == 2
    assert snapshot_digests(aws, second.snapshot_id) == wanted
    assert snapshot_digests(aws, first.snapshot_id) != wanted


def test_a_child_outlives_its_parent(world: AwsWorld, profile: str, tmp_path: Path) -> None:
    """And the third version, whose parent is gone, is built on what is left."""
    aws, ledger = world.aws(profile), SnapshotRecords(tmp_path / "ledger")
    snapshots = Snapshots(aws, ledger)
    parts = {name: os.urandom(BLOCK_SIZE) for name in "abcd"}
    disks = [
        MemoryDisk.of(4 * BLOCK_SIZE, *((at * BLOCK_SIZE, name, parts[name]) for at, name in enumerate(names)))
        for names in ("ab", "abc", "abcd")
    ]
    first, second = (snapshots.ensure(disk) for disk in disks[:2])
    assert (first.sent, second.sent, second.parent) == (2, 1, first.snapshot_id)
    assert disks[1].reads == [2]  # what both have in the same place is not even read
    aws.ec2("delete_snapshot", SnapshotId=first.snapshot_id)
    assert snapshot_digests(aws, second.snapshot_id) == plain_digests(disks[1].whole())
    aws.ec2("delete_snapshot", SnapshotId=second.snapshot_id)
    third = snapshots.ensure(disks[2])
    assert (third.sent, third.parent) == (4, "")
    assert snapshot_digests(aws, third.snapshot_id) == plain_digests(disks[2].whole())


def test_a_bare_partition_is_one_snapshot_for_all_images(world: AwsWorld, profile: str, tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "shelf")
    data = shelf.put(os.urandom(MIB))
    one, other = bare(data), bare(data)
    other = other.model_copy(update={"partition": other.partition.model_copy(update={"label": "another image's"})})
    snapshots = Snapshots(world.aws(profile), SnapshotRecords(tmp_path / "ledger"))
    with open_disk(one, shelf) as blocks:
        first = snapshots.ensure(blocks, family="star/one")
    with open_disk(other, shelf) as blocks:
        second = snapshots.ensure(blocks, family="star/two")
    assert (first.snapshot_id, 2, 0) == (second.snapshot_id, first.sent, second.sent)


def test_a_disk_of_zeros_has_no_blocks(world: AwsWorld, profile: str, tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "shelf")
    with open_disk(bare(shelf.put(b"", 3 * MIB)), shelf) as blocks:
        made = Snapshots(world.aws(profile), SnapshotRecords(tmp_path / "ledger")).ensure(blocks)
    assert made.sent == 0
    assert snapshot_digests(world.aws(profile), made.snapshot_id) == {}


def test_a_blank_inside_a_disk_is_what_it_is_here(world: AwsWorld, profile: str, tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "shelf")
    disk = gpt((MIB, Blank(size=2 * MIB, filesystem="swap", label="swap")), size=6 * MIB)
    with open_disk(disk, shelf) as blocks:
        made = Snapshots(world.aws(profile), SnapshotRecords(tmp_path / "ledger")).ensure(blocks)
    assert made.sent == 3  # the head, the swap's first page, the tail


@pytest.mark.parametrize("lie", ["another block", "a block too many", "a block too few"])
def test_a_tag_proves_nothing(world: AwsWorld, profile: str, tmp_path: Path, lie: str) -> None:
    """A snapshot of other blocks with the tag of this content is neither used nor touched."""
    parts = {name: os.urandom(BLOCK_SIZE) for name in "abc"}
    disk = MemoryDisk.of(4 * BLOCK_SIZE, (0, "a", parts["a"]), (BLOCK_SIZE, "b", parts["b"]))
    aws, ledger = world.aws(profile), SnapshotRecords(tmp_path / "ledger")
    liar = {
        "another block": MemoryDisk.of(4 * BLOCK_SIZE, (0, "a", parts["a"]), (BLOCK_SIZE, "b", parts["c"])),
        "a block too many": MemoryDisk.of(
            4 * BLOCK_SIZE, *((n * BLOCK_SIZE, name, parts[name]) for n, name in enumerate("abc"))
        ),
        "a block too few": MemoryDisk.of(4 * BLOCK_SIZE, (0, "a", parts["a"])),
    }[lie]
    false = Snapshots(aws, SnapshotRecords(tmp_path / "false")).ensure(replace(liar, layout=_renamed(liar.layout)))
    aws.ec2("create_tags", Resources=[false.snapshot_id], Tags=[{"Key": CONTENT_TAG, "Value": disk.layout.key}])
    made = Snapshots(aws, ledger).ensure(disk)
    assert made.snapshot_id != false.snapshot_id
    assert made.sent == 2
    assert snapshots_of(aws) == {made.snapshot_id, false.snapshot_id}
    assert Snapshots(aws, ledger).ensure(disk).snapshot_id == made.snapshot_id


def _renamed(layout: Layout) -> Layout:
    """The same runs; with a sector more, so that it is another content."""
    return layout.model_copy(update={"size": layout.size + 512})


def test_what_aws_holds_is_compared_with_what_was_verified(world: AwsWorld, profile: str, tmp_path: Path) -> None:
    """A block that is another one than was sent: a site that has not sent it itself finds out."""
    disk = MemoryDisk.of(2 * BLOCK_SIZE, (0, "a", os.urandom(2 * BLOCK_SIZE)))
    first = Snapshots(world.aws(profile), SnapshotRecords(tmp_path / "one")).ensure(disk)
    world.corrupt(first.snapshot_id, 1)
    second = Snapshots(world.aws(profile), SnapshotRecords(tmp_path / "two")).ensure(disk)
    assert second.snapshot_id != first.snapshot_id
    assert second.sent == 2


def test_two_sites_at_once_end_in_one_snapshot(world: AwsWorld, profile: str, tmp_path: Path) -> None:
    world.faults(latency=0.01, seal=0.1)
    for round_ in range(2):
        disk = MemoryDisk.of(16 * BLOCK_SIZE, (0, f"r{round_}", os.urandom(16 * BLOCK_SIZE)))
        made, gate = list[str](), threading.Barrier(2)

        def site(name: str, disk: MemoryDisk = disk, made: list[str] = made, gate: threading.Barrier = gate) -> None:
            snapshots = Snapshots(world.aws(profile), SnapshotRecords(tmp_path / name), workers=4)
            gate.wait()
            made.append(snapshots.ensure(disk).snapshot_id)

        sites = [threading.Thread(target=site, args=(name,)) for name in ("one", "two")]
        for thread in sites:
            thread.start()
        for thread in sites:
            thread.join(120)
        assert len(made) == 2
        assert len(set(made)) == 1
        assert snapshot_digests(world.aws(profile), made[0]) == plain_digests(disk.whole())
        assert len(snapshots_of(world.aws(profile))) == round_ + 1


class Late:
    """An account in which something happens right before a completion, or right after."""

    def __init__(self, aws: AwsClient, *, before: Any = None, after: Any = None) -> None:
        self._aws, self._before, self._after = aws, before, after

    def __getattr__(self, name: str) -> Any:
        return getattr(self._aws, name)

    def ebs(self, operation: str, **parameters: Any) -> dict[str, Any]:
        """As the account does it."""
        if operation == "complete_snapshot" and self._before:
            self._before()
        answer = self._aws.ebs(operation, **parameters)
        if operation == "complete_snapshot" and self._after:
            self._after()
        return answer


@pytest.mark.parametrize("when", ["before", "after"])
def test_what_is_completed_first_is_kept(world: AwsWorld, profile: str, tmp_path: Path, when: str) -> None:
    """Whoever completes later deletes its own, however close it was, and whoever began first."""
    disk = MemoryDisk.of(4 * BLOCK_SIZE, (0, "a", os.urandom(4 * BLOCK_SIZE)))
    aws, theirs = world.aws(profile), list[str]()

    def other() -> None:
        theirs.append(
            Snapshots(world.aws(profile), SnapshotRecords(tmp_path / "two"), workers=2).ensure(disk).snapshot_id
        )

    late: Any = Late(aws, **{when: other})
    mine = Snapshots(late, SnapshotRecords(tmp_path / "one"), workers=2).ensure(disk)
    assert theirs == [mine.snapshot_id]
    assert snapshots_of(aws) == {mine.snapshot_id}
    assert mine.read_back == (when == "before")


def test_an_upload_is_given_up_where_another_site_is_done(world: AwsWorld, profile: str, tmp_path: Path) -> None:
    """Interrupted here, done there: what was begun here is taken back."""
    disk = MemoryDisk.of(4 * BLOCK_SIZE, (0, "a", os.urandom(4 * BLOCK_SIZE)))
    ledger = SnapshotRecords(tmp_path / "one")
    world.faults(rate=1.0, kinds=["throttle"], only=["CompleteSnapshot"])
    with pytest.raises(Exception, match="RequestThrottled"):
        Snapshots(world.aws(profile), ledger, workers=2).ensure(disk)
    world.faults()
    there = Snapshots(world.aws(profile), SnapshotRecords(tmp_path / "two"), workers=2).ensure(disk)
    here = Snapshots(world.aws(profile), ledger, workers=2).ensure(disk)
    assert here.snapshot_id == there.snapshot_id
    assert snapshots_of(world.aws(profile)) == {there.snapshot_id}
    assert not ledger.journal(disk.layout.key).exists()


# What a site remembers


def record(number: int, layout: Layout, family: str = "") -> SnapshotRecord:
    """A record of nothing real."""
    noted = NOW + timedelta(minutes=number)
    name = f"snap-{number:08x}"
    return SnapshotRecord(snapshot_id=name, layout=layout, family=family, blocks=0, checksum="0" * 64, noted=noted)


def test_the_best_parent_shares_most_and_then_is_the_latest_of_the_family() -> None:
    a, b = Run(offset=0, length=MIB, source="a"), Run(offset=MIB, length=2 * MIB, source="b")
    elsewhere = Run(offset=4 * MIB, length=2 * MIB, source="b")
    wanted = Layout(size=8 * MIB, runs=(a, b))
    large = Layout(size=2 << 30, runs=(a, b))
    records = [
        record(1, Layout(size=8 * MIB, runs=(a,))),
        record(2, Layout(size=8 * MIB, runs=(b,)), "star/x"),
        record(3, Layout(size=8 * MIB, runs=(elsewhere,)), "star/hello"),
        record(4, Layout(size=8 * MIB, runs=()), "star/hello"),
        record(5, Layout(size=8 * MIB, runs=(elsewhere,)), "star/x"),
        record(6, large, "star/hello"),
    ]
    found = [int(one.snapshot_id[5:], 16) for one in find_parents(wanted, "star/hello", records)]
    assert found == [2, 1, 4, 3]
    assert find_parents(wanted, "", records[2:]) == []
