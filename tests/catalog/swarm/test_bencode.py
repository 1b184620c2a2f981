"""Bencoding: one form, the same that libtorrent writes; everything else refused with its place."""

import libtorrent as lt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.errors import Malformed
from catalog.swarm.bencode import bdecode, bencode

values = st.recursive(
    st.integers(-(2**63), 2**63 - 1) | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.binary(max_size=6), inner, max_size=4),
    max_leaves=12,
)


@given(values)
def test_bencoding_reads_what_it_wrote_and_agrees_with_libtorrent(value) -> None:
    data = bencode(value)
    assert bdecode(data, "x") == value
    if isinstance(value, dict):
        assert lt.bencode(value) == data


@given(st.binary(max_size=40))
def test_bencoding_refuses_or_reads_the_one_form(data: bytes) -> None:
    try:
        value = bdecode(data, "x")
    except Malformed:
        return
    assert bencode(value) == data


@pytest.mark.parametrize(
    ("what", "data", "place"),
    [
        ("nothing", b"", "byte 0"),
        ("a leading zero", b"i01e", "byte 1"),
        ("minus zero", b"i-0e", "byte 1"),
        ("no digits", b"ie", "byte 1"),
        ("a number too long", b"i" + b"9" * 30 + b"e", "byte 1"),
        ("a text that is cut", b"5:abc", "is truncated"),
        ("a text of negative length", b"-1:", "byte 0"),
        ("keys out of order", b"d1:b1:x1:a1:ye", "not in order"),
        ("a key twice", b"d1:a1:x1:a1:ye", "not in order"),
        ("a key that is no text", b"di1e1:xe", "byte 1"),
        ("a list that does not end", b"l1:a", "byte 4"),
        ("something after the end", b"i1ei2e", "byte 3"),
        ("lists in lists in lists", b"l" * 5000, "deep"),
    ],
)
def test_malformed_bencoding_is_refused_with_its_place(what: str, data: bytes, place: str) -> None:
    with pytest.raises(Malformed, match=place):
        bdecode(data, "thing")
