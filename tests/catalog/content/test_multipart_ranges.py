"""Several ranges in one answer, as they are cut into parts and put together again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.content import multipart_ranges as byteranges
from catalog.errors import Malformed, RangeRefused

CONTENT = bytes(range(256)) * 16


def body(ranges: list[tuple[int, int]]) -> bytes:
    """What a catalog sends."""
    parts = (byteranges.part_header(part, len(CONTENT)) + CONTENT[part[0] : part[1]] for part in ranges)
    return b"".join(parts) + byteranges.closing_delimiter()


@given(st.sets(st.integers(0, 4095), min_size=4, max_size=40), st.integers(1, 300))
def test_parts_are_read_however_the_answer_is_cut(edges: set[int], chunk: int) -> None:
    points = sorted(edges)
    ranges = [(a, b) for a, b in zip(points[::2], points[1::2], strict=False)]
    sent = body(ranges)
    assert len(sent) == byteranges.multipart_length(ranges, len(CONTENT))
    assert byteranges.parse_ranges(byteranges.format_ranges(ranges), len(CONTENT)) == ranges
    chunks = [sent[at : at + chunk] for at in range(0, len(sent), chunk)]
    read = b"".join(byteranges.read_parts(chunks, byteranges.BOUNDARY.encode(), ranges, len(CONTENT)))
    assert read == b"".join(CONTENT[a:b] for a, b in ranges)


def test_an_answer_that_is_cut_ends_early() -> None:
    sent = body([(0, 100), (200, 300)])
    read = byteranges.read_parts([sent[:250]], byteranges.BOUNDARY.encode(), [(0, 100), (200, 300)], len(CONTENT))
    assert 100 <= len(b"".join(read)) < 200


WRONG = {
    "another range": (body([(0, 100), (300, 400)]), "instead of 200-299"),
    "another order": (body([(200, 300), (0, 100)]), "instead of 0-99"),
    "another size": (body([(0, 100)]).replace(b"/4096", b"/4097"), "instead of 0-99"),
    "no parts": (b"x" * 100 + b"\r\n\r\n", "malformed part header"),
    "an endless header": (b"\r\n--partita-range\r\nX: " + b"y" * 2000, "header of a range.s part has more than"),
}


@pytest.mark.parametrize(("sent", "message"), WRONG.values(), ids=WRONG.keys())
def test_parts_that_were_not_asked_for_are_refused(sent: bytes, message: str) -> None:
    with pytest.raises(Malformed, match=message):
        list(byteranges.read_parts([sent], b"partita-range", [(0, 100), (200, 300)], len(CONTENT)))


@pytest.mark.parametrize("text", ["multipart/byteranges; boundary=abc", 'Multipart/ByteRanges; boundary="abc"'])
def test_the_boundary_is_found(text: str) -> None:
    assert byteranges.parse_boundary(text) == b"abc"


@pytest.mark.parametrize(
    "text", ["", "application/octet-stream", "multipart/byteranges", "multipart/byteranges; boundary="]
)
def test_another_media_type_is_no_answer_to_several_ranges(text: str) -> None:
    with pytest.raises(Malformed, match="media type"):
        byteranges.parse_boundary(text)


def test_too_many_ranges_are_refused() -> None:
    ranges = [(2 * at, 2 * at + 1) for at in range(byteranges.MAX_RANGES + 1)]
    with pytest.raises(RangeRefused, match="512 allowed"):
        byteranges.parse_ranges(byteranges.format_ranges(ranges), len(CONTENT))


def test_one_range_is_left_to_others() -> None:
    assert byteranges.parse_ranges("bytes=0-1", 10) is None
