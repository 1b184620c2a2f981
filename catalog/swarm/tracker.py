"""The tracker: the members of each swarm, which peers to name to a peer, and who fetches what from the origin. Pure.

All state is in memory: nodes announce themselves again after a restart. Times are seconds of one clock, given by the
caller. A swarm is named by its content's address.
"""

import hashlib
import ipaddress
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Generic, TypeVar

from catalog.errors import Conflict, TooLarge
from catalog.image.address import Address
from catalog.swarm.origin_scheduler import OriginScheduler

LEECHER_INTERVAL = 15.0
"""Seconds between the announces of a node that is still fetching."""

SEED_INTERVAL = 900.0
"""Seconds between the announces of a complete node; it learns of new peers through `incoming_peers`."""

MISSED_ANNOUNCES = 2.5
"""Intervals without an announce after which a peer is removed."""

DEGREE = 8
"""Peers named in one response in a small swarm. A random graph is connected if its degree exceeds ln(nodes)."""

FAR = 2
"""How many of these are at other sites, so that sites do not become islands."""

CALL_LIFE = 60.0
"""Seconds for which a peer can learn that it was named to another one: longer than the interval of its queries."""

MAX_PEERS = 8192
"""Peers in one swarm, 40 times the largest expected one: bounds the memory that one address can take."""

MAX_CALLS = 1024
"""Incoming peers remembered for one peer; a seed needs the newest."""

P = TypeVar("P")


class AnnounceEvent(StrEnum):
    """The event of an announce (BEP 3)."""

    UPDATE = ""
    STARTED = "started"
    STOPPED = "stopped"
    COMPLETED = "completed"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a peer accepts connections: an IP address in canonical text form, and a TCP port."""

    ip: str
    port: int

    def __str__(self) -> str:
        return f"[{self.ip}]:{self.port}" if ":" in self.ip else f"{self.ip}:{self.port}"

    @property
    def packed(self) -> bytes:
        """6 bytes for IPv4 (BEP 23), 18 for IPv6 (BEP 7)."""
        return ipaddress.ip_address(self.ip).packed + self.port.to_bytes(2, "big")


@dataclass(frozen=True, slots=True)
class Announcement:
    """A peer's announcement of itself.

    Attributes:
        endpoint: where it listens, at the address from which it sent the announce.
        left: bytes that it still lacks.
        site: its site's label, or "".
        origin: whether it is the catalog's own seed; other seeds are preferred.
        want: maximum number of peers in the response.
        peer_id: 20 bytes.
    """

    endpoint: Endpoint
    left: int
    event: AnnounceEvent = AnnounceEvent.UPDATE
    site: str = ""
    origin: bool = False
    want: int = 50
    peer_id: bytes = bytes(20)


@dataclass(frozen=True, slots=True)
class SwarmPeer:
    """A member of a swarm: its last announcement, and when it came."""

    announcement: Announcement
    seen: float

    @property
    def complete(self) -> bool:
        """Whether it has the whole content."""
        return self.announcement.left == 0

    @property
    def interval(self) -> float:
        """Seconds until it should announce again."""
        return SEED_INTERVAL if self.complete else LEECHER_INTERVAL


@dataclass(frozen=True, slots=True)
class AnnounceResult(Generic[P]):
    """The tracker's response: peers in the order of preference, complete and incomplete members of the swarm, seconds until
    the next announce."""

    peers: tuple[P, ...]
    complete: int
    incomplete: int
    interval: float


@dataclass(frozen=True, slots=True)
class SwarmCounts:
    """Counts of a scrape (BEP 48): complete members, incomplete members, and how often a member became complete."""

    complete: int
    incomplete: int
    downloaded: int


@dataclass(slots=True)
class _Swarm:
    peers: dict[Endpoint, SwarmPeer] = field(default_factory=dict)
    downloaded: int = 0
    scheduler: OriginScheduler | None = None

    def counts(self) -> SwarmCounts:
        complete = sum(peer.complete for peer in self.peers.values())
        return SwarmCounts(complete, len(self.peers) - complete, self.downloaded)


class Tracker:
    """All swarms. One caller at a time."""

    def __init__(self) -> None:
        self._swarms: dict[Address, _Swarm] = {}
        self._calls: dict[Endpoint, dict[tuple[Address, Endpoint], float]] = {}
        self._swept = 0.0

    def announce(self, address: Address, announcement: Announcement, now: float) -> AnnounceResult[SwarmPeer]:
        """Record a peer and name others to it.

        Raises:
            TooLarge: the swarm has the maximum number of members.
        """
        endpoint = announcement.endpoint
        self._sweep(now)
        swarm = self._swarms.setdefault(address, _Swarm())
        self._expire(swarm, now)
        before = swarm.peers.get(endpoint)
        if announcement.event is AnnounceEvent.STOPPED:
            self._remove(swarm, endpoint)
            if not swarm.peers:
                del self._swarms[address]
            counts = swarm.counts()
            return AnnounceResult((), counts.complete, counts.incomplete, SEED_INTERVAL)
        if before is None and len(swarm.peers) >= MAX_PEERS:
            raise TooLarge(f"the swarm of {address} has {MAX_PEERS} members, the maximum; fetch over HTTP")
        if announcement.event is AnnounceEvent.STARTED and swarm.scheduler is not None:
            swarm.scheduler.remove(str(endpoint))  # it was restarted, and lost its assignments
        peer = swarm.peers[endpoint] = SwarmPeer(announcement, now)
        if peer.complete and before is not None and not before.complete:
            swarm.downloaded += 1
        chosen = choose_peers(peer, [other for other in swarm.peers.values() if other is not peer])
        for other in chosen:
            calls = self._calls.setdefault(other.announcement.endpoint, {})
            calls.pop((address, endpoint), None)
            calls[address, endpoint] = now
            if len(calls) > MAX_CALLS:
                del calls[next(iter(calls))]
        counts = swarm.counts()
        return AnnounceResult(tuple(chosen), counts.complete, counts.incomplete, peer.interval)

    def incoming_peers(self, endpoint: Endpoint, now: float) -> list[tuple[Address, Endpoint]]:
        """The peers to which a peer was named lately, in any swarm: it accepts connections from them, or may connect."""
        calls = self._calls.get(endpoint, {})
        return [call for call, since in calls.items() if now - since < CALL_LIFE]

    def assign(
        self, address: Address, endpoint: Endpoint, have: Iterable[tuple[int, int]], want: int, now: float
    ) -> list[tuple[int, int]]:
        """Assign (start, end) byte ranges to a member, to be fetched from the origin; `have` are ranges newly reported.

        Nothing is assigned while another member is complete: the swarm then has the whole content.

        Raises:
            Conflict: the member has not announced itself, or was removed.
        """
        swarm = self._swarms.get(address)
        if swarm is None or endpoint not in swarm.peers:
            raise Conflict(f"{endpoint} is not in the swarm of {address}; announce first")
        if swarm.scheduler is None:
            swarm.scheduler = OriginScheduler(address.size)
        swarm.scheduler.report(str(endpoint), have)
        if any(peer.complete and not peer.announcement.origin for peer in swarm.peers.values()):
            return []
        sharers = sum(not peer.complete for peer in swarm.peers.values())
        return swarm.scheduler.assign(str(endpoint), want, sharers, now)

    def scrape(self, addresses: Sequence[Address]) -> list[SwarmCounts]:
        """The counts of swarms, in the order of their addresses."""
        return [
            self._swarms[address].counts() if address in self._swarms else SwarmCounts(0, 0, 0) for address in addresses
        ]

    def _sweep(self, now: float) -> None:
        """From time to time remove expired peers everywhere, including swarms without requests."""
        if now - self._swept < CALL_LIFE:
            return
        self._swept = now
        for address, swarm in list(self._swarms.items()):
            self._expire(swarm, now)
            if not swarm.peers:
                del self._swarms[address]
        for endpoint, calls in list(self._calls.items()):
            for call in [call for call, since in calls.items() if now - since >= CALL_LIFE]:
                del calls[call]
            if not calls:
                del self._calls[endpoint]

    def _expire(self, swarm: _Swarm, now: float) -> None:
        for endpoint in [at for at, peer in swarm.peers.items() if now - peer.seen > MISSED_ANNOUNCES * peer.interval]:
            self._remove(swarm, endpoint)

    @staticmethod
    def _remove(swarm: _Swarm, endpoint: Endpoint) -> None:
        swarm.peers.pop(endpoint, None)
        if swarm.scheduler is not None:
            swarm.scheduler.remove(str(endpoint))


def degree(members: int) -> int:
    """The number of peers that a response names in a swarm of that many members: at least ln(members) + 2."""
    return max(DEGREE, math.ceil(math.log(max(1, members))) + 2)


def choose_peers(asker: SwarmPeer, others: Sequence[SwarmPeer]) -> list[SwarmPeer]:
    """Choose the peers to name to a peer: of its site first, then complete ones, the origin after other seeds.

    Between equals the order is pseudo-random and differs by asker, so that load spreads and the swarm is a random graph.
    A complete peer gets only incomplete ones; an incomplete peer gets at least one complete peer, if there is one.
    """
    candidates = [other for other in others if not (asker.complete and other.complete)]
    own = asker.announcement.endpoint.packed

    def rank(other: SwarmPeer) -> tuple[bool, int, bytes]:
        about = other.announcement
        kind = 1 if about.origin else 0 if other.complete else 2
        spread = hashlib.blake2b(own + about.endpoint.packed, digest_size=8).digest()
        return (not about.site or about.site != asker.announcement.site, kind, spread)

    ordered = sorted(candidates, key=rank)
    limit = min(asker.announcement.want, degree(len(others) + 1))
    if len(ordered) <= limit:
        return ordered
    near = [other for other in ordered if not rank(other)[0]]
    far = ordered[len(near) :]
    kept_for_far = min(FAR, len(far), limit // 2)
    chosen = near[: limit - kept_for_far]
    # Peers of other sites are chosen at random, not best first: else all sites would connect to the same few.
    chosen += sorted(far, key=lambda other: rank(other)[2])[: limit - len(chosen)] if near else far[:limit]
    if chosen and not any(peer.complete for peer in chosen):
        chosen[-1:] = [next((peer for peer in ordered if peer.complete), chosen[-1])]
    return sorted(chosen, key=rank)
