"""Bytes that are not a manifest's one form, and values in places where they do not belong."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.image.manifest import MAX_MANIFEST, Manifest
from signer.documents import canonical
from signer.errors import DocumentError
from tests.catalog.image.test_manifest import ADDRESS, _document

GOOD = canonical(_document())


BYTES: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "is not JSON"),
    "no JSON": (b"manifest", "is not JSON at line 1, column 1"),
    "no object": (b"[]", r"\$: "),
    "half of it": (GOOD[:-100], "is not JSON"),
    "no UTF-8": (GOOD.replace(b"star", b"st\xffr"), "is not UTF-8 at byte"),
    "a byte order mark": (b"\xef\xbb\xbf" + GOOD, "is not JSON|BOM"),
    "a newline at the end": (GOOD + b"\n", "is not in canonical form"),
    "spaces": (GOOD.replace(b":", b": ", 1), "is not in canonical form"),
    "members in another order": (b'{"vo":"star",' + GOOD[1:].replace(b'"vo":"star",', b"").replace(b',"vo":"star"', b""), "canonical"),
    "an escape that need not be": (GOOD.replace(b'"star"', b'"\\u0073tar"'), "is not in canonical form"),
    "a default left out": (GOOD.replace(b'"flags":[],', b"", 1), "is not in canonical form"),
    "a member twice": (GOOD[:-1] + b',"vo":"star"}', "the member 'vo' is listed twice"),
    "a member twice, deep inside": (GOOD.replace(b'"cores":1', b'"cores":1,"cores":2'), "'cores' is listed twice"),
    "a number with a point": (GOOD.replace(b'"cores":1', b'"cores":1.0'), "1.0 is not an integer"),
    "a number with an exponent": (GOOD.replace(b'"cores":1', b'"cores":1e0'), "1e0 is not an integer"),
    "a number too large for JSON": (GOOD.replace(b'"cores":1', b'"cores":9007199254740993'), "is not an integer"),
    "no number": (GOOD.replace(b'"cores":1', b'"cores":NaN'), "NaN is not an integer"),
    "lists without end": (b"[" * 100000, "nested too deeply"),
    "too large": (b" " * (MAX_MANIFEST + 1), f"has {MAX_MANIFEST + 1} bytes, more than the {MAX_MANIFEST} allowed"),
    "half a surrogate pair": (GOOD.replace(b'"base"', b'"\\ud800"'), r"\$"),
}  # fmt: skip


@pytest.mark.parametrize("name", BYTES)
def test_bytes_that_are_not_the_one_form_are_refused(name: str) -> None:
    data, reason = BYTES[name]
    assert data != GOOD
    with pytest.raises(DocumentError, match=reason):
        Manifest.parse(data)


@settings(deadline=None, max_examples=300)
@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=4), st.booleans())
def test_mutated_bytes_are_refused_or_another_image(changes: list[tuple[int, int]], cut: bool) -> None:
    data = bytearray(GOOD)
    for at, value in changes:
        data[at] = value
    if cut:
        del data[changes[0][0]]
    try:
        manifest = Manifest.parse(bytes(data))
    except DocumentError:
        return
    assert manifest.canonical() == data


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(1 - 2**53, 2**53 - 1) | st.text(max_size=8) | st.just(ADDRESS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def _places(value: Any, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [way] if way else []
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            found += _places(value[key], (*way, key))
    return found


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(_places(_document())), _JSON)
def test_anything_in_any_place_is_refused_or_fits(way: tuple[Any, ...], value: Any) -> None:
    document = _document()
    place: Any = document
    for part in way[:-1]:
        place = place[part]
    place[way[-1]] = value
    try:
        manifest = Manifest.parse(canonical(document))
    except DocumentError:
        return
    assert Manifest.parse(manifest.canonical()) == manifest
