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
from datetime import datetime
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Self

from catalog.client.client import CatalogClient
from catalog.client.failover import FailoverClient
from catalog.client.seen_names import SeenNames
from catalog.errors import (
    CatalogError,
    ContentMismatch,
    Equivocation,
    Malformed,
    Misused,
    NotFound,
    Unavailable,
    Unpinned,
    Unverified,
)
from catalog.image.address import Address
from catalog.image.manifest import MAX_MANIFEST, Manifest
from catalog.image.reference import Reference
from catalog.schema.images import MAX_RESPONSE, EndorsementList, ImageEntry
from catalog.tuf.client import CurrentTargets, TufClient, server_url
from catalog.tuf.metadata import ROOT, SignedMetadata
from catalog.tuf.staleness import Freshness, assess_freshness
from catalog.tuf.targets import (
    REVOCATIONS,
    ClusterBinding,
    NameBinding,
    RevocationPages,
    cluster_endorsements_path,
    cluster_name_path,
    cluster_path,
    endorsements_path,
    manifest_path,
    name_path,
    revocation_page,
)
from catalog.web.connection import BaseTransport
from signer.documents import parse, parse_canonical
from signer.errors import DocumentError
from signer.runtime import files

REUSE = 2.0
"""Seconds for which one refresh serves what belongs together: the manifest, endorsements and revocations of one order."""

NAMES = "names"

log = logging.getLogger("partita.freshness")


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
        alarm: Callable[[str], None] = lambda _said: None,
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
            alarm: told when a name and version stands for two images, before Equivocation is raised.
        """
        self._root, self._now, self._clock, self._transport = root, now, clock, transport
        self._sources = FailoverClient(urls, clock, transport, credential)
        self._directory = directory / "trusted"
        self._reader: TufClient | None = None
        self._names = SeenNames(directory / NAMES)
        self._alarm = alarm
        self._lock = threading.RLock()
        self._current: tuple[float, str, CurrentTargets] | None = None
        self.url = self._sources.first.url
        self._shown = {server_url(self.url): credential}

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
        self._sources.close()

    def pause(self, seconds: float) -> None:
        """Wait before asking again."""
        self._sources.first.pause(seconds)

    def resolve(self, reference: Reference) -> str:
        """The image ID that a reference stands for now. An image ID stands for itself."""
        if reference.image_id is not None:
            return reference.image_id
        data = self._find(name_path(reference.vo, reference.name, reference.version), fresh=True)
        binding = parse_canonical(NameBinding, data, f"meaning of {reference}")
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
        return list(islice(self._sources.first.images(), most))

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

    def refresh(self) -> None:
        """Bring what is trusted up to date."""
        with self._lock:
            self._refreshed(fresh=True)

    def content_range(self, address: Address, start: int, end: int) -> Iterator[bytes]:
        """As CatalogClient's; where a source stops, the next goes on."""
        return self._sources.content_range(address, start, end)

    def content_ranges(self, address: Address, ranges: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        """As CatalogClient's; where a source stops, the next goes on."""
        return self._sources.content_ranges(address, ranges)

    def freshness(self) -> Freshness:
        """How fresh what is known is, without asking anybody."""
        try:
            known = self._pinned().trusted().expires
        except Unpinned as exc:
            return Freshness(pinned=False, problem=str(exc))
        return assess_freshness(known, self._now())

    def data_map(self, address: Address) -> bytes:
        """As CatalogClient's, from whichever source answers."""
        return self._sources.any(lambda client: client.data_map(address))

    def layer(self, address: Address) -> bytes:
        """As CatalogClient's, from whichever source answers."""
        return self._sources.any(lambda client: client.layer(address))

    def hints(self, address: Address) -> bytes:
        """As CatalogClient's, from whichever source answers."""
        return self._sources.any(lambda client: client.hints(address))

    def _saw(self, title: str, image_id: str) -> None:
        try:
            self._names.saw(title, image_id)
        except Equivocation as exc:
            log.error("%s", exc)  # noqa: TRY400 - the sentence says it all
            self._alarm(str(exc))
            raise

    def _statements(self, path: str, *, fresh: bool = False) -> list[tuple[bytes, bytes]]:
        try:
            found = parse(EndorsementList, self._find(path, fresh=fresh), path, limit=MAX_RESPONSE)
        except DocumentError as exc:
            raise Unverified(f"{self.url}: what is listed as {path} cannot be read: {exc}") from exc
        return [one.pair() for one in found.items]

    def _find(self, path: str, *, fresh: bool = False) -> bytes:
        """A target by what is current; by what another source calls current if the first lists it not or cannot send it."""
        with self._lock:
            tried: list[str] = []
            problem: CatalogError | None = None
            current: CurrentTargets | None
            url, current = self._refreshed(fresh=fresh)
            while current is not None:
                try:
                    return current.find(path)
                except (NotFound, Unavailable, Unverified) as exc:
                    problem = exc if problem is None or isinstance(problem, NotFound) else problem
                tried.append(url)
                url, current = self._another(tried)
            raise problem or Unavailable(f"{self.url}: {path} cannot be had")

    def _refreshed(self, *, fresh: bool) -> tuple[str, CurrentTargets]:
        self._pinned()
        if self._current is not None and not fresh and self._clock() - self._current[0] < REUSE:
            return self._current[1], self._current[2]
        self._current = None
        problem: CatalogError | None = None
        for client in self._sources.order():
            try:
                return client.url, self._ask(client)
            except CatalogError as exc:
                problem = self._sources.note(client, exc, problem)
        raise problem or Unavailable("no catalog is configured")

    def _pinned(self) -> TufClient:
        if self._reader is None:
            root = self._root()
            if root is None:
                raise Unpinned(_UNPINNED)
            self._reader = TufClient(self._directory, root, self._now, transport=self._transport, shown=self._shown)
        return self._reader

    def _another(self, tried: Sequence[str]) -> tuple[str, CurrentTargets | None]:
        for client in self._sources.order():
            if client.url not in tried:
                try:
                    return client.url, self._ask(client)
                except CatalogError as exc:
                    self._sources.note(client, exc, None)
        return "", None

    def _ask(self, client: CatalogClient) -> CurrentTargets:
        current = self._pinned().refresh(f"{client.url}/tuf/metadata/", f"{client.url}/tuf/targets/")
        self._sources.answered(client)
        self._current = self._clock(), client.url, current
        return current


def pin_root(file: Path, root: bytes) -> str:
    """Keep a root to believe a catalog by; returns its SHA-256, for people to compare. Malformed if it is none."""
    if SignedMetadata.of(root).role != ROOT:
        raise Malformed("this is signed metadata, but no root; take the catalog's root.json")
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    files.write(file, root)
    return hashlib.sha256(root).hexdigest()


_UNPINNED = (
    "no root of the catalog's freshness metadata is pinned here, so nothing is believed to be current; get root.json from "
    "the catalog's operator by a way that you trust, and run `partita node trust-root FILE`"
)
