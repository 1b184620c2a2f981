"""A node's contents in their swarms: missing contents are fetched there, cached ones are offered there.

Contents that the cache has verified are offered with their stored piece layer, without hashing them again; a content that
leaves the cache, for any reason, leaves its swarm.
"""

import queue
import random
import threading
from pathlib import Path

from catalog.content.indexing import HINT_BLOCK
from catalog.image.address import LEAF, Address
from catalog.swarm.torrent import travels_by_swarm
from signer.runtime.progress import Advance
from stager.cache import sidecars
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
        boot: this boot's identifier.
        rng: spreads the rescues of many nodes.
    """

    def __init__(
        self, cache: Cache, swarm: Swarm, tracker: TrackerClient | None, *, boot: str, rng: random.Random
    ) -> None:
        self._cache, self.swarm, self._tracker, self._boot, self._rng = cache, swarm, tracker, boot, rng
        self._removed: queue.SimpleQueue[CacheKey | None] = queue.SimpleQueue()
        self._leaving = threading.Thread(target=self._leave, name="leaving", daemon=True)

    @property
    def usable(self) -> bool:
        """Whether the swarm works."""
        return self.swarm.failure is None

    def contents(self) -> int:
        """Return the number of complete contents that are offered."""
        return sum(torrent.complete for torrent in self.swarm.torrents)

    @property
    def peers(self) -> int:
        """Peers connected now, over all contents."""
        return sum(torrent.connected for torrent in self.swarm.torrents)

    @property
    def sent(self) -> int:
        """Payload bytes sent to peers since the start, of the contents that are still offered."""
        return sum(torrent.sent for torrent in self.swarm.torrents)

    def __enter__(self) -> "CacheSharing":
        """Start to watch the cache."""
        self._cache.on_removal(self._removed.put)
        self._leaving.start()
        return self

    def __exit__(self, *exc: object) -> None:
        """Stop to watch the cache."""
        self._cache.on_removal(lambda _: None)
        self._removed.put(None)
        self._leaving.join()

    def offer_all(self) -> int:
        """Offer all cached contents that are large enough for a swarm; returns how many."""
        offered = 0
        for donor in self._cache.donors():
            if travels_by_swarm(donor.address.size):
                layer = sidecars.read_layer(self._cache.root, donor.address)
                piece_map = PieceMap.of(donor.address, layer)
                if piece_map.layer is not None:
                    self.swarm.join(piece_map, donor.path)
                    offered += 1
        return offered

    def offer(self, piece_map: PieceMap) -> None:
        """Offer a content that was just committed; if it was fetched through its swarm, connections stay."""
        path = self._cache.path(piece_map.address)
        if any(torrent.address == piece_map.address for torrent in self.swarm.torrents):
            self.swarm.move_file(piece_map.address, path)
        elif piece_map.layer is not None and travels_by_swarm(piece_map.address.size):
            self.swarm.join(piece_map, path)

    def leave(self, address: Address) -> None:
        """Leave a content's swarm."""
        self.swarm.leave(address)

    def fetch(
        self,
        piece_map: PieceMap,
        path: Path,
        reused: ReuseResult | None,
        source: ContentSource,
        transfer: TransferInProgress,
        advance: Advance,
    ) -> None:
        """Fetch the missing pieces of a content through its swarm, and from the origin where that is better.

        Raises:
            As SwarmFetch.run.
        """
        journal = sidecars.journal_path(self._cache.root, str(piece_map.address))
        here = find_leaves(piece_map, path, journal, self._boot)
        claim_zeros(here, piece_map)
        if reused is not None:
            claim_copies(here, reused)
        file = SwarmFile(piece_map, path, here, journal)
        fetching = SwarmFetch(self.swarm, self._tracker, source, file, rng=self._rng, advance=advance)

        def live() -> TransferTraffic:
            one = next((one for one in self.swarm.torrents if one.address == piece_map.address), None)
            counts = one or fetching.result
            peers = one.connected if one else 0
            return TransferTraffic(counts.from_peers, fetching.result.from_origin, peers, counts.feeders)

        with transfer.counting(live):
            fetching.run()

    def _leave(self) -> None:
        while (key := self._removed.get()) is not None:
            if not key.startswith("blank-"):
                self.swarm.leave(Address.parse(key))


def claim_zeros(leaves: LeafSet, piece_map: PieceMap) -> None:
    """Add the leaves that the data map says are zero. If it is wrong, the piece fails verification and is fetched again."""
    if piece_map.data_map is None:
        return
    at = 0
    for offset, length in (*piece_map.data_extents, (piece_map.address.size, 0)):
        if offset > at:
            leaves.add(at, offset)
        at = offset + length


def claim_copies(leaves: LeafSet, reused: ReuseResult) -> None:
    """Add the leaves that were copied whole, though unverified; a wrong one is fetched again as in :func:`claim_zeros`."""
    blocks = LEAF // HINT_BLOCK
    size = leaves.address.size
    for leaf in range(leaves.address.leaves):
        part = reused.blocks[leaf * blocks : (leaf + 1) * blocks]
        if 0 not in part:
            leaves.add(leaf * LEAF, min((leaf + 1) * LEAF, size))
