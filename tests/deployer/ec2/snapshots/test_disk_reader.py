"""Reading disks: what is a hole is not read, what is zero is not hashed, and files that changed are refused."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from catalog.disk.gpt import write_gpt
from catalog.image.manifest import Blank
from deployer.ec2.errors import SnapshotFailed
from deployer.ec2.snapshots.blocks import BLOCK_SIZE
from deployer.ec2.snapshots.disk_reader import block_digest, block_digests, open_disk
from tests.support.aws.fake_aws import ROOT
from tests.support.aws.memory_disks import MIB, Shelf, bare, gpt, plain_digests

BLANK = Blank(size=2 * MIB, filesystem="ext4", label="scratch")


def test_a_disk_is_its_table_its_parts_and_zeros(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "shelf")
    first = shelf.put(os.urandom(MIB + 512))
    second = shelf.put(os.urandom(4096), 3 * MIB)
    disk = gpt((MIB, first), (3 * MIB, second), (8 * MIB, BLANK), size=12 * MIB)
    head, tail = write_gpt(disk)
    whole = bytearray(12 * MIB)
    whole[: len(head)], whole[-len(tail) :] = head, tail
    for offset, path in ((MIB, shelf.path(first)), (3 * MIB, shelf.path(second)), (8 * MIB, shelf.blank(BLANK))):
        data = path.read_bytes()
        whole[offset : offset + len(data)] = data
    with open_disk(disk, shelf) as blocks:
        buffer = bytearray(b"?" * BLOCK_SIZE)
        read = bytearray()
        for index in range(blocks.layout.blocks):
            blocks.read(index, buffer)
            read += buffer
        assert bytes(read) == bytes(whole)
        assert block_digests(blocks) == plain_digests(bytes(whole))
        solid = list(blocks.solid())
    assert solid == sorted(set(solid))
    assert 7 not in solid  # inside the second part, where it is a hole
    assert set(plain_digests(bytes(whole))) <= set(solid)


def test_the_last_block_is_filled_with_zeros(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "shelf")
    data = os.urandom(BLOCK_SIZE + 512)
    with open_disk(bare(shelf.put(data)), shelf) as blocks:
        buffer = bytearray(b"?" * BLOCK_SIZE)
        blocks.read(1, buffer)
        assert bytes(buffer) == data[BLOCK_SIZE:].ljust(BLOCK_SIZE, b"\0")
        assert blocks.layout.gib == 1


def test_zeros_that_are_no_hole_are_no_block_either(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "shelf")
    with open_disk(bare(shelf.put(b"x" + bytes(2 * BLOCK_SIZE - 1))), shelf) as blocks:
        assert list(blocks.solid()) == [0, 1]
        assert list(block_digests(blocks)) == [0]
    assert block_digest(bytearray(BLOCK_SIZE)) is None


@pytest.mark.parametrize("harm", ["shorter", "longer", "gone", "a link"])
def test_a_part_that_is_not_as_the_image_says_is_refused(tmp_path: Path, harm: str) -> None:
    shelf = Shelf(tmp_path / "shelf")
    address = shelf.put(os.urandom(MIB))
    path = shelf.path(address)
    if harm == "gone":
        path.unlink()
    elif harm == "a link":
        path.rename(path.with_suffix(".there"))
        path.symlink_to(path.with_suffix(".there"))
    else:
        os.truncate(path, MIB + (512 if harm == "longer" else -512))
    with pytest.raises(SnapshotFailed, match="stage"), open_disk(bare(address), shelf):
        pass
    assert not [one for one in Path("/proc/self/fd").iterdir() if str(tmp_path) in str(one.resolve())]


def test_a_part_that_becomes_shorter_meanwhile_is_refused(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "shelf")
    address = shelf.put(os.urandom(4 * MIB))
    with open_disk(bare(address), shelf) as blocks:
        os.truncate(shelf.path(address), MIB)
        with pytest.raises(SnapshotFailed, match="ends at byte 1048576"):
            block_digests(blocks, range(8))


def test_memory_does_not_grow_with_the_disk(tmp_path: Path) -> None:
    """A disk of 20 GiB, all but some of it hole, in a process that may not have 256 MiB beside what Python takes."""
    shelf = Shelf(tmp_path / "shelf")
    shelf.directory.mkdir()
    path = shelf.directory / "large"
    with path.open("wb") as file:
        for at in range(0, 20 << 10, 256):
            file.seek(at * MIB)
            file.write(b"some bytes")
        file.truncate(20 << 30)
    program = f"""
import os, resource
from deployer.ec2.snapshots.blocks import Layout, Run
from deployer.ec2.snapshots.disk_reader import OpenDisk, block_digests
layout = Layout(size=20 << 30, runs=(Run(offset=0, length=20 << 30, source="x"),))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = block_digests(OpenDisk(layout, [os.open({str(path)!r}, os.O_RDONLY)]))
print(len(found), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    count, grown = map(int, ended.stdout.split())
    assert count == 80
    assert grown * 1024 < 64 * MIB
