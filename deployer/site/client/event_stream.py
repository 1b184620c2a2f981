"""Streams of server-sent events as a client reads them (WHATWG HTML, section 9.2)."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from deployer.errors import SiteUnavailable

MAX_LINE = 2 << 20
"""Bytes of a line: the longest event holds a MiB of a console, in base64."""


@dataclass(frozen=True)
class StreamedEvent:
    """What came of a stream up to an empty line.

    Attributes:
        kind: what happened; empty where nothing did: then it is a sign of life.
        data: the event's document.
        position: where to go on after it, as `Last-Event-ID`; empty until the stream has said so.
    """

    kind: str
    data: str
    position: str


def read_events(chunks: Iterable[bytes]) -> Iterator[StreamedEvent]:
    """The events of a stream, as its bytes arrive. One that was cut in the middle is left out: it comes again.

    Raises:
        SiteUnavailable: a line is longer than any event.
    """
    kind, data, position = "message", list[str](), ""
    for line in _lines(chunks):
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match field:
            case "" if not line:
                yield StreamedEvent(kind if data else "", "\n".join(data), position)
                kind, data = "message", []
            case "event":
                kind = value
            case "data":
                data.append(value)
            case "id":
                position = value
            case _:
                pass  # a comment, or what later versions of the protocol may bring


def _lines(chunks: Iterable[bytes]) -> Iterator[str]:
    """Lines end at line feeds alone; the separators of Unicode, which str.splitlines heeds, may stand in an event."""
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        if max(map(len, (*lines, rest))) > MAX_LINE:
            raise SiteUnavailable(f"the stream has a line of more than {MAX_LINE} bytes")
        yield from (line.decode("utf-8", "replace").removesuffix("\r") for line in lines)
