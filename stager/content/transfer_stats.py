"""Statistics of the transfers in progress and just ended: bytes, rates and their sources."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from enum import StrEnum

from catalog.image.address import Address
from stager.content.peer_stats import PeerStats, idle_peer_stats, merge_peer_stats

MEMORY = 5.0
"""Seconds over which a rate is averaged: long enough to be steady, short enough to be current."""

SPACING = 0.25
"""Seconds between the samples of a rate."""

RECENT_SECONDS = 600.0
"""Seconds for which an ended transfer is shown: long enough to be read after many machines were started."""

MAX_RECENT = 32
"""Ended transfers that are shown: the contents of some images."""


class TransferStage(StrEnum):
    """The step in which a transfer is."""

    PREPARING = "preparing"
    COPYING = "copying"
    FETCHING = "fetching"
    SWARMING = "swarming"
    VERIFYING = "verifying"


@dataclass(frozen=True, slots=True)
class TransferTraffic:
    """Payload bytes received from peers and from the origin so far, peers connected now, and bytes by peer."""

    from_peers: int = 0
    from_origin: int = 0
    peers: int = 0
    feeders: tuple[PeerStats, ...] = ()


@dataclass(frozen=True, slots=True)
class TransferProgress:
    """The state of one transfer; bytes, bytes per second, seconds.

    Attributes:
        have: the bytes of `size` that are verified, or zero.
        from_cache: bytes copied from other contents, or left by an interrupted staging.
        left: seconds until it is complete at this rate; None if unknown.
        feeders: the peers that sent the most.
        origin_rate: the part of `rate` that comes from the origin.
        ended: seconds since it ended; None while it is in progress.
    """

    address: Address
    image: str
    stage: TransferStage
    size: int
    have: int
    from_cache: int
    from_peers: int
    from_origin: int
    rate: float
    left: float | None
    peers: int
    feeders: tuple[PeerStats, ...] = ()
    origin_rate: float = 0.0
    ended: float | None = None


@dataclass(eq=False)
class TransferInProgress:
    """One transfer in progress; changed by the code that fetches it, read from any thread.

    Attributes:
        have: settled bytes: verified, or zero.
        resumed: bytes left by an interrupted staging.
        copied: bytes copied from other contents.
    """

    address: Address
    image: str
    clock: Callable[[], float]
    stage: TransferStage = TransferStage.PREPARING
    have: int = 0
    resumed: int = 0
    copied: int = 0
    _earlier: TransferTraffic = TransferTraffic()
    _live: Callable[[], TransferTraffic] | None = None
    _samples: deque[tuple[float, int, int]] = field(default_factory=deque)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def counting(self, live: Callable[[], TransferTraffic]) -> Iterator[None]:
        """While the block runs, `live` returns its traffic so far; the value at the end is kept."""
        self._live = live
        try:
            yield
        finally:
            with self._lock:
                self._earlier, self._live = _sum(self._earlier, live()), None

    @property
    def traffic(self) -> TransferTraffic:
        """All traffic so far."""
        with self._lock:
            return _sum(self._earlier, self._live()) if self._live else self._earlier

    def settled(self, count: int) -> None:
        """Add settled bytes."""
        now, samples = self.clock(), self._samples
        origin = self.traffic.from_origin if not samples or now - samples[-1][0] >= SPACING else None
        with self._lock:
            self.have += count
            if origin is not None:
                self._samples.append((now, self.have, origin))
                while now - self._samples[0][0] > MEMORY:
                    self._samples.popleft()

    def snapshot(self) -> TransferProgress:
        """Return the transfer's state."""
        now, traffic = self.clock(), self.traffic
        with self._lock:
            at, settled, came = self._samples[0] if self._samples else (now, self.have, 0)
            rate = max(0.0, (self.have - settled) / (now - at)) if now > at else 0.0
            origin_rate = max(0.0, (traffic.from_origin - came) / (now - at)) if now > at else 0.0
            have = min(self.have, self.address.size)
        return TransferProgress(
            *(self.address, self.image, self.stage, self.address.size, have, self.resumed + self.copied),
            *(traffic.from_peers, traffic.from_origin, rate, (self.address.size - have) / rate if rate else None),
            *(traffic.peers, traffic.feeders, origin_rate),
        )


class TransferRegistry:
    """All transfers in progress, and those that ended recently."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._now: list[TransferInProgress] = []
        self._ended: deque[tuple[float, TransferProgress]] = deque(maxlen=MAX_RECENT)

    @contextmanager
    def begin(self, address: Address, image: str) -> Iterator[TransferInProgress]:
        """Register a transfer while the block runs."""
        transfer = TransferInProgress(address, image, self._clock)
        with self._lock:
            self._now.append(transfer)
        try:
            yield transfer
        finally:
            last = replace(transfer.snapshot(), rate=0.0, left=None, peers=0, origin_rate=0.0)
            last = replace(last, feeders=idle_peer_stats(last.feeders))
            with self._lock:
                self._now.remove(transfer)
                self._ended.append((self._clock(), last))

    def snapshot(self) -> tuple[TransferProgress, ...]:
        """Return the states of all transfers in progress, in the order in which they began."""
        with self._lock:
            now = list(self._now)
        return tuple(transfer.snapshot() for transfer in now)

    def recent(self) -> tuple[TransferProgress, ...]:
        """Return the network transfers that ended within `RECENT_SECONDS`, the last first; at most `MAX_RECENT`."""
        now = self._clock()
        with self._lock:
            ended = [(now - at, one) for at, one in self._ended if now - at < RECENT_SECONDS]
        return tuple(replace(one, ended=age) for age, one in reversed(ended) if one.from_peers or one.from_origin)


def _sum(first: TransferTraffic, second: TransferTraffic) -> TransferTraffic:
    return TransferTraffic(
        first.from_peers + second.from_peers,
        first.from_origin + second.from_origin,
        second.peers,
        merge_peer_stats(idle_peer_stats(first.feeders), second.feeders),
    )
