"""One pass over files: what it finds, what it does not read, and what it refuses."""

import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.content import indexing as measuring
from catalog.content.indexing import (
    HINT_BLOCK,
    READ_SIZE,
    ContentIndex,
    decode_data_map,
    index_descriptor,
    index_file,
    verify_content,
)
from catalog.errors import ContentMismatch, Malformed, NotFound
from catalog.image.address import LEAF, Address, layer_root

MIB = 1 << 20


def _by_hand(content: bytes) -> ContentIndex:
    """The same by other means: everything in memory, nothing skipped."""
    leaves = [content[i : i + LEAF] for i in range(0, len(content), LEAF)]
    blocks = [content[i : i + HINT_BLOCK] for i in range(0, len(content), HINT_BLOCK)]
    bits = "".join("1" if any(leaf) else "0" for leaf in leaves)
    bits += "0" * (-len(bits) % 8)
    address = Address.of(content)
    return ContentIndex(
        address=address,
        data_map=int(bits, 2).to_bytes(len(bits) // 8, "big"),
        layer=b"",
        hints=b"".join((xxhash.xxh3_64_intdigest(b) if any(b) else 0).to_bytes(8, "little") for b in blocks),
        data_bytes=sum(len(leaf) for leaf in leaves if any(leaf)),
    )


def _check(found: ContentIndex, content: bytes) -> None:
    expected = _by_hand(content)
    assert found.address == expected.address
    assert found.data_map == expected.data_map
    assert found.hints == expected.hints
    assert found.data_bytes == expected.data_bytes
    assert layer_root(found.layer, len(content)) == expected.address.root


_RUN = st.tuples(
    st.sampled_from(["data", "zeros", "hole", "sprinkled"]),
    st.sampled_from([1, 100, 4096, 4097, LEAF - 1, LEAF, LEAF + 1, 5 * LEAF, READ_SIZE, READ_SIZE + 17]),
)


@settings(deadline=None, max_examples=150)
@given(st.lists(_RUN, min_size=1, max_size=7))
def test_every_mixture_of_data_zeros_and_holes_is_measured(
    tmp_path_factory: pytest.TempPathFactory, runs: list[tuple[str, int]]
) -> None:
    path = tmp_path_factory.mktemp("content") / "file"
    source = random.Random(len(runs))
    with path.open("wb") as file:
        for kind, length in runs:
            if kind == "hole":
                file.seek(length, os.SEEK_CUR)
            elif kind == "sprinkled":
                file.write(b"\0" * (length - 1) + b"\1")
            else:
                file.write(source.randbytes(length) if kind == "data" else bytes(length))
        file.truncate(file.tell())
    _check(index_file(path), path.read_bytes())
    path.unlink()


@pytest.mark.parametrize("tail", [0, 1, 4095, 4096, 4097])
@pytest.mark.parametrize("fill", [b"\0", b"\1"])
def test_the_last_leaf_may_be_short(tmp_path: Path, tail: int, fill: bytes) -> None:
    path = tmp_path / "content"
    path.write_bytes(b"\1" * LEAF + fill * tail)
    _check(index_file(path), path.read_bytes())


def test_stored_zeros_and_holes_are_one_content(tmp_path: Path) -> None:
    stored, hollow = tmp_path / "stored", tmp_path / "hollow"
    stored.write_bytes(b"x" * 70000 + bytes(MIB) + b"y" * 70000)
    with hollow.open("wb") as file:
        file.write(b"x" * 70000)
        file.seek(MIB, os.SEEK_CUR)
        file.write(b"y" * 70000)
    assert hollow.stat().st_blocks < stored.stat().st_blocks
    assert index_file(stored) == index_file(hollow)


def test_holes_smaller_than_a_leaf_do_not_count_it_twice(tmp_path: Path) -> None:
    path = tmp_path / "content"
    with path.open("wb") as file:
        for block in (0, 2, 3, 5, 7, 11, 16, 30):
            file.seek(block * 4096)
            file.write(b"d" * 4096)
        file.truncate(40 * 4096)
    steps: list[int] = []
    found = index_file(path, steps.append)
    _check(found, path.read_bytes())
    assert sum(steps) == 40 * 4096
    assert min(steps) >= 0


def test_32_gib_of_holes_are_not_read(tmp_path: Path) -> None:
    """At the rate of hashing it would take 20 s and more; the bound leaves room for a busy machine."""
    path = tmp_path / "content"
    with path.open("wb") as file:
        file.truncate(32 << 30)
        file.seek(20 << 30)
        file.write(b"data")
    before = time.process_time()
    found = index_file(path)
    assert time.process_time() - before < 3
    assert found.data_bytes == LEAF
    assert list(found.extents()) == [(20 << 30, LEAF)]


def test_progress_adds_up_to_the_size(tmp_path: Path) -> None:
    path = tmp_path / "content"
    with path.open("wb") as file:
        file.seek(3 * MIB)
        file.write(b"z" * 700000)
        file.truncate(9 * MIB + 5)
    steps: list[int] = []
    index_file(path, steps.append)
    assert sum(steps) == 9 * MIB + 5
    assert min(steps) >= 0


def test_a_block_in_the_middle_has_the_hint_that_any_reader_finds(tmp_path: Path) -> None:
    content = random.Random(1).randbytes(10 * HINT_BLOCK + 7)
    path = tmp_path / "content"
    path.write_bytes(content)
    hints = index_file(path).hints
    assert hints[24:32] == xxhash.xxh3_64_intdigest(content[3 * HINT_BLOCK : 4 * HINT_BLOCK]).to_bytes(8, "little")
    assert len(hints) == 11 * 8


def test_extents_are_runs_of_leaves() -> None:
    assert list(decode_data_map(b"\xb0", 5 * LEAF)) == [(0, LEAF), (2 * LEAF, 2 * LEAF)]
    assert list(decode_data_map(b"\x08", 4 * LEAF + 10)) == [(4 * LEAF, 10)]
    assert list(decode_data_map(b"\x00", 5 * LEAF)) == []
    assert list(decode_data_map(b"\xff\x80", 9 * LEAF)) == [(0, 9 * LEAF)]


@settings(deadline=None)
@given(st.binary(min_size=1, max_size=6), st.integers(0, 7), st.integers(1, LEAF))
def test_extents_say_what_the_bits_say(data_map: bytes, missing: int, tail: int) -> None:
    leaves = 8 * len(data_map) - missing
    size = (leaves - 1) * LEAF + tail
    found = list(decode_data_map(data_map, size))
    covered = {at // LEAF for start, length in found for at in range(start, start + length, LEAF)}
    assert covered == {i for i in range(leaves) if data_map[i // 8] & (0x80 >> i % 8)}
    assert all(start + length <= size for start, length in found)


def _symbolic_link(path: Path) -> None:
    path.symlink_to("/etc/passwd")


REFUSALS: dict[str, tuple[Callable[[Path], object], type[Exception], str]] = {
    "nothing there": (lambda _path: None, NotFound, "no such file"),
    "an empty file": (lambda path: path.touch(), Malformed, "has 0 bytes"),
    "a directory": (lambda path: path.mkdir(), Malformed, "is neither a regular file nor a block device"),
    "a named pipe": (os.mkfifo, Malformed, "is neither a regular file nor a block device"),
    "a symbolic link": (_symbolic_link, Malformed, "cannot be read: Too many levels of symbolic links"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_is_no_content_is_refused(tmp_path: Path, name: str) -> None:
    make, error, reason = REFUSALS[name]
    make(tmp_path / "x")
    with pytest.raises(error, match=f"{tmp_path}/x: {reason}"):
        index_file(tmp_path / "x")


@pytest.mark.parametrize("fewer", [1, LEAF, READ_SIZE, 3 * READ_SIZE - 5])
def test_a_file_that_shrinks_is_refused(tmp_path: Path, fewer: int) -> None:
    path = tmp_path / "content"
    path.write_bytes(b"x" * 4 * READ_SIZE)

    def shrink(done: int) -> None:
        if done:
            os.truncate(path, 4 * READ_SIZE - fewer)

    with pytest.raises(Malformed, match="became shorter"):
        index_file(path, shrink)


def test_a_file_that_grows_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "content"
    path.write_bytes(b"x" * READ_SIZE)
    with pytest.raises(Malformed, match="became longer"):
        index_file(path, lambda _done: os.truncate(path, 2 * READ_SIZE))


def test_short_reads_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read may bring less than was asked for, for instance from a network filesystem."""
    path = tmp_path / "content"
    content = random.Random(2).randbytes(3 * READ_SIZE + 777)
    path.write_bytes(content)
    pread = os.pread
    sizes = random.Random(3)

    def short(descriptor: int, length: int, offset: int) -> bytes:
        return pread(descriptor, sizes.randint(1, length), offset)

    monkeypatch.setattr(measuring.os, "pread", short)
    found = index_file(path)
    monkeypatch.undo()
    _check(found, content)


def test_an_open_file_is_measured_too(tmp_path: Path) -> None:
    path = tmp_path / "content"
    path.write_bytes(b"abc")
    with path.open("rb") as file:
        assert index_descriptor(file.fileno(), "it").address == Address.of(b"abc")


def test_verifying_gives_what_measuring_gives(tmp_path: Path) -> None:
    path = tmp_path / "content"
    path.write_bytes(b"q" * 100000)
    assert verify_content(path, Address.of(b"q" * 100000)) == index_file(path)


def test_verifying_refuses_another_size_without_reading(tmp_path: Path) -> None:
    path = tmp_path / "content"
    path.write_bytes(b"q" * 64)
    steps: list[int] = []
    with pytest.raises(ContentMismatch, match="has 64 bytes, but its address says 65"):
        verify_content(path, Address(bytes(32), 65), steps.append)
    assert steps == []


@pytest.mark.parametrize("at", [0, 50000, 99999])
def test_verifying_finds_one_wrong_bit(tmp_path: Path, at: int) -> None:
    content = bytearray(b"q" * 100000)
    address = Address.of(bytes(content))
    content[at] ^= 1
    path = tmp_path / "content"
    path.write_bytes(content)
    with pytest.raises(ContentMismatch, match="has the root .* not " + address.root.hex()):
        verify_content(path, address)


def test_verifying_finds_the_forgery_that_has_the_same_root(tmp_path: Path) -> None:
    first, second = b"a" * LEAF, b"b" * LEAF
    forged = tmp_path / "forged"
    forged.write_bytes(Address.of(first).root + Address.of(second).root)
    honest = Address.of(first + second)
    assert index_file(forged).address.root == honest.root
    with pytest.raises(ContentMismatch, match="has 64 bytes"):
        verify_content(forged, honest)
