"""Addresses: their form, their tree, and why the size is part of them."""

import hashlib
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.image.address import (
    LARGEST_PIECE,
    LEAF,
    MAX_SIZE,
    SMALLEST_PIECE,
    Address,
    layer_root,
    merkle_root,
    merkle_tree,
    piece_length,
)
from signer.documents import Document, canonical, parse
from signer.errors import DocumentError

ROOT = bytes(range(32))


def _by_the_book(leaves: list[bytes]) -> bytes:
    """BEP 52 in the fewest words: pad with zero hashes to a power of two, combine pairs until one is left."""
    row = leaves + [bytes(32)] * ((1 << (len(leaves) - 1).bit_length()) - len(leaves))
    while len(row) > 1:
        row = [hashlib.sha256(row[i] + row[i + 1]).digest() for i in range(0, len(row), 2)]
    return row[0]


def test_without_its_size_an_address_would_name_two_contents() -> None:
    """BEP 52 hashes leaves and nodes alike, so whoever knows a tree can make another content with the same root."""
    honest = bytes(LEAF) + b"\1" * LEAF
    forged = hashlib.sha256(bytes(LEAF)).digest() + hashlib.sha256(b"\1" * LEAF).digest()
    assert len(forged) == 64
    assert Address.of(honest).root == Address.of(forged).root
    assert Address.of(honest) != Address.of(forged)
    assert str(Address.of(honest)) != str(Address.of(forged))


def test_padding_leaves_are_not_leaves_of_zeros() -> None:
    assert Address.of(bytes(3 * LEAF)).root != Address.of(bytes(4 * LEAF)).root
    assert Address.of(bytes(LEAF - 1)).root != Address.of(bytes(LEAF)).root


@pytest.mark.parametrize("size", [1, LEAF, 12345678901, MAX_SIZE])
def test_the_text_form_is_read_again(size: int) -> None:
    address = Address(ROOT, size)
    assert str(address) == f"{ROOT.hex()}-{size}"
    assert Address.parse(str(address)) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        ROOT.hex(),
        ROOT.hex() + "-",
        ROOT.hex() + "-0",
        ROOT.hex() + "-01",
        ROOT.hex() + "--1",
        ROOT.hex() + "-1 ",
        ROOT.hex() + "-1\n",
        ROOT.hex() + "-1.0",
        ROOT.hex() + "-١",
        ROOT.hex() + f"-{MAX_SIZE + 1}",
        ROOT.hex() + "-" + "9" * 100,
        ROOT.hex()[:-1] + "-1",
        ROOT.hex() + "0-1",
        "Z" + ROOT.hex()[1:] + "-1",
        ROOT.hex().upper() + "-1",
        "../" + ROOT.hex() + "-1",
        "sha256:" + ROOT.hex() + "-1",
    ],
)
def test_any_other_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not an address|address is between"):
        Address.parse(text)


@given(st.text(max_size=120))
def test_what_is_parsed_has_one_text_form(text: str) -> None:
    try:
        address = Address.parse(text)
    except ValueError:
        return
    assert str(address) == text


@given(st.tuples(st.just(str(Address(ROOT, 16384))), st.integers(0, 69), st.characters(codec="utf-8")))
def test_a_mutated_address_is_refused_or_another(parts: tuple[str, int, str]) -> None:
    text, at, sign = parts
    mutated = text[:at] + sign + text[at + 1 :]
    try:
        address = Address.parse(mutated)
    except ValueError:
        return
    assert str(address) == mutated


def test_what_cannot_be_an_address_is_not_made() -> None:
    with pytest.raises(ValueError, match="has 32 bytes, not 31"):
        Address(ROOT[1:], 1)
    for size in (0, -1, MAX_SIZE + 1):
        with pytest.raises(ValueError, match="address is between"):
            Address(ROOT, size)


class _Holder(Document):
    address: Address


def test_documents_carry_the_text_form() -> None:
    held = _Holder(address=Address(ROOT, 5))
    assert canonical(held) == b'{"address":"' + str(Address(ROOT, 5)).encode() + b'"}'
    assert parse(_Holder, canonical(held), "holder") == held
    with pytest.raises(DocumentError, match=r"\$\.address: .*is not an address"):
        parse(_Holder, b'{"address":"x"}', "holder")
    with pytest.raises(DocumentError, match=r"\$\.address"):
        parse(_Holder, b'{"address":5}', "holder")


@pytest.mark.parametrize(
    ("size", "length"),
    [
        (1, 64 << 10),
        (512 << 20, 64 << 10),
        ((512 << 20) + 1, 128 << 10),
        (1 << 30, 128 << 10),
        ((1 << 30) + 1, 256 << 10),
        (MAX_SIZE, 256 << 10),
    ],
)
def test_the_piece_length_follows_from_the_size(size: int, length: int) -> None:
    assert piece_length(size) == length


@given(st.integers(1, MAX_SIZE))
def test_a_piece_length_is_a_power_of_two_within_its_bounds(size: int) -> None:
    length = piece_length(size)
    assert SMALLEST_PIECE <= length <= LARGEST_PIECE
    assert length & (length - 1) == 0
    assert length == LARGEST_PIECE or size <= 8192 * length


def test_piece_lengths_never_shrink() -> None:
    lengths = [piece_length(size) for size in range(1, 2 << 30, 10 << 20)]
    assert all(low <= high for low, high in pairwise(lengths))


@settings(deadline=None)
@given(
    st.lists(
        st.sampled_from([bytes(32), ROOT, ROOT[::-1], hashlib.sha256(bytes(LEAF)).digest()]), min_size=1, max_size=70
    )
)
def test_the_root_is_that_of_the_book(leaves: list[bytes]) -> None:
    assert merkle_root(leaves) == _by_the_book(leaves)
    root, layer = merkle_tree(leaves, len(leaves) * LEAF)
    assert root == _by_the_book(leaves)
    assert layer_root(layer, len(leaves) * LEAF) == root


def test_the_layer_is_a_row_of_the_tree() -> None:
    leaves = [hashlib.sha256(bytes([index])).digest() for index in range(10)]
    _, layer = merkle_tree(leaves, 10 * LEAF - 5)
    assert layer[:32] == _by_the_book(leaves[:4])
    assert layer[32:64] == _by_the_book(leaves[4:8])
    assert layer[64:] == _by_the_book([*leaves[8:], bytes(32), bytes(32)])


def test_content_of_one_piece_has_its_root_for_a_layer() -> None:
    for content in (b"x", bytes(LEAF), b"y" * 4 * LEAF):
        leaves = [hashlib.sha256(content[i : i + LEAF]).digest() for i in range(0, len(content), LEAF)]
        root, layer = merkle_tree(leaves, len(content))
        assert layer == root == Address.of(content).root
        assert layer_root(layer, len(content)) == root


def test_a_layer_of_the_wrong_length_is_refused() -> None:
    for length in (0, 31, 33, 64, 3200):
        with pytest.raises(ValueError, match=f"has 32 bytes, not {length}"):
            layer_root(bytes(length), LEAF)


def test_a_layer_with_one_wrong_bit_has_another_root() -> None:
    leaves = [hashlib.sha256(bytes([index])).digest() for index in range(64)]
    root, layer = merkle_tree(leaves, 64 * LEAF)
    for at in range(0, len(layer), 32):
        wrong = bytearray(layer)
        wrong[at] ^= 1
        assert layer_root(bytes(wrong), 64 * LEAF) != root


def test_leaves_must_fit_the_size() -> None:
    with pytest.raises(ValueError, match="16385 bytes have 2 leaves, not 1"):
        merkle_tree([ROOT], LEAF + 1)
    with pytest.raises(ValueError, match="without leaves"):
        merkle_root([])


def test_the_number_of_leaves_is_rounded_up() -> None:
    assert [Address(ROOT, size).leaves for size in (1, LEAF, LEAF + 1)] == [1, 1, 2]
