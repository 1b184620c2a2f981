"""What travels when a machine moves: files that come as they are or not at all, and what a node does about its part."""

import os
import random
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from deployer.errors import MigrationFailed
from deployer.node.migration.manifest import (
    MAX_RUN,
    RUN_HEADER,
    MigrationFile,
    describe_file,
    read_runs,
    verify_file,
    write_runs,
)

MIB = 1 << 20


def sparse(place: Path) -> Path:
    """Three MiB of which a few blocks are not zero, over the edge of a run, and an odd end."""
    rng = random.Random(7)
    with place.open("wb") as file:
        for offset, length in ((0, 5), (MAX_RUN - 100, 5000), (2 * MIB + 4096, 4096), (3 * MIB - 3, 40)):
            file.seek(offset)
            file.write(rng.randbytes(length))
    return place


def bring(source: Path, target: Path, stream: Iterable[bytes] | None = None) -> MigrationFile:
    """What `Taker` does with one file."""
    piece, descriptor = describe_file(source, "disk0.qcow2"), os.open(target, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        start = min(os.fstat(descriptor).st_size, piece.size)
        write_runs(descriptor, piece, read_runs(source, start) if stream is None else stream, lambda _: None)
        os.ftruncate(descriptor, piece.size)
    finally:
        os.close(descriptor)
    verify_file(target, piece)
    return piece


@pytest.mark.parametrize("portion", [1 << 20, 1000, 7])
def test_a_file_comes_as_it_is_and_its_zeros_do_not_travel(tmp_path: Path, portion: int) -> None:
    source = sparse(tmp_path / "a")
    whole = b"".join(read_runs(source))
    assert len(whole) < 10 * 4096
    bring(source, tmp_path / "b", [whole[at : at + portion] for at in range(0, len(whole), portion)])
    assert (tmp_path / "b").read_bytes() == source.read_bytes()
    assert (tmp_path / "b").stat().st_blocks * 512 < 20 * 4096


@pytest.mark.parametrize("cut", [0, 1, 20, 5000, 12000])
def test_a_file_that_was_cut_goes_on_where_it_was(tmp_path: Path, cut: int) -> None:
    source = sparse(tmp_path / "a")
    with pytest.raises(MigrationFailed, match="transfer truncated") as failed:
        bring(source, tmp_path / "b", [b"".join(read_runs(source))[:cut]])
    assert failed.value.again
    bring(source, tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == source.read_bytes()


HOSTILE: list[tuple[str, Callable[[int], bytes], str]] = [
    ("a run beyond the end", lambda size: RUN_HEADER.pack(size - 1, 2) + b"ab", "does not belong to a file"),
    ("a run that is too long", lambda _: RUN_HEADER.pack(0, MAX_RUN + 1), "does not belong to a file"),
    (
        "a run before the one before",
        lambda _: RUN_HEADER.pack(8, 1) + b"a" + RUN_HEADER.pack(0, 1) + b"b",
        "does not belong to a file",
    ),
    ("an offset that is no offset", lambda _: RUN_HEADER.pack((1 << 64) - 1, 1) + b"a", "does not belong to a file"),
    ("other bytes", lambda size: RUN_HEADER.pack(0, 3) + b"abc" + RUN_HEADER.pack(size, 0), "differs from the offer"),
    ("no bytes", lambda size: RUN_HEADER.pack(size, 0), "differs from the offer"),
]


@pytest.mark.parametrize(("what", "stream", "says"), HOSTILE, ids=[what for what, _, _ in HOSTILE])
def test_what_was_not_offered_is_not_believed(
    tmp_path: Path, what: str, stream: Callable[[int], bytes], says: str
) -> None:
    source = sparse(tmp_path / "a")
    with pytest.raises(MigrationFailed, match=says):
        bring(source, tmp_path / "b", [stream(source.stat().st_size)])
