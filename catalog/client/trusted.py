"""A catalog as a node trusts it: names, manifests, endorsements and revocations only as current signed metadata lists them.

Contents are verified by their addresses, so that any mirror may serve them; mirrors are asked first. For what is current
the catalog is asked first, and mirrors when it does not answer: a mirror may be behind, but cannot forge.

DIR/trusted          verified metadata (`catalog.tuf.client`); versions never go backwards
DIR/names            which image each name and version was seen to stand for: a second image under one name is an alarm
"""

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import TypeVar

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
from catalog.image.manifest import MAX_MANIFEST, Manifest
from catalog.image.reference import Reference
from catalog.schema.images import MAX_RESPONSE, EndorsementList, ImageEntry
from catalog.tuf.client import CurrentTargets, Freshness, TufClient, server_url
from catalog.tuf.metadata import ROOT, SignedMetadata
from catalog.tuf.targets import (
    REVOCATIONS,
    ClusterBinding,
    NameBinding,
    RevocationPages,
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
"""Seconds for which one refresh is reused: the manifest, endorsements and revocations of one order belong together."""

FRESHNESS_SECONDS = 600.0
"""Seconds between two refreshes of the TUF metadata without orders: often compared to its lifetime of a day."""

NAMES = "names"

B = TypeVar("B", NameBinding, ClusterBinding)

log = logging.getLogger("partita.freshness")


class TrustedCatalog(FailoverClient):
    """A catalog and its mirrors. Safe to use from several threads; raises the errors of CatalogClient, and:

    Unpinned: no root is pinned. Stale, Unverified: the metadata has expired, or does not verify. Equivocation: a name and
    version stands for another image than before.
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
        alarm: Callable[[str], None] = lambda _message: None,
    ) -> None:
        """Make no request yet.

        Args:
            directory: of the verified metadata.
            root: gives the pinned root, or None, which refuses everything but contents. Called until it gives one.
            urls: of the catalog, then of its mirrors, in the order of preference.
            now: the time, UTC.
            transport: carries requests instead of the network.
            clock: a monotonic clock, in seconds.
            credential: of this node's site, sent to the catalog (the first URL) only.
            alarm: called when a name and version stands for two images, before Equivocation is raised.
        """
        super().__init__(urls, clock, transport, credential)
        self._root, self._now, self._transport = root, now, transport
        self._directory = directory / "trusted"
        self._tuf: TufClient | None = None
        self._names = SeenNames(directory / NAMES)
        self._alarm = alarm
        self._lock = threading.RLock()
        self._current: tuple[float, str, CurrentTargets] | None = None
        self._credentials = {server_url(self.url): credential}

    def close(self) -> None:
        """Close the connections."""
        if self._tuf is not None:
            self._tuf.close()
        super().close()

    def resolve(self, reference: Reference) -> str:
        """The image ID that a reference stands for now. An image ID stands for itself."""
        if reference.image_id is not None:
            return reference.image_id
        path = name_path(reference.vo, reference.name, reference.version)
        binding = self._binding(NameBinding, reference, path)
        self._record_name(binding.title, binding.image_id)
        return binding.image_id

    def _binding(self, kind: type[B], reference: Reference, path: str) -> B:
        """What a name stands for now; Unverified if the target is about another name."""
        binding = parse_canonical(kind, self._find(path, fresh=True), f"meaning of {reference}")
        if (binding.vo, binding.name) != (reference.vo, reference.name) or (
            reference.version is not None and binding.version != reference.version
        ):
            raise Unverified(f"{self.url}: the target of {reference} is about another name; do not use this catalog")
        return binding

    def newest_images(self, limit: int) -> list[ImageEntry]:
        """Up to `limit` images from the catalog's list, last published first. The list is unverified: use `resolve`."""
        return list(islice(self.first.images(), limit))

    def manifest_bytes(self, image_id: str) -> bytes:
        """The canonical bytes of a manifest that is listed now."""
        data = self._find(manifest_path(image_id))
        if len(data) > MAX_MANIFEST:
            raise Unverified(f"{image_id}: the manifest has {len(data)} bytes; the limit is {MAX_MANIFEST}")
        return data

    def manifest(self, image_id: str) -> Manifest:
        """A manifest, checked against the image ID; its name and version must never have stood for another image."""
        manifest = Manifest.parse(self.manifest_bytes(image_id))
        if manifest.image_id != image_id:
            raise ContentMismatch(f"{self.url}: lists another manifest as {image_id}; do not use this catalog")
        self._record_name(manifest.title, image_id)
        return manifest

    def endorsements(self, image_id: str) -> list[tuple[bytes, bytes]]:
        """(statement, signature) of every endorsement that is listed now; the signatures are not verified here."""
        return self._statements(endorsements_path(image_id))

    def cluster(self, reference: Reference) -> tuple[str, bytes]:
        """The cluster document that VO/NAME@VERSION or VO/NAME stands for now: VO/NAME@VERSION and the canonical bytes.

        Raises:
            Misused: the reference is an image ID. Other errors as for images.
        """
        if reference.image_id is not None:
            raise Misused("a published cluster is named as VO/NAME@VERSION or VO/NAME")
        path = name_path(reference.vo, reference.name, reference.version, "cluster-names")
        binding = self._binding(ClusterBinding, reference, path)
        self._record_name(f"cluster:{binding.title}", binding.digest)
        found = self._find(cluster_path(binding.digest))
        if "sha256:" + hashlib.sha256(found).hexdigest() != binding.digest:
            raise ContentMismatch(
                f"{self.url}: lists another document as cluster {binding.digest}; do not use this catalog"
            )
        return binding.title, found

    def cluster_endorsements(self, digest: str) -> list[tuple[bytes, bytes]]:
        """(statement, signature) of every endorsement of a cluster document that is listed now, unverified."""
        return self._statements(endorsements_path(digest, "clusters"))

    def revocations(self) -> list[tuple[bytes, bytes]]:
        """(statement, signature) of every revocation that is listed now; the signatures are not verified here."""
        index = parse_canonical(RevocationPages, self._find(REVOCATIONS, fresh=True), REVOCATIONS)
        return [pair for number in range(index.pages) for pair in self._statements(revocation_page(number))]

    def refresh(self) -> None:
        """Refresh the trusted metadata."""
        with self._lock:
            next(self._currents(fresh=True))

    def freshness(self) -> Freshness:
        """How fresh the trusted metadata is; makes no request."""
        try:
            return self._pinned().freshness()
        except Unpinned as exc:
            return Freshness(pinned=False, problem=str(exc))

    def _record_name(self, title: str, image_id: str) -> None:
        try:
            self._names.record(title, image_id)
        except Equivocation as exc:
            log.error("%s", exc)  # noqa: TRY400 - a traceback would add nothing
            self._alarm(str(exc))
            raise

    def _statements(self, path: str) -> list[tuple[bytes, bytes]]:
        try:
            found = parse(EndorsementList, self._find(path), path, limit=MAX_RESPONSE)
        except DocumentError as exc:
            raise Unverified(f"{self.url}: the target {path} cannot be read: {exc}") from exc
        return [one.pair() for one in found.items]

    def _find(self, path: str, *, fresh: bool = False) -> bytes:
        """A current target; from another source if the first does not list it or cannot send it."""
        problem: CatalogError | None = None
        with self._lock:
            for current in self._currents(fresh=fresh):
                try:
                    return current.find(path)
                except (NotFound, Unavailable, Unverified) as exc:
                    problem = exc if problem is None or isinstance(problem, NotFound) else problem
        raise problem or Unavailable(f"{self.url}: cannot download {path}")

    def _currents(self, *, fresh: bool) -> Iterator[CurrentTargets]:
        """What each source lists now, refreshed when it is asked for; first a recent refresh, unless this is to be fresh.

        Raises:
            CatalogError: no source answers; the gravest of their errors.
        """
        tuf, first = self._pinned(), None
        if self._current is not None and not fresh and self._clock() - self._current[0] < REUSE:
            _, first, current = self._current
            yield current
        else:
            self._current = None
        problem: CatalogError | None = None
        for client in self.ordered():
            if client.url == first:
                continue
            try:
                current = tuf.refresh(f"{client.url}/tuf/metadata/", f"{client.url}/tuf/targets/")
            except CatalogError as exc:
                problem = self.record_failure(client, exc, problem)
                continue
            self._failed.pop(client.url, None)
            self._current = self._clock(), client.url, current
            first = first or client.url
            yield current
        if first is None:
            raise problem or Unavailable("no catalog is configured")

    def _pinned(self) -> TufClient:
        if self._tuf is None:
            root = self._root()
            if root is None:
                raise Unpinned(_UNPINNED)
            self._tuf = TufClient(
                self._directory, root, self._now, transport=self._transport, credentials=self._credentials
            )
        return self._tuf


def keep_fresh(catalog: TrustedCatalog, ended: threading.Event, log: logging.Logger) -> None:
    """Refresh a catalog's metadata regularly until `ended`, so that a coming expiry is logged before it stops machines."""
    logged: str | None = None
    while not ended.wait(FRESHNESS_SECONDS):
        with suppress(CatalogError):  # shown in the status, and to users who order machines
            catalog.refresh()
        problem = catalog.freshness().problem
        if problem is not None and problem != logged:
            log.warning("%s", problem)
        logged = problem


def pin_root(file: Path, root: bytes) -> str:
    """Pin a catalog's root in a file; returns its SHA-256, for people to compare. Malformed if it is not a TUF root."""
    if SignedMetadata.of(root).role != ROOT:
        raise Malformed("TUF metadata of another role than root; use the catalog's root.json")
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    files.write(file, root)
    return hashlib.sha256(root).hexdigest()


def read_pin(file: Path) -> bytes | None:
    """The root that :func:`pin` keeps; None if none is pinned. Misused if it cannot be read."""
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise Misused(f"{file}: the pinned root cannot be read ({exc.strerror})") from exc


_UNPINNED = (
    "no TUF root of the catalog is pinned here, so that no image is known to be current; get root.json from the catalog's "
    "operator over a channel that you trust, and run `partita node trust-root FILE`"
)
