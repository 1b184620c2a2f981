"""Bringing one content into its incoming file: what is there, what can be copied from here, then the network.

Local matches first. Of the rest, pieces that are here in part come over HTTP, block by block; pieces of which nothing is
here come through the swarm where they are enough to be worth it, else over HTTP too.
"""

import subprocess
from collections.abc import Iterable, Sequence
from contextlib import suppress

from catalog.content.indexing import HINT_BLOCK
from catalog.image.blanks import SYSTEM_PATH
from catalog.swarm.torrent import travels_by_swarm
from signer.runtime.progress import Advance
from stager.cache.cache import Cache
from stager.cache.disk import allocated_bytes
from stager.cache.partial_file import PartialFile
from stager.content.piece_map import PieceMap
from stager.content.transfer_stats import TransferInProgress, TransferStage, TransferTraffic
from stager.errors import ContentCorrupt, PeerFailed, SourceLacks, SourceUnavailable, StagerError
from stager.fetch.http import FetchLimits, HttpFetch, missing_pieces
from stager.fetch.local_reuse import COPIED, MIN_REUSE, ReuseResult, reuse_blocks
from stager.fetch.sources import ContentSource, HintSource, ThrottledSource
from stager.swarm.sharing import CacheSharing


class ContentFetch:
    """One content on its way into the cache.

    Args:
        sharing: the node's part in swarms; None is a node without.
        advance: called, from one thread at a time, with bytes that are settled: the content's size in all.
    """

    def __init__(
        self,
        cache: Cache,
        source: ContentSource,
        pace: FetchLimits,
        sharing: CacheSharing | None,
        arrival: TransferInProgress,
        advance: Advance,
    ) -> None:
        self._cache, self._source, self._pace, self._sharing = cache, source, pace, sharing
        self._arrival, self._advance = arrival, advance
        self._told = 0

    def run(self, guide: PieceMap, incoming: PartialFile) -> None:
        """Fetch and commit. When the whole is wrong although every source seemed to deliver, once more from nothing, and
        without the map: without a piece layer only this tells that a map left data out.

        Raises:
            As Fetching.run and Cache.commit.
        """
        address = guide.address
        if guide.layer is None:
            incoming.empty()  # nothing can prove what an earlier attempt left
        try:
            self._fill(guide, incoming)
            self._arrival.stage = TransferStage.VERIFYING
            try:
                self._cache.commit(incoming, address, guide)
            except ContentCorrupt:
                self._leave(guide)
                plain = guide.without_map()
                self._cache.grow(address, max(0, allocation_size(plain) - allocation_size(guide)))
                self._http(plain, incoming, missing_pieces(plain, incoming), None)
                self._cache.commit(incoming, address, plain)
        except BaseException:
            self._leave(guide)
            raise
        if self._sharing is not None:
            self._sharing.offer(guide)

    def _leave(self, guide: PieceMap) -> None:
        if self._sharing is not None:
            self._sharing.leave(guide.address)

    def _fill(self, guide: PieceMap, incoming: PartialFile) -> None:
        missing = missing_pieces(guide, incoming)
        self._arrival.resumed = _size(guide, guide.needed) - _size(guide, missing)
        self._settle(guide.address.size - _size(guide, missing))
        if guide.data_map is not None or guide.layer is not None:
            incoming.allocate(guide.data_extents)
        reused = self._reuse(guide, incoming, missing)
        mixed = [piece for piece in missing if reused is not None and _partly(guide, piece, reused)]
        whole = sorted(set(missing) - set(mixed))
        sharing = self._sharing
        if sharing is None or guide.layer is None or not sharing.usable or not travels_by_swarm(guide.address.size):
            self._http(guide, incoming, missing, reused)
            return
        worth = travels_by_swarm(_size(guide, whole))
        try:
            self._http(guide, incoming, mixed if worth else missing, reused)
        except (SourceUnavailable, SourceLacks):
            worth = True  # without the origin all of it comes through the swarm, or nothing does
        if not worth:
            return
        try:
            self._swarm(guide, incoming, reused, sharing)
        except PeerFailed:
            self._leave(guide)
            self._http(guide, incoming, missing_pieces(guide, incoming), None)
        if allocated_bytes(incoming.path) > allocation_size(guide):
            _dig(incoming)

    def _reuse(self, guide: PieceMap, incoming: PartialFile, missing: Sequence[int]) -> ReuseResult | None:
        """Copy what other contents have. Nothing that goes wrong with hints stops a staging."""
        donors = [donor for donor in self._cache.donors() if donor.address != guide.address]
        if guide.layer is None or not donors or _size(guide, missing) < MIN_REUSE:
            return None
        if not isinstance(self._source, HintSource):
            return None
        hints = None
        with suppress(StagerError):
            hints = self._source.hints(guide.address)
        if hints is None or len(hints) != 8 * -(-guide.address.size // HINT_BLOCK):
            return None
        self._arrival.stage = TransferStage.COPYING
        reused = reuse_blocks(self._cache.root, guide, hints, missing, donors, incoming)
        self._arrival.copied = reused.copied
        return reused

    def _http(self, guide: PieceMap, incoming: PartialFile, pieces: Sequence[int], reused: ReuseResult | None) -> None:
        self._arrival.stage = TransferStage.FETCHING
        fetching = HttpFetch(
            self._source,
            guide,
            incoming,
            pieces,
            pace=self._pace,
            grow=lambda extra: self._cache.grow(guide.address, extra),
            advance=self._settle,
            reused=reused,
        )
        with self._arrival.counting(lambda: TransferTraffic(from_origin=fetching.fetched.received)):
            fetching.run()

    def _swarm(self, guide: PieceMap, incoming: PartialFile, reused: ReuseResult | None, sharing: CacheSharing) -> None:
        """Peers' pieces are written whole, zeros included, until they are dug out again."""
        self._cache.grow(guide.address, _size(guide, guide.needed) - guide.data_bytes)
        self._arrival.stage = TransferStage.SWARMING
        first = [self._told]

        def advance(count: int) -> None:
            # It begins with what is here, which has been told.
            known = min(first[0], count)
            first[0] -= known
            self._settle(count - known)

        origin = ThrottledSource(self._source, self._pace.throttle)
        sharing.fetch(guide, incoming.path, reused, origin, self._arrival, advance)

    def _settle(self, count: int) -> None:
        """Pass on what is settled; never more than there is, for what is fetched again was told before."""
        count = max(0, min(count, self._arrival.address.size - self._told))
        self._told += count
        self._arrival.settled(count)
        self._advance(count)


def _partly(guide: PieceMap, piece: int, reused: ReuseResult) -> bool:
    """Whether something of a piece was copied."""
    start, end = guide.bounds(piece)
    return COPIED in reused.blocks[start // HINT_BLOCK : -(-end // HINT_BLOCK)]


def _size(guide: PieceMap, pieces: Iterable[int]) -> int:
    return sum(end - start for start, end in map(guide.bounds, pieces))


def _dig(incoming: PartialFile) -> None:
    """Make zeros holes again. Without the tool they stay, and count."""
    with suppress(OSError, subprocess.SubprocessError):
        subprocess.run(
            ["fallocate", "--dig-holes", str(incoming.path)], env={"PATH": SYSTEM_PATH}, check=False, timeout=600
        )


def allocation_size(guide: PieceMap) -> int:
    """Bytes to reserve for content: its data in whole blocks, and what filesystems keep to say where the data is.

    ext4 keeps 340 extents in a block of 4 KiB, XFS 250, and neither breaks data of one write into more.
    """
    blocks = sum(-(-length // 4096) * 4096 for _, length in guide.data_extents)
    return blocks + (64 << 10) + len(guide.data_extents) // 100 * 4096
