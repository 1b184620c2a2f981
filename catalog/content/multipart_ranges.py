"""Several ranges of a content in one request: `multipart/byteranges` (RFC 9110, sections 14.2 and 14.6). Pure.

A node that already has most of a content needs many small ranges of it. In one request each costs about seventy bytes and
no round trip; in separate requests each would cost four hundred bytes and a round trip.
"""

import re
from collections.abc import Iterable, Iterator, Sequence

from catalog.errors import Malformed, RangeRefused

MAX_RANGES = 512
"""Ranges in one request: at most 14 KiB of header, which servers and proxies accept."""

BOUNDARY = "partita-range"
"""Boundary between parts. Content may contain it, as readers know the length of a part from its Content-Range."""

BYTERANGES_MEDIA_TYPE = f"multipart/byteranges; boundary={BOUNDARY}"

MAX_PART_HEADER = 1024
"""Bytes of one part's header; other servers may send more fields than this one."""

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
    """Parse a Range header with several ranges; None for other headers, which `catalog.schema.images.parse_range` reads.

    Raises:
        RangeRefused: too many ranges, not in ascending order with gaps between them, or outside the `size` bytes:
            overlapping ranges make servers send the same bytes many times (RFC 9110, section 14.2).
    """
    if not _RANGES.fullmatch(header.strip()):
        return None
    found = []
    for part in header.strip().removeprefix("bytes=").split(","):
        first, _, last = part.strip().partition("-")
        found.append((int(first), int(last) + 1))
    if len(found) > MAX_RANGES:
        raise RangeRefused(
            f"{len(found)} ranges in one request, more than the {MAX_RANGES} allowed; send several requests"
        )
    after = -1
    for start, end in found:
        if not after < start < end <= size:
            raise RangeRefused(
                f"the range {header[:60]!r} has {start}-{end - 1}, which is outside the {size} bytes of this content, "
                "or not after the previous range with a gap between them"
            )
        after = end
    return found


def part_header(part: ByteRange, size: int) -> bytes:
    """The header sent before the bytes of a part; without media type, as all parts have that of the content."""
    return b"\r\n--%s\r\nContent-Range: bytes %d-%d/%d\r\n\r\n" % (BOUNDARY.encode(), part[0], part[1] - 1, size)


def closing_delimiter() -> bytes:
    """The delimiter sent after the last part."""
    return b"\r\n--%s--\r\n" % BOUNDARY.encode()


def multipart_length(ranges: Iterable[ByteRange], size: int) -> int:
    """Bytes of the whole response body."""
    return sum(len(part_header(part, size)) + part[1] - part[0] for part in ranges) + len(closing_delimiter())


def parse_boundary(content_type: str) -> bytes:
    """The boundary in the Content-Type of a response.

    Raises:
        Malformed: not `multipart/byteranges`, or without boundary.
    """
    match = _BOUNDARY.fullmatch(content_type.strip())
    if not match:
        raise Malformed(f"the response to several ranges has the media type {content_type[:80]!r}")
    return match[1].encode()


def read_parts(chunks: Iterable[bytes], boundary: bytes, ranges: Sequence[ByteRange], size: int) -> Iterator[bytes]:
    """Yield the bytes of the ranges one after the other, from a response body as it arrives; ends early with the body.

    Raises:
        Malformed: the parts are not the requested ones in their order.
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
            if expected is None:  # read to the end, so that the connection can be reused
                after += len(buffer)
                buffer.clear()
                if after > MAX_PART_HEADER:
                    return
                break
            end = buffer.find(b"\r\n\r\n", 0, MAX_PART_HEADER)
            if end < 0:
                if len(buffer) >= MAX_PART_HEADER:
                    raise Malformed(f"the header of a range's part has more than {MAX_PART_HEADER} bytes")
                break
            head = bytes(buffer[:end]).replace(b"\r\n", b"\n")
            del buffer[: end + 4]
            start, stop = expected
            match = _PART.search(head)
            if not head.lstrip(b"\n").startswith(b"--" + boundary) or not match:
                raise Malformed("the response to several ranges has a malformed part header")
            if (int(match[1]), int(match[2]) + 1) != expected or match[3] not in (b"*", str(size).encode()):
                raise Malformed(f"the response to several ranges has {match[0].decode()} instead of {start}-{stop - 1}")
            left, expected = stop - start, next(wanted, None)
