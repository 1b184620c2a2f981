"""Staging: everything that an image consists of, verified, on this node, leased to whoever asked."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from catalog.address import Address
from catalog.manifest import Blank, Manifest
from signer.progress import Advance, nothing
from stager.blanks import make_blank, room
from stager.cache import Cache
from stager.entries import Wanted
from stager.errors import ContentCorrupt, NotCached
from stager.fetching import Fetching, Pace
from stager.filling import Incoming
from stager.pieces import Guide
from stager.sources import Source, guide_for

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
        from_network: bytes that came from the source, those of failed attempts included.
        resumed: bytes that an interrupted staging had left.
        made: blanks that were made now.
    """

    held: Mapping[Wanted, Held]
    from_cache: int
    from_network: int
    resumed: int
    made: int

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


def wanted_of(manifest: Manifest) -> tuple[Wanted, ...]:
    """Everything that an image consists of, each once: contents in the manifest's order, then blanks."""
    blanks = dict.fromkeys(part.blank for part in manifest.partitions() if part.blank is not None)
    return (*manifest.blobs(), *blanks)


def total(manifest: Manifest) -> int:
    """Bytes that staging an image advances by in all: the sizes of its contents and blanks, zeros included."""
    return sum(thing.size for thing in wanted_of(manifest))


class Stager:
    """Stages images from a source into a cache. One for all threads of a node."""

    def __init__(self, cache: Cache, source: Source, pace: Pace | None = None) -> None:
        self.cache = cache
        self._source, self._pace = source, pace or Pace()

    def stage(self, manifest: Manifest, holder: str, ttl: float, advance: Advance = nothing) -> Staged:
        """Have an image on this node.

        Room for all that is missing is reserved before the first byte is written. Of two stagings of the same content
        at the same time one fetches and the other waits.

        Args:
            manifest: of the image, verified against its ID by the caller.
            holder: who leases it, such as `machine:<uuid>`.
            ttl: seconds that the leases last from the end of the staging; the holder renews them.
            advance: called with bytes settled; :func:`total` of them in all.

        Raises:
            StagerError: as its subclasses say. The leases that this call took are given back then; what has come is
                kept for the next attempt as long as there is room.
        """
        wanted = wanted_of(manifest)
        counts = _Counts()
        acquired = self.cache.acquire(wanted, holder, ttl)
        fresh = acquired.fresh
        try:
            for round_ in range(ROUNDS):
                with self._prepared(wanted, acquired.missing) as guides:
                    for thing in acquired.present:
                        if round_ == 0:
                            counts.from_cache += self.cache.entry(thing).data_bytes
                            advance(thing.size)
                    for thing in acquired.missing:
                        self._bring(thing, guides.get(thing), counts, advance if round_ == 0 else nothing)
                    again = self.cache.acquire(wanted, holder, ttl)
                if not again.missing:
                    break
                acquired = again
            held = {thing: Held(self.cache.path(thing), State.VERIFIED) for thing in wanted}
        except BaseException:
            self.cache.release(holder, fresh)
            raise
        return Staged(held, counts.from_cache, counts.from_network, counts.resumed, counts.made)

    @contextmanager
    def _prepared(self, wanted: tuple[Wanted, ...], missing: tuple[Wanted, ...]) -> Iterator[Mapping[Wanted, Guide]]:
        """Room for all that is missing, and nothing evicted of what is not, while the block runs."""
        guides: dict[Wanted, Guide] = {}
        wants = dict.fromkeys(wanted, 0)
        for thing in missing:
            if isinstance(thing, Address):
                guides[thing] = guide_for(self._source, thing)
                wants[thing] = with_metadata(guides[thing])
            else:
                wants[thing] = room(thing)
        with self.cache.reserve(wants):
            yield guides

    def _bring(self, thing: Wanted, guide: Guide | None, counts: "_Counts", advance: Advance) -> None:
        with self.cache.fill(thing) as incoming:
            if incoming is None:  # another staging brought it while this one waited
                counts.from_cache += self.cache.entry(thing).data_bytes
                advance(thing.size)
            elif isinstance(thing, Blank):
                self._make(thing, incoming)
                counts.made += 1
                advance(thing.size)
            else:
                self._fetch(thing, guide or Guide.of(thing), incoming, counts, advance)

    def _fetch(self, address: Address, guide: Guide, incoming: Incoming, counts: "_Counts", advance: Advance) -> None:
        """Fetch and commit. When the whole is wrong although the source seemed to deliver, once more from nothing, and
        without the map: without a piece layer only this tells that a map left data out."""
        if guide.layer is None:
            incoming.empty()  # nothing can prove what an earlier attempt left
        self._run(address, guide, incoming, counts, advance)
        try:
            self.cache.commit(incoming, address, guide)
        except ContentCorrupt:
            plain = guide.without_map()
            self.cache.grow(address, max(0, with_metadata(plain) - with_metadata(guide)))
            self._run(address, plain, incoming, counts, nothing)
            self.cache.commit(incoming, address, plain)

    def _make(self, blank: Blank, incoming: Incoming) -> None:
        incoming.empty()
        try:
            make_blank(blank, incoming.path)
            self.cache.commit(incoming, blank)
        except BaseException:
            incoming.empty()  # half a filesystem is no progress
            raise

    def _run(self, address: Address, guide: Guide, incoming: Incoming, counts: "_Counts", advance: Advance) -> None:
        fetching = Fetching(
            self._source,
            guide,
            incoming,
            pace=self._pace,
            grow=lambda extra: self.cache.grow(address, extra),
            advance=advance,
        )
        try:
            fetching.run()
        finally:
            counts.from_network += fetching.fetched.received
            counts.resumed += fetching.fetched.resumed


@dataclass
class _Counts:
    from_cache: int = 0
    from_network: int = 0
    resumed: int = 0
    made: int = 0


def with_metadata(guide: Guide) -> int:
    """Bytes to reserve for content: its data in whole blocks, and what filesystems keep to say where the data is.

    ext4 keeps 340 extents in a block of 4 KiB, XFS 250, and neither breaks data of one write into more.
    """
    blocks = sum(-(-length // 4096) * 4096 for _, length in guide.data_extents)
    return blocks + (64 << 10) + len(guide.data_extents) // 100 * 4096
