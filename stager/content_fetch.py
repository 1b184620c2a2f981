"""Fetches one content into its partial file: bytes that it has already, blocks of other contents, then the network.

Local matches come first. Of the remaining pieces, partial ones are fetched over HTTP, block by block; pieces of which no
block is here are fetched through the swarm if they are large enough together, else over HTTP too.
"""

import subprocess
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

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
from stager.fetch.sources import ContentSource, ThrottledSource
from stager.swarm.sharing import CacheSharing


class ContentFetch:
    """One fetch of a content into the cache.

    Args:
        sharing: the node's part in swarms; None if it has none.
        advance: called, from one thread at a time, with the number of settled bytes: the content's size in all.
    """

    def __init__(
        self,
        cache: Cache,
        source: ContentSource,
        limits: FetchLimits,
        sharing: CacheSharing | None,
        transfer: TransferInProgress,
        advance: Advance,
    ) -> None:
        self._cache, self._source, self._limits, self._sharing = cache, source, limits, sharing
        self._transfer, self._advance = transfer, advance
        self._reported = 0

    def run(self, piece_map: PieceMap, incoming: PartialFile) -> None:
        """Fetch and commit. If the whole content is wrong although every source delivered, fetch it again from the start
        and without the data map: without a piece layer this is the only sign that a map left data out.

        Raises:
            As HttpFetch.run, CacheSharing.fetch and Cache.commit.
        """
        address = piece_map.address
        if piece_map.layer is None:
            incoming.empty()  # without a layer the bytes of an earlier attempt cannot be verified
        try:
            self._fill(piece_map, incoming)
            self._transfer.stage = TransferStage.VERIFYING
            try:
                self._cache.commit(incoming, address, piece_map)
            except ContentCorrupt:
                self._leave_swarm(piece_map)
                plain = replace(piece_map, data_map=None)
                self._cache.grow(address, max(0, allocation_size(plain) - allocation_size(piece_map)))
                self._http(plain, incoming, missing_pieces(plain, incoming), None)
                self._cache.commit(incoming, address, plain)
        except BaseException:
            self._leave_swarm(piece_map)
            raise
        if self._sharing is not None:
            self._sharing.offer(piece_map)

    def _leave_swarm(self, piece_map: PieceMap) -> None:
        if self._sharing is not None:
            self._sharing.leave(piece_map.address)

    def _fill(self, piece_map: PieceMap, incoming: PartialFile) -> None:
        missing = missing_pieces(piece_map, incoming)
        self._transfer.resumed = _size(piece_map, piece_map.needed) - _size(piece_map, missing)
        self._settle(piece_map.address.size - _size(piece_map, missing))
        if piece_map.data_map is not None or piece_map.layer is not None:
            incoming.allocate(piece_map.data_extents)
        reused = self._reuse(piece_map, incoming, missing)
        mixed = [piece for piece in missing if reused is not None and _is_partial(piece_map, piece, reused)]
        whole = sorted(set(missing) - set(mixed))
        sharing = self._sharing
        if (
            sharing is None
            or piece_map.layer is None
            or not sharing.usable
            or not travels_by_swarm(piece_map.address.size)
        ):
            self._http(piece_map, incoming, missing, reused)
            return
        worth = travels_by_swarm(_size(piece_map, whole))
        try:
            self._http(piece_map, incoming, mixed if worth else missing, reused)
        except (SourceUnavailable, SourceLacks):
            worth = True  # without the origin the swarm is the only source
        if not worth:
            return
        try:
            self._swarm(piece_map, incoming, reused, sharing)
        except PeerFailed:
            self._leave_swarm(piece_map)
            self._http(piece_map, incoming, missing_pieces(piece_map, incoming), None)
        if allocated_bytes(incoming.path) > allocation_size(piece_map):
            _dig_holes(incoming)

    def _reuse(self, piece_map: PieceMap, incoming: PartialFile, missing: Sequence[int]) -> ReuseResult | None:
        """Copy blocks of other contents. An error with hints does not stop a staging."""
        donors = [donor for donor in self._cache.donors() if donor.address != piece_map.address]
        if piece_map.layer is None or not donors or _size(piece_map, missing) < MIN_REUSE:
            return None
        hints = None
        with suppress(StagerError):
            hints = self._source.accelerator(piece_map.address, "hints")
        if hints is None or len(hints) != 8 * -(-piece_map.address.size // HINT_BLOCK):
            return None
        self._transfer.stage = TransferStage.COPYING
        reused = reuse_blocks(self._cache.root, piece_map, hints, missing, donors, incoming)
        self._transfer.copied = reused.copied
        return reused

    def _http(
        self, piece_map: PieceMap, incoming: PartialFile, pieces: Sequence[int], reused: ReuseResult | None
    ) -> None:
        self._transfer.stage = TransferStage.FETCHING
        grow = partial(self._cache.grow, piece_map.address)
        source, settle = self._source, self._settle
        fetching = HttpFetch(
            source, piece_map, incoming, pieces, limits=self._limits, grow=grow, advance=settle, reused=reused
        )
        with self._transfer.counting(lambda: TransferTraffic(from_origin=fetching.received)):
            fetching.run()

    def _swarm(
        self, piece_map: PieceMap, incoming: PartialFile, reused: ReuseResult | None, sharing: CacheSharing
    ) -> None:
        """Fetch through the swarm. Peers' pieces are written whole, zeros included, until holes are dug again."""
        self._cache.grow(piece_map.address, _size(piece_map, piece_map.needed) - piece_map.data_bytes)
        self._transfer.stage = TransferStage.SWARMING
        first = [self._reported]

        def advance(count: int) -> None:
            # The first bytes are those present at the start, which have been reported.
            known = min(first[0], count)
            first[0] -= known
            self._settle(count - known)

        origin = ThrottledSource(self._source, self._limits.throttle)
        sharing.fetch(piece_map, incoming.path, reused, origin, self._transfer, advance)

    def _settle(self, count: int) -> None:
        """Report settled bytes; never more than the content has, since bytes that are fetched again were reported before."""
        count = max(0, min(count, self._transfer.address.size - self._reported))
        self._reported += count
        self._transfer.settled(count)
        self._advance(count)


def _is_partial(piece_map: PieceMap, piece: int, reused: ReuseResult) -> bool:
    """Whether a part of a piece was copied."""
    start, end = piece_map.bounds(piece)
    return COPIED in reused.blocks[start // HINT_BLOCK : -(-end // HINT_BLOCK)]


def _size(piece_map: PieceMap, pieces: Iterable[int]) -> int:
    return sum(end - start for start, end in map(piece_map.bounds, pieces))


def _dig_holes(incoming: PartialFile) -> None:
    """Turn zeros into holes again. Without the tool they stay allocated."""
    with suppress(OSError, subprocess.SubprocessError):
        subprocess.run(
            ["fallocate", "--dig-holes", str(incoming.path)], env={"PATH": SYSTEM_PATH}, check=False, timeout=600
        )


def allocation_size(piece_map: PieceMap) -> int:
    """Return the bytes to reserve for a content: its data in whole blocks, and the filesystem's own metadata for them.

    ext4 keeps 340 extents in a block of 4 KiB, XFS 250, and neither splits the data of one write into more.
    """
    blocks = sum(-(-length // 4096) * 4096 for _, length in piece_map.data_extents)
    return blocks + (64 << 10) + len(piece_map.data_extents) // 100 * 4096
