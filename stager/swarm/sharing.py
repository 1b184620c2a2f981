"""A node's contents in their swarms: what arrives is fetched there, what is cached is offered there.

Offered is what the cache has verified, with the piece layer kept beside it and without hashing it again; what leaves the
cache, whatever the reason, leaves its swarm.
"""

import queue
import random
import threading
from pathlib import Path

from catalog.content.indexing import HINT_BLOCK
from catalog.image.address import LEAF, Address
from catalog.swarm.torrent import travels_by_swarm
from signer.runtime.progress import Advance
from stager.cache import sidecars as beside
from stager.cache.cache import Cache
from stager.cache.entries import CacheKey
from stager.content.leaf_set import LeafSet
from stager.content.piece_map import PieceMap
from stager.content.transfer_stats import TransferInProgress, TransferTraffic
from stager.fetch.local_reuse import ReuseResult
from stager.fetch.resume import find_leaves
from stager.fetch.sources import ContentSource
from stager.swarm.fetch import SwarmFetch, SwarmFile
from stager.swarm.swarm import Swarm
from stager.swarm.tracker_client import TrackerClient


class CacheSharing:
    """The node's part in swarms, for its cache. A context manager; the swarm is opened before and closed after it.

    Args:
        boot: this boot's name.
        rng: spreads rescues.
    """

    def __init__(
        self, cache: Cache, swarm: Swarm, tracker: TrackerClient | None, *, boot: str, rng: random.Random
    ) -> None:
        self._cache, self._swarm, self._tracker, self._boot, self._rng = cache, swarm, tracker, boot, rng
        self._gone: queue.SimpleQueue[CacheKey | None] = queue.SimpleQueue()
        self._leaving = threading.Thread(target=self._leave, name="leaving", daemon=True)

    @property
    def usable(self) -> bool:
        """Whether the swarm works."""
        return self._swarm.failure is None

    def contents(self) -> int:
        """Contents that are offered to others, whole."""
        return sum(member.complete for member in self._swarm.members)

    @property
    def port(self) -> int:
        """Where peers connect."""
        return self._swarm.port

    @property
    def name(self) -> str:
        """What we call ourselves to peers."""
        return self._swarm.name

    @property
    def peers(self) -> int:
        """Peers connected now, over all contents."""
        return sum(member.connected for member in self._swarm.members)

    @property
    def sent(self) -> int:
        """Payload bytes that went to peers since the start, for what is still offered."""
        return sum(member.sent for member in self._swarm.members)

    def __enter__(self) -> "CacheSharing":
        """Begin to watch the cache."""
        self._cache.on_gone(self._gone.put)
        self._leaving.start()
        return self

    def __exit__(self, *exc: object) -> None:
        """Watch it no more."""
        self._cache.on_gone(lambda _: None)
        self._gone.put(None)
        self._leaving.join()

    def offer_all(self) -> int:
        """Offer everything that is cached and travels by swarm; returns how many contents."""
        offered = 0
        for donor in self._cache.donors():
            if travels_by_swarm(donor.address.size):
                layer = beside.read_layer(self._cache.root, donor.address)
                guide = PieceMap.of(donor.address, layer)
                if guide.layer is not None:
                    self._swarm.join(guide, donor.path)
                    offered += 1
        return offered

    def offer(self, guide: PieceMap) -> None:
        """Offer what was just committed; if it came through its swarm, connections stay."""
        path = self._cache.path(guide.address)
        if any(member.address == guide.address for member in self._swarm.members):
            self._swarm.moved(guide.address, path)
        elif guide.layer is not None and travels_by_swarm(guide.address.size):
            self._swarm.join(guide, path)

    def leave(self, address: Address) -> None:
        """Take part in a content's swarm no more."""
        self._swarm.leave(address)

    def fetch(
        self,
        guide: PieceMap,
        path: Path,
        reused: ReuseResult | None,
        source: ContentSource,
        arrival: TransferInProgress,
        advance: Advance,
    ) -> None:
        """Fetch what is missing of a content through its swarm, and from the origin where that does better.

        Raises:
            As SwarmFetching.run.
        """
        journal = beside.journal_path(self._cache.root, str(guide.address))
        here = find_leaves(guide, path, journal, self._boot)
        claim_zeros(here, guide)
        if reused is not None:
            claim_copies(here, reused)
        fetching = SwarmFetch(
            self._swarm,
            self._tracker,
            source,
            SwarmFile(guide, path, here, journal),
            rng=self._rng,
            advance=advance,
        )

        def live() -> TransferTraffic:
            members = [one for one in self._swarm.members if one.address == guide.address]
            peers = members[0].connected if members else 0
            from_peers = members[0].from_peers if members else fetching.brought.from_peers
            feeders = members[0].feeders if members else fetching.brought.feeders
            return TransferTraffic(from_peers, fetching.brought.from_origin, peers, feeders)

        with arrival.counting(live):
            fetching.run()

    def _leave(self) -> None:
        while (key := self._gone.get()) is not None:
            if not key.startswith("blank-"):
                self._swarm.leave(Address.parse(key))


def claim_zeros(leaves: LeafSet, guide: PieceMap) -> None:
    """Count the leaves that the data map calls zero as here. When it lies, the piece comes out wrong and comes again."""
    if guide.data_map is None:
        return
    at = 0
    for offset, length in (*guide.data_extents, (guide.address.size, 0)):
        if offset > at:
            leaves.add(at, offset)
        at = offset + length


def claim_copies(leaves: LeafSet, reused: ReuseResult) -> None:
    """Count the leaves that were copied whole as here, unproved as they are: as above."""
    blocks = LEAF // HINT_BLOCK
    size = leaves.address.size
    for leaf in range(leaves.address.leaves):
        part = reused.blocks[leaf * blocks : (leaf + 1) * blocks]
        if 0 not in part:
            leaves.add(leaf * LEAF, min((leaf + 1) * LEAF, size))
