"""From whom the bytes of a content came: counts by peer, kept while peers come and go. Pure.

libtorrent tells what a peer has sent for as long as it is connected, and of all peers together to the end. A peer that
leaves between two looks takes its last bytes with it; they are in the sum, and are given to those who left, by what each
was sending. So the sum is exact, each count is exact up to one look, and with a single peer it is exact to the end.
"""

from collections.abc import Iterable, Sequence
from typing import Annotated, NamedTuple

from pydantic import Field

from signer.documents import Document

MAX_PEERS_SHOWN = 8
"""Feeders of a content that are told: with more of them nobody wants to know each."""

MAX_PEERS_KEPT = 256
"""Peers of a content that are counted one by one; whoever calls itself something new each time is counted with the rest."""

MAX_NAME = 20
"""Characters of a peer's name: its peer ID (BEP 3) has that many bytes."""


class PeerStats(Document):
    """A peer that sent something of a content.

    Attributes:
        peer: what it calls itself (its peer ID, characters that cannot be printed left out); a node of the site gives this
            name to the site, too.
        at: ADDRESS:PORT that it was last seen at; a port that somebody called from says nothing.
        received: payload bytes that came from it.
        rate: bytes per second that come from it now.
    """

    peer: Annotated[str, Field(max_length=MAX_NAME)]
    at: Annotated[str, Field(max_length=64)]
    received: Annotated[int, Field(ge=0)]
    rate: Annotated[int, Field(ge=0)] = 0


class PeerSample(NamedTuple):
    """A connected peer at one look: as `PeerStats`, with what came over this connection."""

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

    def look(self, present: Iterable[PeerSample]) -> None:
        """The peers that are connected now."""
        found = {(one.peer, one.at): one for one in present}
        for key, before in self._now.items():
            now = found.get(key)
            if now is None or now.received < before.received:  # it has left; perhaps it has come again
                self._gone(before)
        self._now = found

    def told(self, total: int) -> tuple[PeerStats, ...]:
        """Who has sent what, the most first; at most `MAX_PEERS_SHOWN`.

        Args:
            total: payload bytes that came from all peers.
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

    def _gone(self, last: PeerSample) -> None:
        peer = last.peer if last.peer in self._earlier or len(self._earlier) < MAX_PEERS_KEPT else ""
        self._at[peer] = last.at
        self._earlier[peer] = self._earlier.get(peer, 0) + last.received
        self._left[peer] = self._left.get(peer, 0) + max(1, last.rate)


def top_peers(feeders: Iterable[PeerStats]) -> tuple[PeerStats, ...]:
    """Those who sent the most, in that order; at most `MAX_PEERS_SHOWN`."""
    return tuple(sorted(feeders, key=lambda one: (-one.received, one.peer))[:MAX_PEERS_SHOWN])


def merge_peer_stats(*several: Sequence[PeerStats]) -> tuple[PeerStats, ...]:
    """Counts of several sessions, the newest last; rates and places are of the last that knows them."""
    found: dict[str, PeerStats] = {}
    for one in (feeder for feeders in several for feeder in feeders):
        before = found.get(one.peer)
        found[one.peer] = one.model_copy(update={"received": one.received + before.received}) if before else one
    return top_peers(found.values())


def idle_peer_stats(feeders: Iterable[PeerStats]) -> tuple[PeerStats, ...]:
    """The same when nothing comes any more."""
    return tuple(one.model_copy(update={"rate": 0}) for one in feeders)
