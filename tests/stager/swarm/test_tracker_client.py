"""A node and its tracker: what it hears, and every way in which a tracker can fail it."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx2
import pytest

from catalog.image.address import Address
from catalog.swarm.bencode import bencode
from catalog.swarm.torrent import short_hash
from catalog.swarm.tracker import AnnounceEvent, Endpoint
from catalog.swarm.tracker_protocol import encode_failure, parse_announce
from stager.errors import TrackerRefuses, TrackerUnavailable
from stager.swarm.grants import SwarmCredentials
from stager.swarm.tracker_client import TrackerClient

CONTENT = Address(b"r" * 32, 1 << 20)
HEARD = bencode({b"complete": 1, b"incomplete": 2, b"interval": 15, b"peers": bytes([192, 0, 2, 1, 0x1A, 0xE1])})


class Tracker:
    """A server that says one thing, and remembers what it was asked."""

    def __init__(self) -> None:
        self.status, self.body, self.asked = 200, HEARD, [""]
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
                self.rfile.read(int(self.headers.get("content-length", 0)))
                self.send_response(outer.status)
                self.send_header("content-length", str(len(outer.body)))
                self.end_headers()
                self.wfile.write(outer.body)

            do_POST = do_GET  # noqa: N815 - the name that the library looks for

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"


@pytest.fixture
def tracker() -> Iterator[Tracker]:
    made = Tracker()
    yield made
    made.server.shutdown()
    made.server.server_close()
    made.thread.join()


@pytest.fixture
def client(tracker: Tracker) -> Iterator[TrackerClient]:
    with TrackerClient(
        tracker.url,
        peer_id=bytes(range(240, 260 - 4)) + b"\0&=%",
        site="lyon",
        credentials=lambda _: SwarmCredentials("n.lyon.1.m-_"),
    ) as made:
        yield made


def test_an_announce_says_what_the_tracker_reads(tracker: Tracker, client: TrackerClient) -> None:
    heard = client.announce(CONTENT, 6881, 77, AnnounceEvent.STARTED)
    assert heard.peers == (Endpoint("192.0.2.1", 6881),)
    assert (heard.complete, heard.incomplete, heard.interval) == (1, 2, 15.0)
    query = parse_announce(tracker.asked[-1].partition("?")[2].encode(), "192.0.2.9")
    announced = query.announcement
    assert query.short_hash == short_hash(CONTENT)
    assert announced.peer_id == bytes(range(240, 256)) + b"\0&=%"
    assert (announced.endpoint.port, announced.left, announced.event) == (6881, 77, AnnounceEvent.STARTED)
    assert (announced.site, query.grant) == ("lyon", "n.lyon.1.m-_")


@pytest.mark.parametrize(
    ("what", "status", "body", "error"),
    [
        ("a refusal", 403, encode_failure("expired"), TrackerRefuses),
        ("a content that it does not have", 404, encode_failure("no content"), TrackerRefuses),
        ("a failure that is its own", 500, b"oops", TrackerUnavailable),
        ("a refusal with status 200", 200, encode_failure("later"), TrackerUnavailable),
        ("a web page", 200, b"<html>", TrackerUnavailable),
        ("nothing", 200, b"", TrackerUnavailable),
        ("far too much", 200, b"d" + b"0" * 200_000, TrackerUnavailable),
    ],
)
def test_a_tracker_that_fails_is_one_clear_error(
    tracker: Tracker, client: TrackerClient, what: str, status: int, body: bytes, error: type[Exception]
) -> None:
    tracker.status, tracker.body = status, body
    with pytest.raises(error, match=r"http://127\.0\.0\.1"):
        client.announce(CONTENT, 6881, 77)


def test_a_tracker_that_is_gone_is_unavailable(tracker: Tracker) -> None:
    with TrackerClient("http://127.0.0.1:9", peer_id=bytes(20)) as gone:
        for ask in (
            lambda: gone.announce(CONTENT, 1, 1),
            lambda: gone.parts(CONTENT, 1, [], 1),
            lambda: gone.callers(1),
        ):
            with pytest.raises(TrackerUnavailable, match="cannot be reached"):
                ask()


def test_a_tracker_that_hangs_does_not_hang_us() -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        with (
            TrackerClient(url, peer_id=bytes(20), timeout=httpx2.Timeout(0.2)) as client,
            pytest.raises(TrackerUnavailable, match="cannot be reached"),
        ):
            client.announce(CONTENT, 1, 1)


def test_parts_are_read_and_not_believed_beyond_the_content(tracker: Tracker, client: TrackerClient) -> None:
    tracker.body = b'{"parts":[[0,262144],[524288,1048576]]}'
    assert client.parts(CONTENT, 6881, [(0, 5)], 9) == [(0, 262144), (524288, 1048576)]
    tracker.body = b'{"parts":[[0,1048577]]}'
    with pytest.raises(TrackerUnavailable, match="beyond the end of the content"):
        client.parts(CONTENT, 6881, [], 9)
    tracker.body = b'{"parts":[[5,5]]}'
    with pytest.raises(TrackerUnavailable, match="beyond the end of the content"):
        client.parts(CONTENT, 6881, [], 9)
    tracker.status = 409
    assert client.parts(CONTENT, 6881, [], 9) is None
    tracker.status = 403
    with pytest.raises(TrackerRefuses, match="403"):
        client.parts(CONTENT, 6881, [], 9)
    tracker.status, tracker.body = 200, b'{"parts":"all"}'
    with pytest.raises(TrackerUnavailable, match="parts"):
        client.parts(CONTENT, 6881, [], 9)


def test_callers_are_read(tracker: Tracker, client: TrackerClient) -> None:
    tracker.body = b'{"callers":[{"address":"%s","ip":"192.0.2.7","port":5}]}' % str(CONTENT).encode()
    assert [(each.address, each.ip, each.port) for each in client.callers(6881).callers] == [(CONTENT, "192.0.2.7", 5)]
    assert tracker.asked[-1].endswith("/swarms/callers?port=6881")
