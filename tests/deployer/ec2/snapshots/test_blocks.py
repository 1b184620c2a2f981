"""A disk as blocks: content keys, pieces, and what is new over a parent."""

import base64
import hashlib
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from catalog.image.address import Address
from catalog.image.manifest import Blank, MbrDisk
from deployer.ec2.snapshots.blocks import (
    BLOCK_SIZE,
    GIB,
    MAX_EBS_VOLUME,
    ZERO_DIGEST,
    BlockAction,
    BlockMap,
    Layout,
    ParentSnapshot,
    Run,
    layout_of,
    linear_checksum,
    plan_blocks,
    shared_bytes,
)
from signer.documents import validate
from tests.support.aws.memory_disks import MIB, MemoryDisk, bare, gpt, plain_digests

ONE, TWO = Address.of(b"one" * 512), Address.of(b"two" * 512)
BLANK = Blank(size=MIB, filesystem="ext4", label="x")


def nothing(blank: Blank) -> bytes:
    """The digest of a blank, where none is."""
    raise AssertionError(blank)


def test_equal_disks_have_equal_keys_and_others_do_not() -> None:
    disk = gpt((MIB, ONE), (2 * MIB, TWO), size=8 * MIB)
    key = layout_of(disk, nothing).key
    assert key == layout_of(gpt((MIB, ONE), (2 * MIB, TWO), size=8 * MIB), nothing).key
    others = [
        gpt((MIB, TWO), (2 * MIB, ONE), size=8 * MIB),
        gpt((MIB, ONE), (2 * MIB, TWO), size=9 * MIB),
        gpt((MIB, ONE), (3 * MIB, TWO), size=8 * MIB),
        gpt((MIB, ONE), size=8 * MIB),
        disk.model_copy(update={"uuid": "22222222-2222-4222-8222-222222222222"}),  # another table, other bytes
        bare(ONE),
        bare(TWO),
    ]
    keys = [layout_of(other, nothing).key for other in others]
    assert len({key, *keys}) == 1 + len(others)


def test_a_bare_partition_is_called_by_its_address_alone() -> None:
    labelled = bare(ONE)
    other = labelled.model_copy(update={"partition": labelled.partition.model_copy(update={"label": "other"})})
    assert layout_of(labelled, nothing).key == layout_of(other, nothing).key
    assert layout_of(labelled, nothing).runs == (Run(offset=0, length=ONE.size, source=str(ONE)),)


def test_a_blank_is_called_by_what_it_became_on_this_host() -> None:
    disk = gpt((MIB, BLANK), size=8 * MIB)
    assert layout_of(disk, lambda _: b"1" * 32).key != layout_of(disk, lambda _: b"2" * 32).key


def test_what_lies_outside_of_partitions_is_part_of_the_disk() -> None:
    """The first sector of an MBR disk, and an embedded boot loader, are gaps with contents."""
    part = {"label": "", "type": "mbr-83", "uuid": "11111111-01", "access": "copy-on-write", "number": 1}
    document = {
        "table": "mbr",
        "size": 4 * MIB,
        "gaps": [{"offset": 0, "content": str(Address.of(b"m" * 512))}, {"offset": 512, "content": str(TWO)}],
        "partitions": [{**part, "offset": MIB, "content": str(ONE)}],
    }
    runs = layout_of(validate(MbrDisk, document, "disk"), nothing).runs
    assert [(run.offset, run.length) for run in runs] == [(0, 512), (512, TWO.size), (MIB, ONE.size)]
    assert [run.source for run in runs[1:]] == [str(TWO), str(ONE)]


def test_a_content_key_is_the_same_for_ever() -> None:
    """Snapshots of earlier versions are found by it."""
    layout = Layout(size=MIB, runs=(Run(offset=0, length=512, source="x"),))
    document = b'{"runs":[{"length":512,"offset":0,"source":"x"}],"size":1048576,"type":"urn:partita:ec2-disk:v1"}'
    assert layout.key == hashlib.sha256(document).hexdigest()


@pytest.mark.parametrize(
    ("size", "blocks", "gib"), [(1, 1, 1), (BLOCK_SIZE, 1, 1), (BLOCK_SIZE + 1, 2, 1), (GIB + 1, 2049, 2)]
)
def test_sizes_are_rounded_up(size: int, blocks: int, gib: int) -> None:
    layout = Layout(size=size, runs=())
    assert (layout.blocks, layout.gib) == (blocks, gib)


def test_no_disk_is_larger_than_a_volume() -> None:
    with pytest.raises(ValidationError):
        Layout(size=MAX_EBS_VOLUME + 1, runs=())


def test_a_block_is_made_of_pieces() -> None:
    layout = Layout(
        size=2 * BLOCK_SIZE,
        runs=(
            Run(offset=512, length=1024, source="a"),
            Run(offset=2048, length=BLOCK_SIZE, source="b"),
            Run(offset=BLOCK_SIZE + 4096, length=512, source="c"),
        ),
    )
    assert [tuple(piece) for piece in BlockMap(layout).pieces(0)] == [
        (0, 0, 512, 1024),
        (1, 0, 2048, BLOCK_SIZE - 2048),
    ]
    assert BlockMap(layout).origin(1) == [("b", BLOCK_SIZE - 2048, 0, 2048), ("c", 0, 4096, 512)]
    assert BlockMap(layout).pieces(2) == []


def test_the_linear_checksum_is_over_the_digests_in_order() -> None:
    one, two = hashlib.sha256(b"1").digest(), hashlib.sha256(b"2").digest()
    wanted = base64.b64encode(hashlib.sha256(one + two).digest()).decode()
    assert linear_checksum({10: two, 9: one}) == wanted


def test_shared_is_what_lies_at_the_same_place() -> None:
    old = Layout(size=MIB, runs=(Run(offset=0, length=512, source="a"), Run(offset=512, length=512, source="b")))
    new = Layout(size=MIB, runs=(Run(offset=0, length=512, source="a"), Run(offset=1024, length=512, source="b")))
    assert shared_bytes(new, old) == 512


POOL = {
    name: random.Random(name).randbytes(length) if name.isupper() else bytes(length)
    for name, length in (
        ("A", BLOCK_SIZE),
        ("B", BLOCK_SIZE // 2),
        ("C", 2 * BLOCK_SIZE),
        ("D", 4096),
        ("z", BLOCK_SIZE),
        ("y", 4096),
    )
}


@st.composite
def disks(draw: st.DrawFn) -> MemoryDisk:
    """Contents, some of zeros, with gaps between them that are whole sectors; the same ones come again and again."""
    offset, runs = 0, []
    for name in draw(st.lists(st.sampled_from(sorted(POOL)), max_size=6)):
        offset += draw(st.sampled_from((0, 512, BLOCK_SIZE // 2, BLOCK_SIZE)))
        runs.append((offset, name, POOL[name]))
        offset += len(POOL[name])
    return MemoryDisk.of(offset + draw(st.sampled_from((512, BLOCK_SIZE))), *runs)


@settings(max_examples=80, deadline=None)
@given(old=disks(), new=disks())
def test_what_is_sent_over_a_parent_makes_exactly_the_new_disk(old: MemoryDisk, new: MemoryDisk) -> None:
    """And it is no block more than those that differ; what comes from the same place is not even read."""
    theirs, mine = plain_digests(old.whole()), plain_digests(new.whole())
    made, sent, last = dict(theirs), 0, -1
    for index, what in plan_blocks(new.layout, new.solid(), ParentSnapshot("snap-00000001", old.layout, theirs)):
        assert index > last
        last = index
        if what is BlockAction.SAME:
            assert BlockMap(old.layout).origin(index) == BlockMap(new.layout).origin(index)
            continue
        value = ZERO_DIGEST if what is BlockAction.ZERO else mine.get(index, ZERO_DIGEST)
        if value != theirs.get(index, ZERO_DIGEST):
            made[index] = value
            sent += 1
    assert {index: value for index, value in made.items() if value != ZERO_DIGEST} == mine
    assert sent == sum(theirs.get(index) != mine.get(index) for index in theirs.keys() | mine.keys())


def test_without_a_parent_all_that_is_solid_is_read() -> None:
    disk = MemoryDisk.of(4 * BLOCK_SIZE, (0, "A", POOL["A"]), (2 * BLOCK_SIZE, "z", POOL["z"]))
    assert list(plan_blocks(disk.layout, disk.solid(), None)) == [(0, BlockAction.READ)]
