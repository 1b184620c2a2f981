"""A stream of server-sent events, as FastAPI and others write it."""

import pytest
from fastapi.sse import format_sse_event

from deployer.errors import SiteUnavailable
from deployer.site.client.event_stream import StreamedEvent, read_events


def read(text: str) -> list[StreamedEvent]:
    """The events of a text."""
    return list(read_events(text[at : at + 3].encode() for at in range(0, len(text), 3)))


def test_what_fastapi_writes_is_read_back() -> None:
    written = b"".join(
        [
            format_sse_event(retry=2000),
            format_sse_event(event="machine", data_str='{"a":1}', id="41"),
            format_sse_event(comment="alive", id="57"),
            format_sse_event(event="end", data_str="{}"),
        ]
    )
    assert read(written.decode()) == [
        StreamedEvent("", "", ""),
        StreamedEvent("machine", '{"a":1}', "41"),
        StreamedEvent("", "", "57"),
        StreamedEvent("end", "{}", "57"),
    ]


@pytest.mark.parametrize(
    ("text", "event"),
    [
        ("data: x\n\n", StreamedEvent("message", "x", "")),
        ("data:x\n\n", StreamedEvent("message", "x", "")),
        ("data:  x\n\n", StreamedEvent("message", " x", "")),
        ("data: x\ndata: y\n\n", StreamedEvent("message", "x\ny", "")),
        ("event:e\nid:7\ndata:x\n\n", StreamedEvent("e", "x", "7")),
        ("id: 7\nevent: e\ndata: x\n\n", StreamedEvent("e", "x", "7")),
        ("colour: red\ndata: x\n\n", StreamedEvent("message", "x", "")),
        ("data\n\n", StreamedEvent("message", "", "")),
    ],
)
def test_every_form_that_the_standard_allows(text: str, event: StreamedEvent) -> None:
    assert read(text) == [event]


def test_an_event_that_was_cut_is_left_out() -> None:
    assert read("id: 1\ndata: x\n\nid: 2\ndata: y") == [StreamedEvent("message", "x", "1")]


def test_lines_end_at_line_feeds_only() -> None:
    assert read('data: {"reason":"a\u2028b\x85c"}\r\n\r\n') == [
        StreamedEvent("message", '{"reason":"a\u2028b\x85c"}', "")
    ]


def test_a_line_without_end_fills_no_memory() -> None:
    chunks = (b"x" * 65536 for _ in range(1 << 20))
    with pytest.raises(SiteUnavailable, match="line of more than"):
        list(read_events(chunks))
    assert next(chunks, None) is not None
