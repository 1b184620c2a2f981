"""What the node and its peer process say to each other: one JSON line each, with raw bytes after it where there are many.

A line's member `attached` is the number of bytes that follow it. Commands have a member `do`, events a member `event`;
unknown ones and malformed ones are errors of a programmer, since both ends are of one version.
"""

import json
from collections.abc import Iterator
from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from catalog.image.address import Address
from signer.documents import Document, canonical, parse
from stager.content.peer_stats import MAX_NAME, PeerStats
from stager.peer.engine_profiles import EngineProfile

MAX_LINE = 4 << 20
"""Bytes of one line."""

MAX_ATTACHED = 16 << 30
"""Bytes attached to one line: the piece layer and leaf bits of the largest content, 64 TiB."""


class StartSession(Document):
    """Open the session. Must be first, and once. `name` is what we call ourselves to peers: a peer ID; empty for any."""

    do: Literal["start"] = "start"
    listen: str
    name: Annotated[str, Field(max_length=MAX_NAME)] = ""
    profile: EngineProfile
    upload_limit: Annotated[int, Field(ge=0)] = 0
    download_limit: Annotated[int, Field(ge=0)] = 0


class AddContent(Document):
    """Take part in the swarm of a content whose file is at `path`. Attached: the piece layer, then the leaf bits.

    Attributes:
        layer: bytes of the layer.
        complete: everything is there; no leaf bits are attached.
        authority, certificate, key: PEM, of a restricted content: what admits to its swarm, and what we show there.
    """

    do: Literal["add"] = "add"
    address: Address
    path: str
    layer: int
    complete: bool
    authority: str = ""
    certificate: str = ""
    key: str = ""


class ConnectPeers(Document):
    """Peers of a content to call, as (address, port)."""

    do: Literal["connect"] = "connect"
    address: Address
    peers: tuple[tuple[str, int], ...]


class AllowAddresses(Document):
    """All addresses that connections are taken from and made to. Before the first one there are none."""

    do: Literal["allow"] = "allow"
    ips: tuple[str, ...]


class PiecesWritten(Document):
    """Pieces that the node has put into the file by itself: to be checked, kept and offered to peers."""

    do: Literal["wrote"] = "wrote"
    address: Address
    pieces: tuple[int, ...]


class FileMoved(Document):
    """The file has another path now."""

    do: Literal["moved"] = "moved"
    address: Address
    path: str


class RemoveContent(Document):
    """Leave the swarm; the file stays."""

    do: Literal["remove"] = "remove"
    address: Address


class TuneSession(Document):
    """Another profile or other limits (bytes per second, 0 is none), at once."""

    do: Literal["tune"] = "tune"
    profile: EngineProfile
    upload_limit: Annotated[int, Field(ge=0)] = 0
    download_limit: Annotated[int, Field(ge=0)] = 0


class QuitSession(Document):
    """End, with everything written."""

    do: Literal["quit"] = "quit"


PeerCommand: TypeAlias = (
    StartSession
    | AddContent
    | ConnectPeers
    | AllowAddresses
    | PiecesWritten
    | FileMoved
    | RemoveContent
    | TuneSession
    | QuitSession
)


class SessionReady(Document):
    """The session listens; `tls`: for the peers of restricted contents, on a port of their own."""

    event: Literal["ready"] = "ready"
    port: int
    tls: bool = False


class Heartbeat(Document):
    """The process lives and its loop turns."""

    event: Literal["beat"] = "beat"


class PiecesReceived(Document):
    """Pieces that have come and are right."""

    event: Literal["pieces"] = "pieces"
    address: Address
    pieces: tuple[int, ...]


class ContentProgress(Document):
    """How a content stands; sent when something changed.

    Attributes:
        partial: (piece, leaf numbers in it) of what is written of unfinished pieces.
        from_peers: payload bytes that came from peers in this process.
        wasted: of these, what came twice or was wrong.
        sent: payload bytes that went to peers.
        down, up: bytes per second.
        peers, seeds: connected ones.
        feeders: who sent what, the most first.
    """

    event: Literal["progress"] = "progress"
    address: Address
    partial: tuple[tuple[int, tuple[int, ...]], ...]
    from_peers: int
    wasted: int
    sent: int
    down: int
    up: int
    peers: int
    seeds: int
    feeders: tuple[PeerStats, ...] = ()


class ContentComplete(Document):
    """Everything is here, right, and written."""

    event: Literal["complete"] = "complete"
    address: Address


class CorruptPiece(Document):
    """A piece was wrong.

    Attributes:
        culprit: the peer that sent all of it, as ADDRESS:PORT; None when it is not known to have been one alone.
        suspects: the peers that had a part in wrong pieces, among them innocent ones.
    """

    event: Literal["poison"] = "poison"
    address: Address
    piece: int
    culprit: str | None = None
    suspects: tuple[str, ...]


class PeerBanned(Document):
    """libtorrent talks to a peer no more, since it thinks that it sent wrong bytes. It is not always right."""

    event: Literal["banned"] = "banned"
    address: Address
    peer: str


class AddressBlocked(Document):
    """A connection from, or to, an address that was not allowed."""

    event: Literal["blocked"] = "blocked"
    ip: str


class PeerFailure(Document):
    """Something failed: of one content, or (None) of the process as a whole."""

    event: Literal["failed"] = "failed"
    address: Address | None = None
    reason: str


PeerEvent: TypeAlias = (
    SessionReady
    | Heartbeat
    | PiecesReceived
    | ContentProgress
    | ContentComplete
    | CorruptPiece
    | PeerBanned
    | AddressBlocked
    | PeerFailure
)

COMMANDS: dict[str, type[PeerCommand]] = {
    kind.model_fields["do"].default: kind
    for kind in (
        StartSession,
        AddContent,
        ConnectPeers,
        AllowAddresses,
        PiecesWritten,
        FileMoved,
        RemoveContent,
        TuneSession,
        QuitSession,
    )
}
EVENTS: dict[str, type[PeerEvent]] = {
    kind.model_fields["event"].default: kind
    for kind in (
        SessionReady,
        Heartbeat,
        PiecesReceived,
        ContentProgress,
        ContentComplete,
        CorruptPiece,
        PeerBanned,
        AddressBlocked,
        PeerFailure,
    )
}


def encode_frame(message: Document, attached: bytes = b"") -> bytes:
    """A message as it goes over the pipe."""
    line = canonical(message)
    if attached:
        line = b'{"attached":%d,' % len(attached) + line[1:]
    return line + b"\n" + attached


class FrameReader:
    """Cuts a stream of bytes into messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Add bytes; yields (line without its `attached`, attachment) of each message that is whole."""
        self._buffer += data
        while (end := self._buffer.find(b"\n", 0, MAX_LINE)) >= 0:
            line = bytes(self._buffer[:end])
            attached = 0
            if line.startswith(b'{"attached":'):
                number, _, rest = line[12:].partition(b",")
                attached, line = int(number), b"{" + rest
            if attached > MAX_ATTACHED:
                raise ValueError(f"{attached} bytes are attached, more than {MAX_ATTACHED}")
            if len(self._buffer) < end + 1 + attached:
                return
            attachment = bytes(memoryview(self._buffer)[end + 1 : end + 1 + attached])
            del self._buffer[: end + 1 + attached]
            yield line, attachment
        if len(self._buffer) >= MAX_LINE:
            raise ValueError(f"a line has more than {MAX_LINE} bytes")


def parse_command(line: bytes) -> PeerCommand:
    """Read a command."""
    return parse(COMMANDS[json.loads(line)["do"]], line, "command", limit=MAX_LINE)


def parse_event(line: bytes) -> PeerEvent:
    """Read an event."""
    return parse(EVENTS[json.loads(line)["event"]], line, "event", limit=MAX_LINE)
