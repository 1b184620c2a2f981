"""Ranges and publication requests as text: any text is read or refused."""

from hypothesis import given
from hypothesis import strategies as st

from catalog.errors import RangeRefused
from catalog.image.address import LEAF, Address
from catalog.schema.images import PublicationRequest, parse_content_range, parse_range
from signer.documents import parse
from signer.errors import DocumentError


@given(st.text(max_size=40) | st.from_regex(r"bytes=[0-9]{0,4}-[0-9]{0,4}", fullmatch=True), st.integers(1, 5000))
def test_any_text_as_range(header: str, size: int) -> None:
    """A range inside the content, or RangeRefused."""
    try:
        start, end = parse_range(header, size)
    except RangeRefused:
        return
    assert 0 <= start < end <= size


@given(
    st.text(max_size=40) | st.from_regex(r"bytes [0-9]{1,6}-[0-9]{1,6}/40000", fullmatch=True), st.integers(0, 50000)
)
def test_any_text_as_content_range(header: str, length: int) -> None:
    """A range of whole leaves as long as the body, or RangeRefused."""
    try:
        start, end = parse_content_range(header, length, Address(bytes(32), 40000))
    except RangeRefused:
        return
    assert start % LEAF == 0
    assert end - start == length
    assert end % LEAF == 0 or end == 40000


@given(st.binary(max_size=400))
def test_any_bytes_as_request(data: bytes) -> None:
    """A request, or DocumentError."""
    try:
        parse(PublicationRequest, data, "publication")
    except DocumentError as error:
        place = str(error)
    else:
        return
    assert place.startswith("publication: $")
