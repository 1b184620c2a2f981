"""Announces, scrapes and answers in their binary forms; bencoding; each malformed one with its place."""

import libtorrent as lt
import pytest

from catalog.errors import Malformed
from catalog.swarm.bencode import bencode
from catalog.swarm.tracker import AnnounceEvent, Announcement, AnnounceResult, Endpoint, SwarmCounts, SwarmPeer
from catalog.swarm.tracker_protocol import (
    AnnounceQuery,
    encode_announce,
    encode_failure,
    encode_scrape,
    parse_announce,
    parse_announce_response,
    parse_scrape,
)

HASH = bytes(range(20))
GOOD = {
    "info_hash": "%00%01%02%03%04%05%06%07%08%09%0a%0b%0c%0d%0e%0f%10%11%12%13",
    "peer_id": "-XX0000-abcdefghijkl",
    "port": "6881",
    "uploaded": "0",
    "downloaded": "0",
    "left": "77",
    "event": "started",
    "compact": "1",
    "numwant": "30",
    "key": "9D3A21F0",
    "grant": "n.s.1.m",
    "site": "lyon",
}

IP = "192.0.2.9"


def query(**changes: str | None) -> bytes:
    return "&".join(f"{name}={value}" for name, value in (GOOD | changes).items() if value is not None).encode()


def test_an_announce_is_read() -> None:
    endpoint = Endpoint(IP, 6881)
    announced = Announcement(endpoint, 77, AnnounceEvent.STARTED, "lyon", want=30, peer_id=b"-XX0000-abcdefghijkl")
    assert parse_announce(query(), IP) == AnnounceQuery(HASH, announced, "n.s.1.m", compact=True)
    plain = parse_announce(query(event=None, compact="0", numwant=None, grant=None, site=None, key=None), IP)
    assert (plain.compact, plain.grant) == (False, "")
    announced = plain.announcement
    assert (announced.event, announced.want, announced.site) == (AnnounceEvent.UPDATE, 50, "")


@pytest.mark.parametrize(
    ("what", "changes", "place"),
    [
        ("no info-hash", {"info_hash": None}, "info_hash: given 0 times"),
        ("a full v2 info-hash", {"info_hash": "a" * 32}, "info_hash: has 32 bytes, not 20"),
        ("a short peer id", {"peer_id": "x"}, "peer_id: has 1 bytes"),
        ("two ports", {"port": "1&port=2"}, "port: given 2 times"),
        ("port 0", {"port": "0"}, "port: b'0' is not a number from 1 to 65535"),
        ("a port beyond", {"port": "65536"}, "port"),
        ("no left", {"left": None}, "left: given 0 times"),
        ("negative left", {"left": "-1"}, "left"),
        ("left that is no number", {"left": "many"}, "left"),
        ("left in other digits", {"left": "%D9%A3"}, "left"),
        ("an endless number", {"left": "1" * 100}, "left"),
        ("an event that is none", {"event": "exploded"}, "event"),
        ("a grant too long", {"grant": "g" * 300}, "grant"),
        ("a site that is not ASCII", {"site": "%C3%A9"}, "site"),
        ("a query too long", {"x": "y" * 5000}, "more than the 4096"),
    ],
)
def test_a_malformed_announce_is_refused_with_the_parameter(what: str, changes: dict[str, str], place: str) -> None:
    with pytest.raises(Malformed, match=place):
        parse_announce(query(**changes), IP)


def peers(*endpoints: Endpoint) -> tuple[SwarmPeer, ...]:
    return tuple(SwarmPeer(Announcement(endpoint, 1, peer_id=b"p" * 20), 0.0) for endpoint in endpoints)


def test_an_answer_is_read_as_it_was_written_in_both_families() -> None:
    ends = (Endpoint("192.0.2.1", 6881), Endpoint("2001:db8::7", 51413))
    body = encode_announce(AnnounceResult(peers(*ends), 3, 4, 15.0), compact=True)
    heard = parse_announce_response(body)
    assert heard.peers == ends
    assert (heard.complete, heard.incomplete, heard.interval) == (3, 4, 15.0)
    assert lt.bdecode(body)[b"peers"] == bytes([192, 0, 2, 1, 0x1A, 0xE1])


def test_an_answer_in_the_long_form_lists_dictionaries() -> None:
    body = encode_announce(AnnounceResult(peers(Endpoint("192.0.2.1", 6881)), 0, 1, 15.0), compact=False)
    assert lt.bdecode(body)[b"peers"] == [{b"ip": b"192.0.2.1", b"peer id": b"p" * 20, b"port": 6881}]


@pytest.mark.parametrize(
    ("what", "body", "reason"),
    [
        ("a refusal", encode_failure("you may not"), "refused: you may not"),
        ("no dictionary", b"le", "not a dictionary"),
        ("peers that are cut", bencode({b"peers": b"12345"}), "peers is not in compact form"),
        ("peers in the long form", bencode({b"peers": [{b"ip": b"1.2.3.4"}]}), "peers is not"),
        ("a negative count", bencode({b"complete": -1, b"peers": b""}), "not all valid numbers"),
        ("an interval that is a text", bencode({b"interval": b"soon", b"peers": b""}), "not all valid numbers"),
        ("a web page", b"<html>", "byte 0"),
        ("too much", b"d" * 100_000, "more than"),
    ],
)
def test_a_bad_answer_is_refused(what: str, body: bytes, reason: str) -> None:
    with pytest.raises(Malformed, match=reason):
        parse_announce_response(body)


def test_a_scrape_is_read_and_answered() -> None:
    assert parse_scrape(b"info_hash=" + b"a" * 20 + b"&info_hash=" + b"b" * 20) == [b"a" * 20, b"b" * 20]
    answer = encode_scrape([b"a" * 20], [SwarmCounts(1, 2, 3)])
    assert lt.bdecode(answer) == {b"files": {b"a" * 20: {b"complete": 1, b"downloaded": 3, b"incomplete": 2}}}


@pytest.mark.parametrize("text", [b"", b"info_hash=short", b"&".join([b"info_hash=" + b"a" * 20] * 65)])
def test_a_scrape_of_nothing_or_too_much_is_refused(text: bytes) -> None:
    with pytest.raises(Malformed, match="scrape: info_hash"):
        parse_scrape(text)
