"""Staging: everything that an image consists of, verified, on this node, leased to whoever asked."""

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
"""Bytes of a content up to which several are brought at once."""

ROUNDS = 3
"""How often what vanished while the rest was staged (its file removed by hand) is staged again."""


class ItemState(StrEnum):
    """How far a thing is. Another state will be "arriving": a live file whose reads wait for their blocks."""

    VERIFIED = "verified"


@dataclass(frozen=True, slots=True)
class StagedItem:
    """One thing of a staged image: where it is and how far."""

    path: Path
    state: ItemState


@dataclass(frozen=True)
class StagedImage:
    """A staged image.

    Attributes:
        held: path and state of everything that it consists of.
        from_cache: bytes of data (zeros do not count) that were here already.
        from_network: bytes that came from peers and the source, those of failed attempts included.
        resumed: bytes that an interrupted staging had left.
        made: blanks that were made now.
        copied: bytes copied from other contents in the cache.
        from_peers: of `from_network`, what came from other nodes.
    """

    held: Mapping[CacheItem, StagedItem]
    from_cache: int
    from_network: int
    resumed: int
    made: int
    copied: int = 0
    from_peers: int = 0

    def path(self, address: Address) -> Path:
        """The absolute path of content; NotCached if the image has no such content."""
        return self._held(address).path

    def blank(self, blank: Blank) -> Path:
        """The absolute path of a blank; machines put overlays on it, none writes to it."""
        return self._held(blank).path

    def _held(self, thing: CacheItem) -> StagedItem:
        if thing not in self.held:
            raise NotCached(f"{thing} is no part of the image that was staged")
        return self.held[thing]


def required_items(manifest: Manifest, extra: Sequence[Blank] = ()) -> tuple[CacheItem, ...]:
    """Everything that an image consists of, each once: contents in the manifest's order, then blanks, then extra ones."""
    blanks = dict.fromkeys([*(part.blank for part in manifest.partitions() if part.blank is not None), *extra])
    return (*manifest.contents(), *blanks)


def total_size(manifest: Manifest, extra: Sequence[Blank] = ()) -> int:
    """Bytes that staging an image advances by in all: the sizes of its contents and blanks, zeros included."""
    return sum(thing.size for thing in required_items(manifest, extra))


class Stager:
    """Stages images from a source into a cache. One for all threads of a node."""

    def __init__(
        self, cache: Cache, source: ContentSource, pace: FetchLimits | None = None, sharing: CacheSharing | None = None
    ) -> None:
        self.cache, self.arrivals = cache, TransferRegistry(time.monotonic)
        self._source, self._pace, self.sharing = source, pace or FetchLimits(), sharing

    def stage(
        self,
        manifest: Manifest,
        holder: str,
        ttl: float,
        advance: Advance = ignore_progress,
        *,
        extra: Sequence[Blank] = (),
    ) -> StagedImage:
        """Have an image on this node.

        Room for all that is missing is reserved before the first byte is written. Of two stagings of the same content
        at the same time one fetches and the other waits.

        Args:
            manifest: of the image, verified against its ID by the caller.
            holder: who leases it, such as `machine:<uuid>`.
            ttl: seconds that the leases last from the end of the staging; the holder renews them.
            advance: called with bytes settled; :func:`total` of them in all.
            extra: blanks beyond those of the image.

        Raises:
            StagerError: as its subclasses say. The leases that this call took are given back then; what has come is
                kept for the next attempt as long as there is room.
        """
        wanted = required_items(manifest, extra)
        counts = _Counts(manifest.title, advance)
        acquired = self.cache.acquire(wanted, holder, ttl)
        fresh = acquired.fresh
        try:
            for round_ in range(ROUNDS):
                with self._prepared(wanted, acquired.missing, manifest.vo) as guides:
                    if round_ == 0:
                        for thing in acquired.present:
                            counts.add(thing.size, from_cache=self.cache.entry(thing).data_bytes)
                    else:
                        counts.advance = ignore_progress
                    self._bring_all(acquired.missing, guides, counts)
                    again = self.cache.acquire(wanted, holder, ttl)
                if not again.missing:
                    break
                acquired = again
            held = {thing: StagedItem(self.cache.path(thing), ItemState.VERIFIED) for thing in wanted}
        except BaseException:
            self.cache.release(holder, fresh)
            raise
        return StagedImage(
            held,
            counts.from_cache,
            counts.from_peers + counts.from_origin,
            counts.resumed,
            counts.made,
            counts.copied,
            counts.from_peers,
        )

    def pin(self, manifest: Manifest, advance: Advance = ignore_progress) -> StagedImage:
        """Have an image here and keep it until :meth:`unpin`; errors as :meth:`stage`."""
        return self.stage(manifest, PIN + manifest.image_id, FOREVER, advance)

    def unpin(self, image_id: str) -> int:
        """Let go of an image; returns how many things were held, 0 when it was not pinned."""
        return self.cache.release(PIN + image_id)

    def restage(self, address: Address) -> None:
        """Bring one content again that was found wrong; whoever leases it has it then. Errors as :meth:`stage`."""
        counts = _Counts("", ignore_progress)
        guide = load_piece_map(self._source, address)
        with self.cache.reserve({address: allocation_size(guide)}):
            self._bring(address, guide, counts)

    @contextmanager
    def _prepared(
        self, wanted: tuple[CacheItem, ...], missing: tuple[CacheItem, ...], vo: str
    ) -> Iterator[Mapping[CacheItem, PieceMap]]:
        """Room for all that is missing, and nothing evicted of what is not, while the block runs."""
        guides: dict[CacheItem, PieceMap] = {}
        wants = dict.fromkeys(wanted, 0)
        contents = [thing for thing in missing if isinstance(thing, Address)]
        if contents:
            with ThreadPoolExecutor(self._pace.connections, thread_name_prefix="guides") as pool:
                guides.update(zip(contents, pool.map(partial(load_piece_map, self._source), contents), strict=True))
        for thing in missing:
            if isinstance(thing, Address):
                wants[thing] = allocation_size(guides[thing])
            else:
                wants[thing] = reserved_size(thing)
        with self.cache.reserve(wants, vo):
            yield guides

    def _bring_all(self, things: Sequence[CacheItem], guides: Mapping[CacheItem, PieceMap], counts: "_Counts") -> None:
        """The small ones together, for they cost round trips and fsyncs, not bytes; then the others one by one."""
        small = [thing for thing in things if isinstance(thing, Address) and thing.size <= SMALL]
        if len(small) > 1:
            with ThreadPoolExecutor(self._pace.connections, thread_name_prefix="small") as pool:
                for _ in pool.map(lambda thing: self._bring(thing, guides.get(thing), counts), small):
                    pass
        for thing in things:
            if len(small) <= 1 or thing not in small:
                self._bring(thing, guides.get(thing), counts)

    def _bring(self, thing: CacheItem, guide: PieceMap | None, counts: "_Counts") -> None:
        with self.cache.fill(thing) as incoming:
            if incoming is None:  # another staging brought it while this one waited
                counts.add(thing.size, from_cache=self.cache.entry(thing).data_bytes)
            elif isinstance(thing, Blank):
                self._make(thing, incoming)
                counts.add(thing.size, made=1)
            else:
                with self.arrivals.begin(thing, counts.image) as arrival:
                    bringing = ContentFetch(
                        self.cache, self._source, self._pace, self.sharing, arrival, lambda count: counts.add(count)
                    )
                    try:
                        bringing.run(guide or PieceMap.of(thing), incoming)
                    finally:
                        counts.arrived(arrival)

    def _make(self, blank: Blank, incoming: PartialFile) -> None:
        incoming.empty()
        try:
            make_blank(blank, incoming.path)
            self.cache.commit(incoming, blank)
        except BaseException:
            incoming.empty()  # half a filesystem is no progress
            raise


class _Counts:
    """What comes of a staging, and its progress; from several threads."""

    def __init__(self, image: str, advance: Advance) -> None:
        self.image, self.advance = image, advance
        self.from_cache = self.from_peers = self.from_origin = self.resumed = self.copied = self.made = 0
        self._lock = threading.Lock()

    def add(self, settled: int, *, from_cache: int = 0, made: int = 0) -> None:
        with self._lock:
            self.from_cache += from_cache
            self.made += made
            self.advance(settled)

    def arrived(self, arrival: TransferInProgress) -> None:
        traffic = arrival.traffic
        with self._lock:
            self.from_peers += traffic.from_peers
            self.from_origin += traffic.from_origin
            self.resumed += arrival.resumed
            self.copied += arrival.copied
