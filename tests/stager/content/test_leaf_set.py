"""The exact state of what is still arriving, against a plain set of leaves."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.image.address import LEAF, Address, piece_length
from stager.content.leaf_set import LeafSet, union


@st.composite
def contents(draw: st.DrawFn) -> tuple[Address, set[int]]:
    size = draw(st.integers(1, 40 * LEAF))
    address = Address(b"r" * 32, size)
    return address, draw(st.sets(st.integers(0, address.leaves - 1)))


def leaves_of(address: Address, numbers: set[int]) -> LeafSet:
    leaves = LeafSet(address)
    for number in numbers:
        leaves.add(number * LEAF, min((number + 1) * LEAF, address.size))
    return leaves


def length(address: Address, number: int) -> int:
    return min(LEAF, address.size - number * LEAF)


@given(contents())
def test_it_agrees_with_a_set_of_leaves(content: tuple[Address, set[int]]) -> None:
    address, numbers = content
    leaves = leaves_of(address, numbers)
    assert leaves.missing == sum(length(address, n) for n in range(address.leaves) if n not in numbers)
    assert leaves.complete == (len(numbers) == address.leaves)
    assert LeafSet.of_bits(address, leaves.bits()).bits() == leaves.bits()
    assert {n for n in range(address.leaves) if leaves.bits()[n >> 3] & (0x80 >> (n & 7))} == numbers
    covered = {n for start, end in leaves.ranges() for n in range(start // LEAF, -(-end // LEAF))}
    assert covered == numbers
    per = piece_length(address.size) // LEAF
    have, unfinished = leaves.as_pieces()
    for piece, whole in enumerate(have):
        members = set(range(piece * per, min((piece + 1) * per, address.leaves)))
        assert whole == (members <= numbers) == leaves.has_piece(piece)
        partly = bool(members & numbers) and not whole
        assert (piece in unfinished) == partly
        if partly:
            assert unfinished[piece] == [n in numbers for n in sorted(members)]
    assert leaves.missing_pieces() == [piece for piece, whole in enumerate(have) if not whole]


@given(contents(), st.integers(0, 45 * LEAF), st.integers(0, 45 * LEAF))
def test_adding_counts_new_bytes_of_whole_leaves_only(content: tuple[Address, set[int]], one: int, two: int) -> None:
    address, numbers = content
    leaves, (start, end) = leaves_of(address, numbers), sorted((one, two))
    new = {n for n in range(address.leaves) if start <= n * LEAF and n * LEAF + length(address, n) <= end} - numbers
    before = leaves.missing
    assert leaves.add(start, end) == sum(length(address, n) for n in new) == before - leaves.missing
    assert union(leaves_of(address, numbers), [(start, end)]).bits() == leaves.bits()


def test_a_piece_can_be_dropped() -> None:
    leaves = LeafSet(Address(b"r" * 32, 5 * 65536 + 1))
    assert sum(leaves.add_piece(piece) for piece in range(6)) == 5 * 65536 + 1
    leaves.drop_piece(5)
    leaves.drop_piece(2)
    assert leaves.missing_pieces() == [2, 5]
    assert leaves.missing == 65537


@pytest.mark.parametrize("bits", [b"", b"\xff\xff", b"\x01"])
def test_bits_of_another_content_are_refused(bits: bytes) -> None:
    with pytest.raises(ValueError, match="bit"):
        LeafSet.of_bits(Address(b"r" * 32, 3 * LEAF), bits)
