"""The swarms that a catalog knows: who takes part in which, who is named to whom, who fetches what first. Pure.

Nothing here is written down: nodes announce themselves again after a restart. Times are seconds of one clock, given by
the caller. A swarm is named by its content's address.
"""

import hashlib
import ipaddress
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from catalog.errors import Conflict, TooLarge
from catalog.image.address import Address
from catalog.swarm.origin_scheduler import OriginScheduler

LEECHER_INTERVAL = 15.0
"""Seconds between the announces of a node that still fetches."""

SEED_INTERVAL = 900.0
"""Seconds between the announces of a node that has everything; it hears of newcomers through `callers`."""

MISSED_ANNOUNCES = 2.5
"""Intervals without an announce after which a peer is forgotten."""

DEGREE = 8
"""Peers named in one answer to a small swarm. A random graph stays in one piece when its degree exceeds ln(nodes)."""

FAR = 2
"""Of these, how many are of other sites, so that sites do not become islands."""

CALL_LIFE = 60.0
"""Seconds for which a peer is told that it was named to somebody: longer than any pause between its questions."""

MAX_PEERS = 8192
"""Peers in one swarm, 40 times the largest that is foreseen: what one address may make us remember has a bound."""

MAX_CALLS = 1024
"""Calls remembered for one peer; a seed's newest are the ones that wait."""


class AnnounceEvent(StrEnum):
    """What an announce says beside numbers (BEP 3)."""

    UPDATE = ""
    STARTED = "started"
    STOPPED = "stopped"
    COMPLETED = "completed"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a peer takes connections: an IP address in its canonical text form, and a TCP port."""

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
    """What a peer says of itself.

    Attributes:
        endpoint: where it listens, at the address that it spoke from.
        left: bytes that it still lacks.
        site: its site's label, or "".
        origin: whether it is the catalog's own seed, to which others are preferred.
        want: how many peers it would like at most.
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
    """A member of a swarm as it announced itself last, and when."""

    said: Announcement
    seen: float

    @property
    def complete(self) -> bool:
        """Whether it has everything."""
        return self.said.left == 0

    @property
    def interval(self) -> float:
        """Seconds until it should announce again."""
        return SEED_INTERVAL if self.complete else LEECHER_INTERVAL


@dataclass(frozen=True, slots=True)
class AnnounceResult:
    """What the tracker says: peers in the order of preference, the swarm's counts, when to ask again (seconds)."""

    peers: tuple[SwarmPeer, ...]
    complete: int
    incomplete: int
    interval: float


@dataclass(frozen=True, slots=True)
class SwarmCounts:
    """A scrape (BEP 48): members that have everything, that do not, and how often one became complete."""

    complete: int
    incomplete: int
    downloaded: int


@dataclass(slots=True)
class _Swarm:
    peers: dict[Endpoint, SwarmPeer] = field(default_factory=dict)
    downloaded: int = 0
    copies: OriginScheduler | None = None

    def counts(self) -> SwarmCounts:
        complete = sum(peer.complete for peer in self.peers.values())
        return SwarmCounts(complete, len(self.peers) - complete, self.downloaded)


class Tracker:
    """All swarms. One caller at a time."""

    def __init__(self) -> None:
        self._swarms: dict[Address, _Swarm] = {}
        self._calls: dict[Endpoint, dict[tuple[Address, Endpoint], float]] = {}
        self._swept = 0.0

    def announce(self, address: Address, said: Announcement, now: float) -> AnnounceResult:
        """Take note of a peer and name others to it.

        Raises:
            TooLarge: the swarm has as many members as it may.
        """
        self._sweep(now)
        swarm = self._swarms.setdefault(address, _Swarm())
        self._expire(swarm, now)
        before = swarm.peers.get(said.endpoint)
        if said.event is AnnounceEvent.STOPPED:
            self._leave(swarm, said.endpoint)
            if not swarm.peers:
                del self._swarms[address]
            counts = swarm.counts()
            return AnnounceResult((), counts.complete, counts.incomplete, SEED_INTERVAL)
        if before is None and len(swarm.peers) >= MAX_PEERS:
            raise TooLarge(f"the swarm of {address} has {MAX_PEERS} members, as many as it may; fetch over HTTP")
        if said.event is AnnounceEvent.STARTED and swarm.copies is not None:
            swarm.copies.gone(str(said.endpoint))  # what it was given before it was restarted is forgotten
        peer = swarm.peers[said.endpoint] = SwarmPeer(said, now)
        if said.left == 0 and before is not None and before.said.left > 0:
            swarm.downloaded += 1
        chosen = choose_peers(peer, [other for other in swarm.peers.values() if other is not peer])
        for other in chosen:
            calls = self._calls.setdefault(other.said.endpoint, {})
            calls.pop((address, said.endpoint), None)
            calls[address, said.endpoint] = now
            if len(calls) > MAX_CALLS:
                del calls[next(iter(calls))]
        counts = swarm.counts()
        return AnnounceResult(tuple(chosen), counts.complete, counts.incomplete, peer.interval)

    def callers(self, endpoint: Endpoint, now: float) -> list[tuple[Address, Endpoint]]:
        """To whom a peer was named of late, in any swarm: from these it takes connections, and may call them itself."""
        calls = self._calls.get(endpoint, {})
        return [call for call, since in calls.items() if now - since < CALL_LIFE]

    def parts(
        self, address: Address, endpoint: Endpoint, have: Iterable[tuple[int, int]], want: int, now: float
    ) -> list[tuple[int, int]]:
        """What a member should fetch from the origin next, as byte ranges; `have` is what it has beyond what it said.

        Nothing is given while another member has everything: the swarm has it all, and the origin is spared.

        Raises:
            Conflict: it has not announced itself, or was forgotten.
        """
        swarm = self._swarms.get(address)
        if swarm is None or endpoint not in swarm.peers:
            raise Conflict(f"{endpoint} is not in the swarm of {address}; announce first")
        if swarm.copies is None:
            swarm.copies = OriginScheduler(address.size)
        swarm.copies.have(str(endpoint), have)
        if any(peer.complete and not peer.said.origin for peer in swarm.peers.values()):
            return []
        sharers = sum(not peer.complete for peer in swarm.peers.values())
        return swarm.copies.give(str(endpoint), want, sharers, now)

    def scrape(self, addresses: Sequence[Address]) -> list[SwarmCounts]:
        """The counts of some swarms, in order."""
        return [
            self._swarms[address].counts() if address in self._swarms else SwarmCounts(0, 0, 0) for address in addresses
        ]

    def _sweep(self, now: float) -> None:
        """Once in a while forget everywhere, so that swarms that nobody asks for go too."""
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
            self._leave(swarm, endpoint)

    @staticmethod
    def _leave(swarm: _Swarm, endpoint: Endpoint) -> None:
        swarm.peers.pop(endpoint, None)
        if swarm.copies is not None:
            swarm.copies.gone(str(endpoint))


def degree(members: int) -> int:
    """How many peers one answer names in a swarm of so many members: never below ln(members) + 2."""
    return max(DEGREE, math.ceil(math.log(max(1, members))) + 2)


def choose_peers(asker: SwarmPeer, others: Sequence[SwarmPeer]) -> list[SwarmPeer]:
    """Whom to name to a peer: the same site first, then those who have everything, the origin after other seeds.

    Between equals the order is pseudo-random and the asker's own, so that load spreads and the swarm is a random graph.
    A complete peer is named only incomplete ones; an incomplete one is named at least one that is complete.
    """
    candidates = [other for other in others if not (asker.complete and other.complete)]
    own = asker.said.endpoint.packed

    def rank(other: SwarmPeer) -> tuple[bool, int, bytes]:
        said = other.said
        kind = 1 if said.origin else 0 if other.complete else 2
        spread = hashlib.blake2b(own + said.endpoint.packed, digest_size=8).digest()
        return (not said.site or said.site != asker.said.site, kind, spread)

    ordered = sorted(candidates, key=rank)
    limit = min(asker.said.want, degree(len(others) + 1))
    if len(ordered) <= limit:
        return ordered
    near = [other for other in ordered if not rank(other)[0]]
    far = ordered[len(near) :]
    kept_for_far = min(FAR, len(far), limit // 2)
    chosen = near[: limit - kept_for_far]
    # Strangers are taken as they fall, not best first: else all sites would hang on the same few of them.
    chosen += sorted(far, key=lambda other: rank(other)[2])[: limit - len(chosen)] if near else far[:limit]
    if chosen and not any(peer.complete for peer in chosen):
        chosen[-1:] = [next((peer for peer in ordered if peer.complete), chosen[-1])]
    return sorted(chosen, key=rank)
