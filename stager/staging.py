"""Stages images: brings their contents and blanks into the cache, verified and leased to the holder."""

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path

from catalog.image.address import Address
from catalog.image.blanks import make_blank, reserved_size
from catalog.image.manifest import Blank, Manifest
from signer.runtime.progress import Advance, ignore_progress
from stager.cache.cache import Cache
from stager.cache.entries import FOREVER, PIN, CacheItem
from stager.cache.partial_file import PartialFile
from stager.content.piece_map import PieceMap
from stager.content.transfer_stats import TransferInProgress, TransferRegistry
from stager.content_fetch import ContentFetch, allocation_size
from stager.errors import NotCached
from stager.fetch.http import FetchLimits
from stager.fetch.sources import ContentSource, load_piece_map
from stager.swarm.sharing import CacheSharing

SMALL = 1 << 20
"""Bytes of a content up to which several are fetched at once."""

ROUNDS = 3
"""How often items that vanish while the rest is staged (their files removed by hand) are staged again."""


class ItemState(StrEnum):
    """The state of a staged item. Another state will be "arriving": a live file whose reads wait for their blocks."""

    VERIFIED = "verified"


@dataclass(frozen=True, slots=True)
class StagedItem:
    """One item of a staged image: its path and state."""

    path: Path
    state: ItemState


@dataclass(frozen=True)
class StagedImage:
    """A staged image.

    Attributes:
        held: path and state of each item.
        from_cache: bytes of data (zeros do not count) that the cache had already.
        from_network: bytes received from peers and the source, those of failed attempts included.
        resumed: bytes left by an interrupted staging.
        made: blanks that were made now.
        copied: bytes copied from other contents in the cache.
        from_peers: the part of `from_network` that came from other nodes.
    """

    held: Mapping[CacheItem, StagedItem]
    from_cache: int
    from_network: int
    resumed: int
    made: int
    copied: int = 0
    from_peers: int = 0

    def path(self, address: Address) -> Path:
        """Return the absolute path of a content; NotCached if the image has no such content."""
        return self._held(address).path

    def blank(self, blank: Blank) -> Path:
        """Return the absolute path of a blank; machines put overlays on it and never write to it."""
        return self._held(blank).path

    def _held(self, item: CacheItem) -> StagedItem:
        if item not in self.held:
            raise NotCached(f"{item} is not part of the staged image")
        return self.held[item]


def required_items(manifest: Manifest, extra: Sequence[Blank] = ()) -> tuple[CacheItem, ...]:
    """Return the items of an image, each once: contents in the manifest's order, then its blanks, then extra ones."""
    blanks = dict.fromkeys([*(part.blank for part in manifest.partitions() if part.blank is not None), *extra])
    return (*manifest.contents(), *blanks)


def total_size(manifest: Manifest, extra: Sequence[Blank] = ()) -> int:
    """Return the total of `advance` in a staging: the sizes of the image's contents and blanks, zeros included."""
    return sum(item.size for item in required_items(manifest, extra))


class Stager:
    """Stages images from a source into a cache. Safe to use from several threads."""

    def __init__(
        self,
        cache: Cache,
        source: ContentSource,
        limits: FetchLimits | None = None,
        sharing: CacheSharing | None = None,
    ) -> None:
        self.cache, self.transfers = cache, TransferRegistry(time.monotonic)
        self._source, self._limits, self.sharing = source, limits or FetchLimits(), sharing

    def stage(
        self,
        manifest: Manifest,
        holder: str,
        ttl: float,
        advance: Advance = ignore_progress,
        *,
        extra: Sequence[Blank] = (),
    ) -> StagedImage:
        """Stage an image.

        Space for all missing items is reserved before the first byte is written. Of two simultaneous stagings of the same
        content one fetches and the other waits.

        Args:
            manifest: of the image, verified against its ID by the caller.
            holder: the holder of the leases, such as `machine:<uuid>`.
            ttl: seconds that the leases last from the end of the staging; the holder renews them.
            advance: called with the number of settled bytes; :func:`total_size` in all.
            extra: blanks beyond those of the image.

        Raises:
            StagerError: as its subclasses say. The leases that this call took are released then; received bytes are kept
                for the next attempt as long as there is space.
        """
        wanted = required_items(manifest, extra)
        counts = _Counts(manifest.title, advance)
        acquired = self.cache.acquire(wanted, holder, ttl)
        fresh = acquired.fresh
        try:
            for round_ in range(ROUNDS):
                with self._prepared(wanted, acquired.missing, manifest.vo) as piece_maps:
                    if round_ == 0:
                        for item in acquired.present:
                            counts.add(item.size, from_cache=self.cache.entry(item).data_bytes)
                    else:
                        counts.advance = ignore_progress
                    self._fetch_items(acquired.missing, piece_maps, counts)
                    again = self.cache.acquire(wanted, holder, ttl)
                if not again.missing:
                    break
                acquired = again
            held = {item: StagedItem(self.cache.path(item), ItemState.VERIFIED) for item in wanted}
        except BaseException:
            self.cache.release(holder, fresh)
            raise
        received = counts.from_peers + counts.from_origin
        return StagedImage(
            held, counts.from_cache, received, counts.resumed, counts.made, counts.copied, counts.from_peers
        )

    def pin(self, manifest: Manifest, advance: Advance = ignore_progress) -> StagedImage:
        """Stage an image and keep it until :meth:`unpin`; errors as :meth:`stage`."""
        return self.stage(manifest, PIN + manifest.image_id, FOREVER, advance)

    def unpin(self, image_id: str) -> int:
        """Release a pinned image; returns how many items were held, 0 if it was not pinned."""
        return self.cache.release(PIN + image_id)

    def restage(self, address: Address) -> None:
        """Fetch one damaged content again; existing leases apply to it. Errors as :meth:`stage`."""
        counts = _Counts("", ignore_progress)
        piece_map = load_piece_map(self._source, address)
        with self.cache.reserve({address: allocation_size(piece_map)}):
            self._fetch_item(address, piece_map, counts)

    @contextmanager
    def _prepared(
        self, wanted: tuple[CacheItem, ...], missing: tuple[CacheItem, ...], vo: str
    ) -> Iterator[Mapping[CacheItem, PieceMap]]:
        """Reserve space for the missing items, and protect the others from eviction, while the block runs."""
        piece_maps: dict[CacheItem, PieceMap] = {}
        sizes = dict.fromkeys(wanted, 0)
        contents = [item for item in missing if isinstance(item, Address)]
        if contents:
            with ThreadPoolExecutor(self._limits.connections, thread_name_prefix="piece_maps") as pool:
                piece_maps.update(zip(contents, pool.map(partial(load_piece_map, self._source), contents), strict=True))
        for item in missing:
            sizes[item] = allocation_size(piece_maps[item]) if isinstance(item, Address) else reserved_size(item)
        with self.cache.reserve(sizes, vo):
            yield piece_maps

    def _fetch_items(
        self, items: Sequence[CacheItem], piece_maps: Mapping[CacheItem, PieceMap], counts: "_Counts"
    ) -> None:
        """Fetch small contents together, since they take round trips and fsyncs, not bytes; then the others one by one."""
        small = [item for item in items if isinstance(item, Address) and item.size <= SMALL]
        if len(small) > 1:
            with ThreadPoolExecutor(self._limits.connections, thread_name_prefix="small") as pool:
                for _ in pool.map(lambda item: self._fetch_item(item, piece_maps.get(item), counts), small):
                    pass
        for item in items:
            if len(small) <= 1 or item not in small:
                self._fetch_item(item, piece_maps.get(item), counts)

    def _fetch_item(self, item: CacheItem, piece_map: PieceMap | None, counts: "_Counts") -> None:
        with self.cache.fill(item) as incoming:
            if incoming is None:  # another staging committed it while this one waited
                counts.add(item.size, from_cache=self.cache.entry(item).data_bytes)
            elif isinstance(item, Blank):
                self._make(item, incoming)
                counts.add(item.size, made=1)
            else:
                with self.transfers.begin(item, counts.image) as transfer:
                    fetch = ContentFetch(
                        self.cache, self._source, self._limits, self.sharing, transfer, lambda count: counts.add(count)
                    )
                    try:
                        fetch.run(piece_map or PieceMap.of(item), incoming)
                    finally:
                        counts.add_transfer(transfer)

    def _make(self, blank: Blank, incoming: PartialFile) -> None:
        incoming.empty()
        try:
            make_blank(blank, incoming.path)
            self.cache.commit(incoming, blank)
        except BaseException:
            incoming.empty()  # a partial filesystem cannot be resumed
            raise


class _Counts:
    """The counts of a staging, and its progress; used from several threads."""

    def __init__(self, image: str, advance: Advance) -> None:
        self.image, self.advance = image, advance
        self.from_cache = self.from_peers = self.from_origin = self.resumed = self.copied = self.made = 0
        self._lock = threading.Lock()

    def add(self, settled: int, *, from_cache: int = 0, made: int = 0) -> None:
        with self._lock:
            self.from_cache += from_cache
            self.made += made
            self.advance(settled)

    def add_transfer(self, transfer: TransferInProgress) -> None:
        traffic = transfer.traffic
        with self._lock:
            self.from_peers += traffic.from_peers
            self.from_origin += traffic.from_origin
            self.resumed += transfer.resumed
            self.copied += transfer.copied
