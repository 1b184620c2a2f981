"""Counts the bytes of a content by the peer that sent them, while peers connect and disconnect. Pure.

libtorrent reports the bytes of a peer while it is connected, and the total of all peers to the end. The last bytes of a
peer that disconnects between two samples are only in the total; they are distributed among the peers that left, by the
rate at which each was sending. So the total is exact, each count is exact up to one sample, and with a single peer it is
exact to the end.
"""

from collections.abc import Iterable, Sequence
from typing import Annotated, NamedTuple

from pydantic import Field

from signer.documents import Document

MAX_PEERS_SHOWN = 8
"""Peers that are reported for a content; more would not be read."""

MAX_PEERS_KEPT = 256
"""Peers of a content that are counted one by one; further names, such as of a peer that changes its own, are counted
together."""

MAX_NAME = 20
"""Characters of a peer's name: its peer ID (BEP 3) has that many bytes."""


class PeerStats(Document):
    """A peer that sent bytes of a content.

    Attributes:
        peer: its name (its peer ID without unprintable characters); a node of the site reports this name to the site, too.
        at: ADDRESS:PORT where it was last seen; the port of an incoming connection does not identify it.
        received: payload bytes received from it.
        rate: bytes per second received from it now.
    """

    peer: Annotated[str, Field(max_length=MAX_NAME)]
    at: Annotated[str, Field(max_length=64)]
    received: Annotated[int, Field(ge=0)]
    rate: Annotated[int, Field(ge=0)] = 0


class PeerSample(NamedTuple):
    """A connected peer at one moment: as `PeerStats`, with the bytes of this connection."""

    peer: str
    at: str
    received: int
    rate: int


class PeerStatsRecorder:
    """The counts of one content in one session."""

    def __init__(self) -> None:
        self._now: dict[tuple[str, str], PeerSample] = {}
        self._earlier: dict[str, int] = {}
        self._left: dict[str, int] = {}
        self._at: dict[str, str] = {}

    def sample(self, present: Iterable[PeerSample]) -> None:
        """Record the peers that are connected now."""
        found = {(one.peer, one.at): one for one in present}
        for key, before in self._now.items():
            now = found.get(key)
            if now is None or now.received < before.received:  # it has disconnected, and perhaps connected again
                self._disconnected(before)
        self._now = found

    def stats(self, total: int) -> tuple[PeerStats, ...]:
        """Return the peers by bytes sent, the most first; at most `MAX_PEERS_SHOWN`.

        Args:
            total: payload bytes received from all peers.
        """
        counts = dict(self._earlier)
        for one in self._now.values():
            counts[one.peer] = counts.get(one.peer, 0) + one.received
        lost, weights = max(0, total - sum(counts.values())), sum(self._left.values())
        for peer, weight in self._left.items():
            counts[peer] = counts.get(peer, 0) + lost * weight // weights
        rates, places = dict[str, int](), dict(self._at)
        for one in self._now.values():
            rates[one.peer] = rates.get(one.peer, 0) + one.rate
            places[one.peer] = one.at
        return top_peers(
            PeerStats(peer=peer, at=places[peer], received=count, rate=rates.get(peer, 0))
            for peer, count in counts.items()
            if count
        )

    def _disconnected(self, last: PeerSample) -> None:
        peer = last.peer if last.peer in self._earlier or len(self._earlier) < MAX_PEERS_KEPT else ""
        self._at[peer] = last.at
        self._earlier[peer] = self._earlier.get(peer, 0) + last.received
        self._left[peer] = self._left.get(peer, 0) + max(1, last.rate)


def top_peers(feeders: Iterable[PeerStats]) -> tuple[PeerStats, ...]:
    """Return the peers that sent the most, in that order; at most `MAX_PEERS_SHOWN`."""
    return tuple(sorted(feeders, key=lambda one: (-one.received, one.peer))[:MAX_PEERS_SHOWN])


def merge_peer_stats(*several: Sequence[PeerStats]) -> tuple[PeerStats, ...]:
    """Add the counts of several sessions, the newest last; rate and address of a peer are those of its last session."""
    found: dict[str, PeerStats] = {}
    for one in (feeder for feeders in several for feeder in feeders):
        before = found.get(one.peer)
        found[one.peer] = one.model_copy(update={"received": one.received + before.received}) if before else one
    return top_peers(found.values())


def idle_peer_stats(feeders: Iterable[PeerStats]) -> tuple[PeerStats, ...]:
    """Return the same counts with rates of zero."""
    return tuple(one.model_copy(update={"rate": 0}) for one in feeders)
