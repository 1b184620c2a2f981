"""Several ranges of a content in one request: `multipart/byteranges` (RFC 9110, sections 14.2 and 14.6). Pure.

A node that has most of a content already lacks many small ranges of it. In one request each costs some seventy bytes and
no round trip; in requests of their own they would cost four hundred bytes and a round trip each.
"""

import re
from collections.abc import Iterable, Iterator, Sequence

from catalog.errors import Malformed, RangeRefused

MAX_RANGES = 512
"""Ranges in one request: what they take in the header (14 KiB at the most) is within what servers and proxies accept."""

BOUNDARY = "partita-range"
"""Between the parts. Content may contain it: whoever reads knows each part's length from its Content-Range."""

BYTERANGES_MEDIA_TYPE = f"multipart/byteranges; boundary={BOUNDARY}"

MAX_PART_HEADER = 1024
"""Bytes of one part's header; another server may say more in it than we do."""

_RANGES = re.compile(r"bytes=\d{1,15}-\d{1,15}(?:\s*,\s*\d{1,15}-\d{1,15})+")
_PART = re.compile(rb"^content-range:\s*bytes (\d{1,15})-(\d{1,15})/(\d{1,15}|\*)\s*$", re.IGNORECASE | re.MULTILINE)
_BOUNDARY = re.compile(
    r"multipart/byteranges\s*;(?:.*;)?\s*boundary=\"?([0-9A-Za-z'()+_,./:=?-]{1,70})\"?", re.IGNORECASE
)

ByteRange = tuple[int, int]
"""(start, end) in bytes, end exclusive."""


def format_ranges(ranges: Sequence[ByteRange]) -> str:
    """The value of a Range header."""
    return "bytes=" + ",".join(f"{start}-{end - 1}" for start, end in ranges)


def parse_ranges(header: str, size: int) -> list[ByteRange] | None:
    """The ranges of a header that has several; None for one that has not, which `catalog.schema.images.parse_range` reads.

    Raises:
        RangeRefused: too many, or not in order without touching or overlapping, or outside the `size` bytes: such
            requests are how servers are made to send the same bytes many times over (RFC 9110, section 14.2).
    """
    if not _RANGES.fullmatch(header.strip()):
        return None
    found = []
    for part in header.strip().removeprefix("bytes=").split(","):
        first, _, last = part.strip().partition("-")
        found.append((int(first), int(last) + 1))
    if len(found) > MAX_RANGES:
        raise RangeRefused(f"{len(found)} ranges in one request are more than the {MAX_RANGES} allowed; ask in several")
    after = -1
    for start, end in found:
        if not after < start < end <= size:
            raise RangeRefused(
                f"the range {header[:60]!r} has {start}-{end - 1}, which is not within the {size} bytes of this blob, "
                "or not behind the one before it with a gap between"
            )
        after = end
    return found


def part_header(part: ByteRange, size: int) -> bytes:
    """What is sent before the bytes of a part. It says no media type: all parts have that of the whole."""
    return b"\r\n--%s\r\nContent-Range: bytes %d-%d/%d\r\n\r\n" % (BOUNDARY.encode(), part[0], part[1] - 1, size)


def closing_delimiter() -> bytes:
    """What is sent after the last part."""
    return b"\r\n--%s--\r\n" % BOUNDARY.encode()


def multipart_length(ranges: Iterable[ByteRange], size: int) -> int:
    """Bytes of the whole answer."""
    return sum(len(part_header(part, size)) + part[1] - part[0] for part in ranges) + len(closing_delimiter())


def parse_boundary(content_type: str) -> bytes:
    """The boundary that an answer's Content-Type names.

    Raises:
        Malformed: it is not `multipart/byteranges`, or names none.
    """
    match = _BOUNDARY.fullmatch(content_type.strip())
    if not match:
        raise Malformed(f"several ranges were answered with the media type {content_type[:80]!r}")
    return match[1].encode()


def read_parts(chunks: Iterable[bytes], boundary: bytes, ranges: Sequence[ByteRange], size: int) -> Iterator[bytes]:
    """The bytes of the ranges, one after the other, from the body of an answer as it arrives; ends early with the body.

    Raises:
        Malformed: the parts are not those that were asked for, in their order.
    """
    buffer, left, after, wanted = bytearray(), 0, 0, iter(ranges)
    expected = next(wanted, None)
    for chunk in chunks:
        buffer += chunk
        while buffer:
            if left:
                taken = bytes(buffer[:left])
                del buffer[:left]
                left -= len(taken)
                yield taken
                continue
            if expected is None:  # the end is read too: so the connection can be used again
                after += len(buffer)
                buffer.clear()
                if after > MAX_PART_HEADER:
                    return
                break
            end = buffer.find(b"\r\n\r\n", 0, MAX_PART_HEADER)
            if end < 0:
                if len(buffer) >= MAX_PART_HEADER:
                    raise Malformed(f"a part of several ranges has a header of more than {MAX_PART_HEADER} bytes")
                break
            head = bytes(buffer[:end]).replace(b"\r\n", b"\n")
            del buffer[: end + 4]
            start, stop = expected
            said = _PART.search(head)
            if not head.lstrip(b"\n").startswith(b"--" + boundary) or not said:
                raise Malformed("the answer to several ranges is cut into no parts that can be read")
            if (int(said[1]), int(said[2]) + 1) != expected or said[3] not in (b"*", str(size).encode()):
                raise Malformed(f"the answer to several ranges has {said[0].decode()} where {start}-{stop - 1} belongs")
            left, expected = stop - start, next(wanted, None)
