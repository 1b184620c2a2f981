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
from catalog.image.manifest import Blank, Manifest
from signer.runtime.progress import Advance, nothing
from stager.cache.cache import Cache
from stager.cache.entries import FOREVER, PIN, Wanted
from stager.cache.partial_file import Incoming
from stager.content.blanks import make_blank, room
from stager.content.piece_map import Guide
from stager.content.transfer_stats import Arrival, Arrivals
from stager.content_fetch import Bringing, with_metadata
from stager.errors import NotCached
from stager.fetch.http import Pace
from stager.fetch.sources import Source, guide_for
from stager.swarm.sharing import Sharing

SMALL = 1 << 20
"""Bytes of a content up to which several are brought at once."""

ROUNDS = 3
"""How often what vanished while the rest was staged (its file removed by hand) is staged again."""


class State(StrEnum):
    """How far a thing is. Another state will be "arriving": a live file whose reads wait for their blocks."""

    VERIFIED = "verified"


@dataclass(frozen=True, slots=True)
class Held:
    """One thing of a staged image: where it is and how far."""

    path: Path
    state: State


@dataclass(frozen=True)
class Staged:
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

    held: Mapping[Wanted, Held]
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

    def _held(self, thing: Wanted) -> Held:
        if thing not in self.held:
            raise NotCached(f"{thing} is no part of the image that was staged")
        return self.held[thing]


def wanted_of(manifest: Manifest, extra: Sequence[Blank] = ()) -> tuple[Wanted, ...]:
    """Everything that an image consists of, each once: contents in the manifest's order, then blanks, then extra ones."""
    blanks = dict.fromkeys([*(part.blank for part in manifest.partitions() if part.blank is not None), *extra])
    return (*manifest.blobs(), *blanks)


def total(manifest: Manifest, extra: Sequence[Blank] = ()) -> int:
    """Bytes that staging an image advances by in all: the sizes of its contents and blanks, zeros included."""
    return sum(thing.size for thing in wanted_of(manifest, extra))


class Stager:
    """Stages images from a source into a cache. One for all threads of a node."""

    def __init__(self, cache: Cache, source: Source, pace: Pace | None = None, sharing: Sharing | None = None) -> None:
        self.cache, self.arrivals = cache, Arrivals(time.monotonic)
        self._source, self._pace, self.sharing = source, pace or Pace(), sharing

    def stage(
        self,
        manifest: Manifest,
        holder: str,
        ttl: float,
        advance: Advance = nothing,
        *,
        extra: Sequence[Blank] = (),
    ) -> Staged:
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
        wanted = wanted_of(manifest, extra)
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
                        counts.advance = nothing
                    self._bring_all(acquired.missing, guides, counts)
                    again = self.cache.acquire(wanted, holder, ttl)
                if not again.missing:
                    break
                acquired = again
            held = {thing: Held(self.cache.path(thing), State.VERIFIED) for thing in wanted}
        except BaseException:
            self.cache.release(holder, fresh)
            raise
        return Staged(
            held,
            counts.from_cache,
            counts.from_peers + counts.from_origin,
            counts.resumed,
            counts.made,
            counts.copied,
            counts.from_peers,
        )

    def pin(self, manifest: Manifest, advance: Advance = nothing) -> Staged:
        """Have an image here and keep it until :meth:`unpin`; errors as :meth:`stage`."""
        return self.stage(manifest, PIN + manifest.image_id, FOREVER, advance)

    def unpin(self, image_id: str) -> int:
        """Let go of an image; returns how many things were held, 0 when it was not pinned."""
        return self.cache.release(PIN + image_id)

    def restage(self, address: Address) -> None:
        """Bring one content again that was found wrong; whoever leases it has it then. Errors as :meth:`stage`."""
        counts = _Counts("", nothing)
        guide = guide_for(self._source, address)
        with self.cache.reserve({address: with_metadata(guide)}):
            self._bring(address, guide, counts)

    @contextmanager
    def _prepared(
        self, wanted: tuple[Wanted, ...], missing: tuple[Wanted, ...], vo: str
    ) -> Iterator[Mapping[Wanted, Guide]]:
        """Room for all that is missing, and nothing evicted of what is not, while the block runs."""
        guides: dict[Wanted, Guide] = {}
        wants = dict.fromkeys(wanted, 0)
        contents = [thing for thing in missing if isinstance(thing, Address)]
        if contents:
            with ThreadPoolExecutor(self._pace.connections, thread_name_prefix="guides") as pool:
                guides.update(zip(contents, pool.map(partial(guide_for, self._source), contents), strict=True))
        for thing in missing:
            if isinstance(thing, Address):
                wants[thing] = with_metadata(guides[thing])
            else:
                wants[thing] = room(thing)
        with self.cache.reserve(wants, vo):
            yield guides

    def _bring_all(self, things: Sequence[Wanted], guides: Mapping[Wanted, Guide], counts: "_Counts") -> None:
        """The small ones together, for they cost round trips and fsyncs, not bytes; then the others one by one."""
        small = [thing for thing in things if isinstance(thing, Address) and thing.size <= SMALL]
        if len(small) > 1:
            with ThreadPoolExecutor(self._pace.connections, thread_name_prefix="small") as pool:
                for _ in pool.map(lambda thing: self._bring(thing, guides.get(thing), counts), small):
                    pass
        for thing in things:
            if len(small) <= 1 or thing not in small:
                self._bring(thing, guides.get(thing), counts)

    def _bring(self, thing: Wanted, guide: Guide | None, counts: "_Counts") -> None:
        with self.cache.fill(thing) as incoming:
            if incoming is None:  # another staging brought it while this one waited
                counts.add(thing.size, from_cache=self.cache.entry(thing).data_bytes)
            elif isinstance(thing, Blank):
                self._make(thing, incoming)
                counts.add(thing.size, made=1)
            else:
                with self.arrivals.begin(thing, counts.image) as arrival:
                    bringing = Bringing(
                        self.cache, self._source, self._pace, self.sharing, arrival, lambda count: counts.add(count)
                    )
                    try:
                        bringing.run(guide or Guide.of(thing), incoming)
                    finally:
                        counts.arrived(arrival)

    def _make(self, blank: Blank, incoming: Incoming) -> None:
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

    def arrived(self, arrival: Arrival) -> None:
        traffic = arrival.traffic
        with self._lock:
            self.from_peers += traffic.from_peers
            self.from_origin += traffic.from_origin
            self.resumed += arrival.resumed
            self.copied += arrival.copied
