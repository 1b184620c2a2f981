"""What proves a piece, and what does not."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.content.indexing import ContentIndex, index_file
from catalog.image.address import LEAF, Address
from stager.content.piece_map import PieceMap, piece_runs

PIECE = 64 << 10


def measured(tmp_path: Path, content: bytes) -> ContentIndex:
    path = tmp_path / "content"
    path.write_bytes(content)
    return index_file(path)


def guide_of(one: ContentIndex) -> PieceMap:
    return PieceMap.of(one.address, one.layer, one.data_map)


def leaves(pattern: str, tail: int = 0) -> bytes:
    """One leaf for each sign: `.` zeros, anything else data; then `tail` bytes of data."""
    return b"".join(bytes(LEAF) if sign == "." else sign.encode() * LEAF for sign in pattern) + b"t" * tail


SHAPES = {
    "one short leaf": leaves("", 100),
    "one zero byte": b"\0",
    "one piece": leaves("abcd"),
    "one piece and a byte": leaves("abcd", 1),
    "a zero piece in the middle": leaves("abcd....efgh"),
    "a zero piece at the end": leaves("abcd...."),
    "a short zero piece at the end": leaves("abcd....") + bytes(5000),
    "all zero": leaves("............"),
    "holes within pieces": leaves(".b.d..g....h", 17),
    "three leaves": leaves("abc"),
}


@pytest.mark.parametrize("content", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("known", ["layer and map", "layer", "map", "nothing"])
def test_every_needed_piece_proves_itself_from_its_ranges(tmp_path: Path, content: bytes, known: str) -> None:
    one = measured(tmp_path, content)
    guide = PieceMap.of(one.address, one.layer if "layer" in known else None, one.data_map if "map" in known else None)
    rebuilt = bytearray(len(content))
    for piece in guide.needed:
        ranges = guide.ranges(piece)
        start, end = ranges[0][0], ranges[-1][1]
        runs = guide.verify_piece(piece, start, content[start:end])
        assert runs is not None
        for offset, data in runs:
            rebuilt[offset : offset + len(data)] = data
    assert bytes(rebuilt) == content
    covered = {at for offset, length in guide.data_extents for at in range(offset, offset + length, LEAF)}
    data = {at for at in range(0, len(content), LEAF) if any(content[at : at + LEAF])}
    assert data <= covered
    if "map" in known:
        assert data == covered


def test_zero_pieces_are_known_from_the_layer_alone(tmp_path: Path) -> None:
    one = measured(tmp_path, leaves("abcd....efgh....") + bytes(5000))
    assert PieceMap.of(one.address, one.layer).needed == (0, 2)


def test_a_flipped_bit_anywhere_is_seen(tmp_path: Path) -> None:
    content = leaves("abcdefgh", 77)
    guide = guide_of(measured(tmp_path, content))
    for at in (0, LEAF - 1, LEAF, PIECE - 1, PIECE, len(content) - 1):
        piece = at // PIECE
        start, end = guide.bounds(piece)
        wrong = bytearray(content)
        wrong[at] ^= 1
        assert guide.verify_piece(piece, start, bytes(wrong[start:end])) is None


def test_a_piece_in_the_place_of_another_is_seen(tmp_path: Path) -> None:
    content = leaves("abcdefgh")
    guide = guide_of(measured(tmp_path, content))
    assert guide.verify_piece(1, PIECE, content[:PIECE]) is None


@pytest.mark.parametrize(
    ("why", "layer"),
    [
        ("another content's", lambda one: bytes(len(one.layer))),
        ("too short", lambda one: one.layer[:-32]),
        ("not whole hashes", lambda one: one.layer[:-1]),
        ("swapped", lambda one: one.layer[32:64] + one.layer[:32] + one.layer[64:]),
        ("empty", lambda _: b""),
    ],
)
def test_a_layer_that_does_not_prove_itself_is_not_used(tmp_path: Path, why: str, layer) -> None:
    one = measured(tmp_path, leaves("abcdefghijkl"))
    assert PieceMap.of(one.address, layer(one), one.data_map).layer is None, why


def test_a_map_of_another_size_is_not_used(tmp_path: Path) -> None:
    one = measured(tmp_path, leaves("abcdefghijkl"))
    assert PieceMap.of(one.address, one.layer, one.data_map + b"\0").data_map is None
    assert PieceMap.of(one.address, one.layer, b"").data_map is None


def test_a_map_that_hides_data_hides_none_from_the_layer(tmp_path: Path) -> None:
    one = measured(tmp_path, leaves("abcdefgh"))
    guide = PieceMap.of(one.address, one.layer, bytes(len(one.data_map)))
    assert guide.needed == (0, 1)
    assert guide.ranges(1) == [(PIECE, 2 * PIECE)]
    assert guide.data_extents == ((0, 2 * PIECE),)


def test_a_map_that_invents_data_invents_none_for_the_layer(tmp_path: Path) -> None:
    one = measured(tmp_path, leaves("abcd....efgh"))
    guide = PieceMap.of(one.address, one.layer, b"\xff\xff")
    assert guide.needed == (0, 2)
    assert guide.data_extents == ((0, PIECE), (2 * PIECE, PIECE))


def test_small_content_needs_no_layer() -> None:
    assert PieceMap.of(Address.of(b"small")).layer == Address.of(b"small").root


@given(st.sets(st.integers(0, 60)), st.integers(1, 9))
@settings(max_examples=50)
def test_parts_cover_each_piece_once_and_in_order(pieces: set[int], per_part: int) -> None:
    ordered = sorted(pieces)
    found = list(piece_runs(ordered, per_part))
    assert [piece for first, last in found for piece in range(first, last + 1)] == ordered
    assert all(last - first < per_part for first, last in found)
