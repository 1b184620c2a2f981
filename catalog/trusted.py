"""A catalog as a node believes it: names, manifests, endorsements and revocations only as fresh signed metadata lists them.

Contents are proved by their addresses, so any mirror may serve them; mirrors are asked first. What is current is asked of
the catalog first, and of mirrors when it cannot answer: a mirror may be behind, and cannot forge.

DIR/trusted          metadata that was verified (`tuf_reading`); what it has seen never goes backwards
DIR/names            which image each name and version was seen to stand for: two images under one is an alarm
"""

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from catalog.address import Address
from catalog.bundle import Bundle
from catalog.client import CatalogClient
from catalog.connection import BaseTransport
from catalog.errors import (
    CatalogError,
    ContentMismatch,
    Equivocation,
    Malformed,
    Misused,
    NotFound,
    Stale,
    Unavailable,
    Unpinned,
    Unverified,
)
from catalog.manifest import MAX_MANIFEST, Manifest
from catalog.reference import Reference
from catalog.seen_names import SeenNames
from catalog.sending import fetch
from catalog.tuf_metadata import LIFETIMES, ROOT, Described
from catalog.tuf_reading import Current, Reader, server_of
from catalog.tuf_targets import (
    REVOCATIONS,
    Binding,
    ClusterBinding,
    RevocationPages,
    cluster_endorsements_path,
    cluster_name_path,
    cluster_path,
    endorsements_path,
    manifest_path,
    name_path,
    revocation_page,
)
from catalog.wire import MAX_ANSWER, EndorsementList, ImageEntry
from signer.documents import parse, parse_canonical
from signer.errors import DocumentError
from signer.progress import Advance, nothing

REST = 30.0
"""Seconds for which a source that gave no answer is asked last."""

REUSE = 2.0
"""Seconds for which one refresh serves what belongs together: the manifest, endorsements and revocations of one order."""

WARN = 0.45
"""Of a lifetime: metadata that holds for less than that is overdue. It is signed afresh at half of its lifetime."""

NAMES = "names"

log = logging.getLogger("partita.freshness")

A = TypeVar("A")


@dataclass(frozen=True)
class Freshness:
    """How fresh what a node knows of its catalog is.

    Attributes:
        pinned: whether there is a root to believe by.
        expires: when the first of the trusted metadata expires; from then on nothing new starts. None if there is none.
        problem: what is wrong or will soon be, in a sentence.
    """

    pinned: bool
    expires: datetime | None = None
    problem: str | None = None


class TrustedCatalog:
    """A catalog and its mirrors. Safe to use from several threads; errors are as CatalogClient's, and:

    Unpinned: no root is pinned. Stale, Unverified: what is said to be current is not, or does not verify. Equivocation: a
    name and version stands for another image than it did.
    """

    def __init__(
        self,
        directory: Path,
        root: Callable[[], bytes | None],
        urls: Sequence[str],
        now: Callable[[], datetime],
        *,
        transport: BaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
        credential: str = "",
    ) -> None:
        """Nothing is asked yet.

        Args:
            directory: where what was verified is kept.
            root: gives the pinned root; None refuses everything but contents. Asked until it has given one.
            urls: of the catalog, then of mirrors of it, in the order of preference.
            now: the time, UTC.
            transport: what carries requests instead of the network.
            clock: seconds, for waiting.
            credential: of this node's site, shown to the catalog (the first URL) alone.
        """
        self._root, self._now, self._clock, self._transport = root, now, clock, transport
        self._clients = [
            CatalogClient(url, transport, credential=credential if number == 0 else "")
            for number, url in enumerate(urls)
        ]
        self._directory = directory / "trusted"
        self._reader: Reader | None = None
        self._names = SeenNames(directory / NAMES)
        self.alarm: Callable[[str], None] = lambda _said: None
        """Told when a name and version stands for two images, before Equivocation is raised."""
        self._failed: dict[str, float] = {}
        self._lock = threading.RLock()
        self._current: tuple[float, str, Current] | None = None
        self.url = self._clients[0].url
        self._shown = {server_of(self.url): credential}

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """Give the connections back."""
        if self._reader is not None:
            self._reader.close()
        for client in self._clients:
            client.close()

    def pause(self, seconds: float) -> None:
        """Wait before asking again."""
        self._clients[0].pause(seconds)

    def resolve(self, reference: Reference) -> str:
        """The image ID that a reference stands for now. An image ID stands for itself."""
        if reference.image_id is not None:
            return reference.image_id
        data = self._find(name_path(reference.vo, reference.name, reference.version), fresh=True)
        binding = parse_canonical(Binding, data, f"meaning of {reference}")
        if (binding.vo, binding.name) != (reference.vo, reference.name) or (
            reference.version is not None and binding.version != reference.version
        ):
            raise Unverified(
                f"{self.url}: what is listed for {reference} is about another name; do not use this catalog"
            )
        self._saw(f"{binding.vo}/{binding.name}@{binding.version}", binding.image_id)
        return binding.image_id

    def listed(self, most: int) -> list[ImageEntry]:
        """Up to so many images that the catalog shows, last published first. It proves nothing: `resolve` what is to be believed."""
        return list(islice(self._clients[0].images(), most))

    def manifest_bytes(self, image_id: str) -> bytes:
        """A manifest's canonical bytes: listed now, and of this image ID."""
        data = self._find(manifest_path(image_id))
        if len(data) > MAX_MANIFEST:
            raise Unverified(f"{image_id}: its manifest has {len(data)} bytes; at most {MAX_MANIFEST} are read")
        return data

    def manifest(self, image_id: str) -> Manifest:
        """A manifest; what it calls itself must be what that name and version always stood for."""
        manifest = Manifest.parse(self.manifest_bytes(image_id))
        if manifest.image_id != image_id:
            raise ContentMismatch(
                f"{self.url}: what is listed as {image_id} is something else; do not use this catalog"
            )
        self._saw(manifest.title, image_id)
        return manifest

    def endorsements(self, image_id: str) -> list[tuple[bytes, bytes]]:
        """(statement, signature) of every endorsement that is listed now; nothing about them is checked here."""
        return self._statements(endorsements_path(image_id))

    def cluster(self, reference: Reference) -> tuple[str, bytes]:
        """The cluster document that VO/NAME@VERSION or VO/NAME stands for now: VO/NAME@VERSION and the canonical bytes.

        Raises:
            Misused: the reference is no name. Otherwise as for images.
        """
        if reference.image_id is not None:
            raise Misused("a published cluster is named as VO/NAME@VERSION or VO/NAME")
        data = self._find(cluster_name_path(reference.vo, reference.name, reference.version), fresh=True)
        binding = parse_canonical(ClusterBinding, data, f"meaning of {reference}")
        if (binding.vo, binding.name) != (reference.vo, reference.name) or (
            reference.version is not None and binding.version != reference.version
        ):
            raise Unverified(
                f"{self.url}: what is listed for {reference} is about another name; do not use this catalog"
            )
        title = f"{binding.vo}/{binding.name}@{binding.version}"
        self._saw(f"cluster:{title}", binding.digest)
        found = self._find(cluster_path(binding.digest))
        if "sha256:" + hashlib.sha256(found).hexdigest() != binding.digest:
            raise ContentMismatch(
                f"{self.url}: what is listed as cluster {binding.digest} is something else; do not use this catalog"
            )
        return title, found

    def cluster_endorsements(self, digest: str) -> list[tuple[bytes, bytes]]:
        """(statement, signature) of every endorsement of a cluster document that is listed now, none checked here."""
        return self._statements(cluster_endorsements_path(digest))

    def revocations(self) -> list[tuple[bytes, bytes]]:
        """(statement, signature) of every revocation that is listed now; nothing about them is checked here."""
        index = parse_canonical(RevocationPages, self._find(REVOCATIONS, fresh=True), REVOCATIONS)
        return [pair for number in range(index.pages) for pair in self._statements(revocation_page(number))]

    def fetch(self, reference: Reference, target: Path, advance: Advance = nothing) -> Bundle:
        """Fetch an image into a directory; as :func:`catalog.sending.fetch`."""
        return fetch(self, reference, target, advance)

    def refresh(self) -> None:
        """Bring what is trusted up to date."""
        with self._lock:
            self._refreshed(fresh=True)

    def freshness(self) -> Freshness:
        """How fresh what is known is, without asking anybody."""
        try:
            known = self._pinned().trusted().expires
        except Unpinned as exc:
            return Freshness(pinned=False, problem=str(exc))
        if not known:
            return Freshness(pinned=True)
        now = self._now()
        role, expires = min(known.items(), key=lambda item: item[1])
        problem = None
        if expires <= now:
            problem = (
                f"{role} metadata expired on {expires:%Y-%m-%d %H:%M}: nothing new starts until the catalog answers"
            )
        else:
            for role, when in known.items():
                if when - now < LIFETIMES[role] * WARN:
                    problem = (
                        f"{role} metadata expires on {when:%Y-%m-%d %H:%M}: see that the catalog answers and signs"
                    )
        return Freshness(pinned=True, expires=expires, problem=problem)

    def data_map(self, address: Address) -> bytes:
        """As CatalogClient's, from whichever source answers."""
        return self._any(lambda client: client.data_map(address))

    def layer(self, address: Address) -> bytes:
        """As CatalogClient's, from whichever source answers."""
        return self._any(lambda client: client.layer(address))

    def hints(self, address: Address) -> bytes:
        """As CatalogClient's, from whichever source answers."""
        return self._any(lambda client: client.hints(address))

    def blob_range(self, address: Address, start: int, end: int) -> Iterator[bytes]:
        """As CatalogClient's; where a source stops, the next goes on."""
        position = start
        problem: CatalogError | None = None
        for client in self._order(contents=True):
            try:
                for piece in client.blob_range(address, position, end):
                    position += len(piece)
                    yield piece
            except CatalogError as exc:
                problem = self._note(client, exc, problem)
            if position == end:
                return
        raise problem or Unavailable(f"the range {start}-{end} of {address} was cut at byte {position}")

    def blob_ranges(self, address: Address, ranges: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        """As CatalogClient's; where a source stops, the next goes on."""
        came = 0
        problem: CatalogError | None = None
        for client in self._order(contents=True):
            left = _beyond(ranges, came)
            try:
                for piece in client.blob_ranges(address, left):
                    came += len(piece)
                    yield piece
            except CatalogError as exc:
                problem = self._note(client, exc, problem)
            if not _beyond(ranges, came):
                return
        raise problem or Unavailable(f"{len(ranges)} ranges of {address} were cut after {came} bytes")

    def _saw(self, title: str, image_id: str) -> None:
        try:
            self._names.saw(title, image_id)
        except Equivocation as exc:
            log.error("%s", exc)  # noqa: TRY400 - the sentence says it all
            self.alarm(str(exc))
            raise

    def _statements(self, path: str, *, fresh: bool = False) -> list[tuple[bytes, bytes]]:
        try:
            found = parse(EndorsementList, self._find(path, fresh=fresh), path, limit=MAX_ANSWER)
        except DocumentError as exc:
            raise Unverified(f"{self.url}: what is listed as {path} cannot be read: {exc}") from exc
        return [one.pair() for one in found.items]

    def _find(self, path: str, *, fresh: bool = False) -> bytes:
        """A target by what is current; by what another source calls current if the first lists it not or cannot send it."""
        with self._lock:
            tried: list[str] = []
            problem: CatalogError | None = None
            current: Current | None
            url, current = self._refreshed(fresh=fresh)
            while current is not None:
                try:
                    return current.find(path)
                except (NotFound, Unavailable, Unverified) as exc:
                    problem = exc if problem is None or isinstance(problem, NotFound) else problem
                tried.append(url)
                url, current = self._another(tried)
            raise problem or Unavailable(f"{self.url}: {path} cannot be had")

    def _refreshed(self, *, fresh: bool) -> tuple[str, Current]:
        self._pinned()
        if self._current is not None and not fresh and self._clock() - self._current[0] < REUSE:
            return self._current[1], self._current[2]
        self._current = None
        problem: CatalogError | None = None
        for client in self._order():
            try:
                return client.url, self._ask(client)
            except CatalogError as exc:
                problem = self._note(client, exc, problem)
        raise problem or Unavailable("no catalog is configured")

    def _pinned(self) -> Reader:
        if self._reader is None:
            root = self._root()
            if root is None:
                raise Unpinned(_UNPINNED)
            self._reader = Reader(self._directory, root, self._now, transport=self._transport, shown=self._shown)
        return self._reader

    def _another(self, tried: Sequence[str]) -> tuple[str, Current | None]:
        for client in self._order():
            if client.url not in tried:
                try:
                    return client.url, self._ask(client)
                except CatalogError as exc:
                    self._note(client, exc, None)
        return "", None

    def _ask(self, client: CatalogClient) -> Current:
        current = self._pinned().refresh(f"{client.url}/tuf/metadata/", f"{client.url}/tuf/targets/")
        self._failed.pop(client.url, None)
        self._current = self._clock(), client.url, current
        return current

    def _any(self, ask: Callable[[CatalogClient], A]) -> A:
        problem: CatalogError | None = None
        for client in self._order(contents=True):
            try:
                return ask(client)
            except CatalogError as exc:
                problem = self._note(client, exc, problem)
        raise problem or Unavailable("no catalog is configured")

    def _order(self, *, contents: bool = False) -> list[CatalogClient]:
        """Who is asked first: for contents the mirrors, else the catalog; who lately gave no answer, last."""
        clients = self._clients[1:] + self._clients[:1] if contents else list(self._clients)
        now = self._clock()
        return sorted(clients, key=lambda client: now - self._failed.get(client.url, -REST * 2) < REST)

    def _note(self, client: CatalogClient, found: CatalogError, worst: CatalogError | None) -> CatalogError:
        """Remember that a source failed; returns what to raise if all do: the gravest, and of equals the first."""
        if isinstance(found, Unavailable):
            self._failed[client.url] = self._clock()
        if len(self._clients) > 1:
            log.warning("%s", found)
        return found if worst is None or (_grave(found) > _grave(worst)) else worst


def pin(file: Path, root: bytes) -> str:
    """Keep a root to believe a catalog by; returns its SHA-256, for people to compare. Malformed if it is none."""
    if Described.of(root).role != ROOT:
        raise Malformed("this is signed metadata, but no root; take the catalog's root.json")
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = file.with_suffix(".new")
    fresh.write_bytes(root)
    fresh.replace(file)
    return hashlib.sha256(root).hexdigest()


def _beyond(ranges: Sequence[tuple[int, int]], count: int) -> list[tuple[int, int]]:
    """What is left of ranges (start, end) after their first `count` bytes."""
    left = []
    for start, end in ranges:
        skipped = min(count, end - start)
        count -= skipped
        if start + skipped < end:
            left.append((start + skipped, end))
    return left


_UNPINNED = (
    "no root of the catalog's freshness metadata is pinned here, so nothing is believed to be current; get root.json from "
    "the catalog's operator by a way that you trust, and run `partita node trust-root FILE`"
)


def _grave(error: CatalogError) -> int:
    """Which of several failures tells most: what did not verify, then what has expired, then what is not there."""
    if isinstance(error, Stale):
        return 2
    if isinstance(error, Unverified):
        return 3
    return 1 if isinstance(error, NotFound) else 0
