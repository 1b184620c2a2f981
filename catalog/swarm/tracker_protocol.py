"""Messages between trackers and peers: announces and scrapes (BEP 3, 7, 23, 48), and Partita's own documents.

Queries are parsed strictly: the error names a parameter that is missing, repeated or out of bounds. Unknown parameters are
ignored, as every client adds some.
"""

import ipaddress
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import unquote_to_bytes

from pydantic import Field

from catalog.errors import Malformed
from catalog.image.address import MAX_SIZE, Address
from catalog.swarm.bencode import BencodeValue, bdecode, bencode
from catalog.swarm.torrent import SHORT_HASH_LENGTH
from catalog.swarm.tracker import AnnounceEvent, Announcement, AnnounceResult, Endpoint, SwarmCounts, SwarmPeer
from signer.documents import Document, example

MAX_QUERY = 4 << 10
"""Bytes of a query string; an announce has 300 to 600."""

MAX_SCRAPES = 64
"""Swarms in one scrape: as many as fit into a query string."""

MAX_TRACKER_RESPONSE = 64 << 10
"""Bytes of a tracker response that a node reads: 3000 peers."""

GRANT = "grant"
"""The parameter with the announce key. It is not `key`, as clients send a number of their own by that name."""


@dataclass(frozen=True, slots=True)
class AnnounceQuery:
    """The query of an announce: the swarm, the announcement, the announce key, and the form of the response."""

    short_hash: bytes
    announcement: Announcement
    grant: str
    compact: bool


def parse_announce(query: bytes, ip: str) -> AnnounceQuery:
    """Parse the query string of an announce (BEP 3) that came from an IP address in canonical form.

    Raises:
        Malformed: names the invalid parameter.
    """
    fields = _fields(query)
    event = _one(fields, "event", b"")
    if event not in {b"", b"started", b"stopped", b"completed", b"empty", b"paused"}:
        raise Malformed(f"announce: event: {event[:20]!r} is not one of started, stopped, completed")
    short_hash = _exact(fields, "info_hash", SHORT_HASH_LENGTH)
    announcement = Announcement(
        peer_id=_exact(fields, "peer_id", 20),
        endpoint=Endpoint(ip, _number(fields, "port", 1, 65535)),
        left=_number(fields, "left", 0, MAX_SIZE),
        event=AnnounceEvent(event.decode())
        if event in {b"started", b"stopped", b"completed"}
        else AnnounceEvent.UPDATE,
        # Some clients send -1 for "any number".
        want=_number(fields, "numwant", -1, 1_000_000, 50) % (1 << 20),
        site=_text(fields, "site"),
    )
    return AnnounceQuery(short_hash, announcement, _text(fields, GRANT), _one(fields, "compact", b"1") != b"0")


def parse_scrape(query: bytes) -> list[bytes]:
    """The info-hashes of a scrape (BEP 48), 20 bytes each. A scrape of all swarms, without hashes, is Malformed."""
    hashes = _fields(query).get("info_hash", [])
    if not 1 <= len(hashes) <= MAX_SCRAPES or any(len(one) != SHORT_HASH_LENGTH for one in hashes):
        raise Malformed(f"scrape: info_hash: give between 1 and {MAX_SCRAPES} hashes of {SHORT_HASH_LENGTH} bytes")
    return hashes


def encode_announce(answer: AnnounceResult[SwarmPeer], *, compact: bool) -> bytes:
    """The bencoded response: IPv4 peers in `peers` (BEP 23), IPv6 in `peers6` (BEP 7), or a list of dicts (BEP 3)."""
    members = [peer.announcement for peer in answer.peers]
    endpoints = [member.endpoint for member in members]
    body: dict[bytes, BencodeValue] = {
        b"complete": answer.complete,
        b"incomplete": answer.incomplete,
        b"interval": int(answer.interval),
        b"min interval": 1,
    }
    if compact:
        body[b"peers"] = b"".join(end.packed for end in endpoints if ":" not in end.ip)
        if six := b"".join(end.packed for end in endpoints if ":" in end.ip):
            body[b"peers6"] = six
    else:
        body[b"peers"] = [
            {b"ip": each.endpoint.ip.encode(), b"peer id": each.peer_id, b"port": each.endpoint.port}
            for each in members
        ]
    return bencode(body)


def encode_scrape(hashes: list[bytes], counts: list[SwarmCounts]) -> bytes:
    """The bencoded response to a scrape (BEP 48)."""
    files: dict[bytes, BencodeValue] = {
        short: {b"complete": count.complete, b"downloaded": count.downloaded, b"incomplete": count.incomplete}
        for short, count in zip(hashes, counts, strict=True)
    }
    return bencode({b"files": files})


def encode_failure(reason: str) -> bytes:
    """The bencoded response with a failure reason (BEP 3)."""
    return bencode({b"failure reason": reason.encode()})


def parse_announce_response(body: bytes) -> AnnounceResult[Endpoint]:
    """Parse a tracker response in compact form.

    Raises:
        Malformed: not a valid response, or a refusal, whose reason the message gives.
    """
    if len(body) > MAX_TRACKER_RESPONSE:
        raise Malformed(f"the tracker's response has more than {MAX_TRACKER_RESPONSE} bytes")
    value = bdecode(body, "the tracker's response")
    if not isinstance(value, dict):
        raise Malformed("the tracker's response is not a dictionary")
    if isinstance(reason := value.get(b"failure reason"), bytes):
        raise Malformed(f"the tracker refused: {reason[:400].decode(errors='replace')}")
    numbers = [value.get(name, 0) for name in (b"complete", b"incomplete", b"interval")]
    if not all(isinstance(number, int) and 0 <= number < 1 << 31 for number in numbers):
        raise Malformed("the tracker's response: complete, incomplete and interval are not all valid numbers")
    complete, incomplete, interval = (int(number) for number in numbers if isinstance(number, int))
    peers: list[Endpoint] = []
    for name, each in ((b"peers", 6), (b"peers6", 18)):
        packed = value.get(name, b"")
        if not isinstance(packed, bytes) or len(packed) % each:
            raise Malformed(f"the tracker's response: {name.decode()} is not in compact form")
        for at in range(0, len(packed), each):
            ip, port = packed[at : at + each - 2], packed[at + each - 2 : at + each]
            peers.append(Endpoint(str(ipaddress.ip_address(ip)), int.from_bytes(port, "big")))
    return AnnounceResult(tuple(peer for peer in peers if peer.port), complete, incomplete, float(interval))


ByteRange = tuple[Annotated[int, Field(ge=0, le=MAX_SIZE)], Annotated[int, Field(ge=1, le=MAX_SIZE)]]
Port = Annotated[int, Field(ge=1, le=65535)]
_EXAMPLE = "fcde2b2edba56bf408601fb721fe9b5c338d10ee429ea04fae5511b68fbf8fb9-1073741824"


class OriginRangesQuery(Document):
    """A swarm member's query for the ranges that it should fetch from the origin.

    Attributes:
        address: the content.
        port: where it listens; with the address of the sender, its name in the swarm.
        grant: its announce key, or "".
        have: (start, end) byte ranges that it has and has not reported before.
        want: bytes that it asks for.
    """

    model_config = example(address=_EXAMPLE, port=6881, have=[[0, 262144]], want=524288)

    address: Address
    port: Port
    grant: Annotated[str, Field(max_length=256)] = ""
    have: Annotated[tuple[ByteRange, ...], Field(max_length=100_000)] = ()
    want: Annotated[int, Field(ge=0, le=1 << 40)]


class OriginRanges(Document):
    """The (start, end) byte ranges to fetch from the origin now; if empty, the swarm has the rest."""

    model_config = example(parts=[[524288, 1048576]])

    parts: tuple[ByteRange, ...]


class IncomingPeer(Document):
    """A peer to which the requesting peer was named: the content of the swarm, and where it listens."""

    address: Address
    ip: str
    port: Port


class IncomingPeers(Document):
    """The incoming peers of the last minute."""

    model_config = example(callers=[{"address": _EXAMPLE, "ip": "192.0.2.7", "port": 6881}])

    callers: tuple[IncomingPeer, ...]


def _fields(query: bytes) -> dict[str, list[bytes]]:
    if len(query) > MAX_QUERY:
        raise Malformed(f"the query has {len(query)} bytes, more than the {MAX_QUERY} allowed")
    fields: dict[str, list[bytes]] = {}
    for part in query.split(b"&"):
        name, _, value = part.partition(b"=")
        fields.setdefault(unquote_to_bytes(name).decode(errors="replace"), []).append(
            unquote_to_bytes(value.replace(b"+", b"%20"))
        )
    return fields


def _one(fields: dict[str, list[bytes]], name: str, default: bytes | None = None) -> bytes:
    values = fields.get(name, [])
    if not values and default is not None:
        return default
    if len(values) != 1:
        raise Malformed(f"announce: {name}: given {len(values)} times, not once")
    return values[0]


def _exact(fields: dict[str, list[bytes]], name: str, length: int) -> bytes:
    value = _one(fields, name)
    if len(value) != length:
        raise Malformed(f"announce: {name}: has {len(value)} bytes, not {length}")
    return value


def _number(fields: dict[str, list[bytes]], name: str, low: int, high: int, default: int | None = None) -> int:
    value = _one(fields, name, None if default is None else b"%d" % default)
    digits = value.removeprefix(b"-")
    if not digits.isdigit() or len(digits) > 19 or not low <= int(value) <= high:
        raise Malformed(f"announce: {name}: {value[:24]!r} is not a number from {low} to {high}")
    return int(value)


def _text(fields: dict[str, list[bytes]], name: str) -> str:
    value = _one(fields, name, b"")
    if len(value) > 256 or not value.isascii():
        raise Malformed(f"announce: {name}: longer than 256 characters, or not ASCII")
    return value.decode("ascii")
