"""The protocol between a node and its peer process: one JSON line per message, followed by raw bytes if there are any.

A line's member `attached` is the number of bytes that follow it. Commands have a member `do`, events a member `event`;
unknown and malformed ones are programming errors, since both ends have the same version.
"""

import json
from collections.abc import Iterator
from typing import Annotated, Literal, TypeAlias, get_args

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
    """Open the session. Must be the first command, sent once. `name` is our peer ID; empty for a random one."""

    do: Literal["start"] = "start"
    listen: str
    name: Annotated[str, Field(max_length=MAX_NAME)] = ""
    profile: EngineProfile
    upload_limit: Annotated[int, Field(ge=0)] = 0
    download_limit: Annotated[int, Field(ge=0)] = 0


class AddContent(Document):
    """Join the swarm of a content whose file is at `path`. Attached: the piece layer, then the leaf bits.

    Attributes:
        layer: the number of bytes of the layer.
        complete: whether the file is complete; then no leaf bits are attached.
        authority, certificate, key: PEM, of a restricted content: the CA of its swarm, and the node's own certificate.
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
    """Connect to peers of a content, given as (address, port)."""

    do: Literal["connect"] = "connect"
    address: Address
    peers: tuple[tuple[str, int], ...]


class AllowAddresses(Document):
    """Set all addresses that may connect and be connected to. Before the first of these commands there are none."""

    do: Literal["allow"] = "allow"
    ips: tuple[str, ...]


class PiecesWritten(Document):
    """Check and offer to peers the pieces that the node itself has written into the file."""

    do: Literal["wrote"] = "wrote"
    address: Address
    pieces: tuple[int, ...]


class FileMoved(Document):
    """Use the new path of a content's file."""

    do: Literal["moved"] = "moved"
    address: Address
    path: str


class RemoveContent(Document):
    """Leave the swarm; the file stays."""

    do: Literal["remove"] = "remove"
    address: Address


class TuneSession(Document):
    """Change profile and limits (bytes per second; 0 means no limit) at once."""

    do: Literal["tune"] = "tune"
    profile: EngineProfile
    upload_limit: Annotated[int, Field(ge=0)] = 0
    download_limit: Annotated[int, Field(ge=0)] = 0


class QuitSession(Document):
    """End, with everything written."""

    do: Literal["quit"] = "quit"


ContentCommand: TypeAlias = ConnectPeers | PiecesWritten | FileMoved | RemoveContent
"""A command about one content that is in the session."""

PeerCommand: TypeAlias = StartSession | AddContent | AllowAddresses | TuneSession | QuitSession | ContentCommand


class SessionReady(Document):
    """The session listens on a port; with `tls` it is the one for peers of restricted contents."""

    event: Literal["ready"] = "ready"
    port: int
    tls: bool = False


class Heartbeat(Document):
    """The process is alive."""

    event: Literal["beat"] = "beat"


class PiecesReceived(Document):
    """Pieces were received and verified."""

    event: Literal["pieces"] = "pieces"
    address: Address
    pieces: tuple[int, ...]


class ContentProgress(Document):
    """The state of a content; sent when it changes.

    Attributes:
        partial: (piece, leaf numbers in it) of the written blocks of unfinished pieces.
        from_peers: payload bytes received from peers by this process.
        wasted: of these, bytes that were received twice or wrong.
        sent: payload bytes sent to peers.
        peers: connected ones.
        feeders: bytes received by peer, the most first.
    """

    event: Literal["progress"] = "progress"
    address: Address
    partial: tuple[tuple[int, tuple[int, ...]], ...]
    from_peers: int
    wasted: int
    sent: int
    peers: int
    feeders: tuple[PeerStats, ...] = ()


class ContentComplete(Document):
    """The content is complete, verified and written."""

    event: Literal["complete"] = "complete"
    address: Address


class CorruptPiece(Document):
    """A received piece was wrong.

    Attributes:
        culprit: the peer that sent all of it, as ADDRESS:PORT; None if it is not known to have been a single one.
        suspects: the peers that sent parts of wrong pieces, including innocent ones.
    """

    event: Literal["poison"] = "poison"
    address: Address
    piece: int
    culprit: str | None = None
    suspects: tuple[str, ...]


class PeerBanned(Document):
    """libtorrent banned a peer that it suspects of wrong bytes. It is not always right."""

    event: Literal["banned"] = "banned"
    address: Address
    peer: str


class AddressBlocked(Document):
    """A connection from or to an address that is not allowed was refused."""

    event: Literal["blocked"] = "blocked"
    ip: str


class PeerFailure(Document):
    """A content failed, or (None) the process as a whole."""

    event: Literal["failed"] = "failed"
    address: Address | None = None
    reason: str


ContentEvent: TypeAlias = PiecesReceived | ContentProgress | ContentComplete | CorruptPiece | PeerBanned | PeerFailure
"""An event about one content; a PeerFailure may be about none."""

PeerEvent: TypeAlias = SessionReady | Heartbeat | AddressBlocked | ContentEvent

COMMANDS: dict[str, type[PeerCommand]] = {kind.model_fields["do"].default: kind for kind in get_args(PeerCommand)}
EVENTS: dict[str, type[PeerEvent]] = {kind.model_fields["event"].default: kind for kind in get_args(PeerEvent)}


def encode_frame(message: Document, attached: bytes = b"") -> bytes:
    """Encode a message and its attachment."""
    line = canonical(message)
    if attached:
        line = b'{"attached":%d,' % len(attached) + line[1:]
    return line + b"\n" + attached


class FrameReader:
    """Splits a stream of bytes into messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Add bytes; yields (line without its `attached`, attachment) of each complete message."""
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
    """Parse a command."""
    return parse(COMMANDS[json.loads(line)["do"]], line, "command", limit=MAX_LINE)


def parse_event(line: bytes) -> PeerEvent:
    """Parse an event."""
    return parse(EVENTS[json.loads(line)["event"]], line, "event", limit=MAX_LINE)
