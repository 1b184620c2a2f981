"""A mirror: a read-only copy of a catalog, for a site. It can withhold, but cannot forge.

Signed metadata is copied byte for byte and verified by its readers; contents are verified by their addresses as they
arrive. A step of mirroring copies everything that a newer timestamp leads to before it publishes that timestamp, so that
the mirror is always consistent. The catalog's own code serves it, without the routes of publishers.
"""

import hashlib
import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta

from catalog.client.client import CatalogClient
from catalog.content import indexing
from catalog.content.indexing import ContentIndex
from catalog.db import images as rows
from catalog.db import publications
from catalog.db.engine import Transaction
from catalog.db.images import StoredEndorsement
from catalog.errors import ContentMismatch, NotEntitled, NotFound, Unverified
from catalog.image.address import Address
from catalog.image.manifest import Manifest
from catalog.publication.images import PublicationService
from catalog.schema.images import MAX_RESPONSE, UPLOAD_PART, EndorsementList
from catalog.tuf.metadata import (
    ROOT,
    SNAPSHOT,
    TARGETS,
    TIMESTAMP,
    ListedTarget,
    SignedMetadata,
    bin_number,
    named_snapshot,
    read_targets,
    role_versions,
)
from catalog.tuf.targets import manifest_path
from catalog.tuf_repository import store
from catalog.tuf_repository.online_signing import KEEP_METADATA
from catalog.tuf_repository.repository import KEEP_TARGETS, MIRRORED
from catalog.tuf_repository.store import TargetContent
from signer.documents import parse
from signer.errors import PartitaError
from signer.runtime.progress import Advance, ignore_progress

CONNECTIONS = 8
"""Requests in parallel: most are for metadata of a few hundred bytes."""

MAX_METADATA = 5_000_000
"""Bytes of any metadata, as clients allow."""

MAX_ROOTS = 256
"""New root versions that are looked for in one step, as clients do."""

PENDING = timedelta(days=30)
"""How long the contents of an incompletely mirrored image are kept."""

MANIFEST, ENDORSEMENTS = "/manifest.json", "/endorsements.json"

log = logging.getLogger("partita.mirror")


@dataclass(frozen=True)
class MirrorStep:
    """The result of one step of mirroring.

    Attributes:
        changed: whether the catalog had anything new.
        version: of the snapshot that is served now.
        metadata: how many metadata files were copied.
        images: how many images were copied.
        bytes: how many bytes of contents were downloaded.
    """

    changed: bool
    version: int
    metadata: int = 0
    images: int = 0
    bytes: int = 0


class Mirror:
    """The copy of one catalog in a directory that this process owns."""

    def __init__(self, publishing: PublicationService, client: CatalogClient) -> None:
        self._publishing, self._client = publishing, client
        self._database, self._store = publishing.database, publishing.contents

    def step(self, now: datetime, advance: Advance = ignore_progress) -> MirrorStep:
        """Copy what is new, and serve it only when all of it is here.

        Raises:
            Unavailable: the catalog cannot be reached, or cuts the connection; complete contents are kept.
            ContentMismatch, Unverified, Malformed: its answers are inconsistent; nothing of this step is served.
        """
        timestamp = self._get("timestamp.json")
        wanted = SignedMetadata.of(timestamp)
        with self._database.reading() as connection:
            before = store.latest_metadata(connection, TIMESTAMP)
            if before is not None and wanted.version <= before.version:
                served = store.latest_metadata(connection, SNAPSHOT)
                return MirrorStep(changed=False, version=0 if served is None else served.version)
            known = store.bin_versions(connection)
            newest = store.latest_metadata(connection, ROOT)
        number, digest = named_snapshot(timestamp)
        snapshot = self._get(f"{number}.{SNAPSHOT}.json")
        if digest != hashlib.sha256(snapshot).hexdigest():
            raise Unverified(f"{self._client.url}: the snapshot is not the one that the timestamp names")
        versions = role_versions(snapshot)
        roots = list(self._roots(0 if newest is None else newest.version))
        targets = self._get(f"{versions[TARGETS]}.{TARGETS}.json")
        bits = SignedMetadata.of(targets).bits
        fresh = [role for role, version in versions.items() if role != TARGETS and known.get(role) != version]
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            bins = dict(
                zip(fresh, pool.map(lambda role: self._get(f"{versions[role]}.{role}.json"), fresh), strict=True)
            )
            listed = self._unknown(bins.values())
            found = dict(zip(listed, pool.map(self._target, listed), strict=True))
        bodies = {one: data for one, data in found.items() if data is not None}
        images = _manifests(bodies)
        for one, manifest in images.items():
            if one.path != manifest_path(manifest.image_id):
                raise Unverified(f"{self._client.url}: lists {manifest.title} as another image")
        received = sum(self._contents(manifest, now, advance) for manifest in images.values())
        with self._database.writing() as connection:
            for data in roots:
                _keep(connection, ROOT, data, now)
            for role, data in bins.items():
                _keep(connection, role, data, now)
            self._list(connection, bodies, bins, bits, now)
            self._register(connection, bodies, now)
            _keep(connection, TARGETS, targets, now)
            _keep(connection, SNAPSHOT, snapshot, now)
            _keep(connection, TIMESTAMP, timestamp, now)
        return MirrorStep(True, number, len(bins) + len(roots) + 3, len(images), received)

    def _get(self, name: str) -> bytes:
        return self._client.tuf_file(f"metadata/{name}", MAX_METADATA)

    def _roots(self, last: int) -> Iterable[bytes]:
        for version in range(last + 1, last + 1 + MAX_ROOTS):
            try:
                yield self._get(f"{version}.{ROOT}.json")
            except NotFound:
                return

    def _unknown(self, bins: Iterable[bytes]) -> list[ListedTarget]:
        """The targets in these bins that are not here yet."""
        with self._database.reading() as connection:
            return [one for data in bins for one in read_targets(data) if not store.is_current_target(connection, one)]

    def _target(self, one: ListedTarget) -> bytes | None:
        """A target's bytes; None for a restricted one, which the catalog does not give to a mirror."""
        head, _, name = one.path.rpartition("/")
        place = f"{head}/" if head else ""
        try:
            data = self._client.tuf_file(f"targets/{place}{one.digest}.{name}", one.length)
        except (NotFound, NotEntitled):
            return None
        if len(data) != one.length or hashlib.sha256(data).hexdigest() != one.digest:
            raise ContentMismatch(f"{self._client.url}: the target {one.path} is not the one that its metadata lists")
        return data

    def _contents(self, manifest: Manifest, now: datetime, advance: Advance) -> int:
        """Download the missing contents of an image, verifying each before it enters the store; returns their bytes.

        The image is a pending publication meanwhile, so that complete contents survive a death of this process.
        """
        with self._database.writing() as connection:
            if rows.get_manifest(connection, manifest.image_id) is None:
                publications.put_publication(connection, manifest, now + PENDING)
            missing = list(dict.fromkeys(publications.missing_contents(connection, manifest.image_id)))
        received = 0
        for address in missing:
            count, index = self._content(address, advance)
            received += count
            with self._database.writing() as connection:
                publications.add_content(connection, address, index.data_bytes, now)
        return received

    def _content(self, address: Address, advance: Advance) -> tuple[int, ContentIndex]:
        """Download one content, first by the catalog's data map; whole if the map left something out."""
        file = self._store.root / "uploads" / f"mirror-{address}"
        for extents in (
            list(indexing.decode_data_map(self._client.accelerator(address, "map"), address.size)),
            [(0, address.size)],
        ):
            received = 0
            with file.open("wb") as out:
                out.truncate(address.size)
                for start, length in extents:
                    for part in range(start, start + length, UPLOAD_PART):
                        out.seek(part)
                        for chunk in self._client.content_range(address, part, min(part + UPLOAD_PART, start + length)):
                            out.write(chunk)
                            received += len(chunk)
                            advance(len(chunk))
            try:
                return received, self._store.enter(file, address)
            except ContentMismatch:
                continue
        file.unlink()
        raise ContentMismatch(f"{self._client.url}: sent another content for {address}")

    def _list(
        self,
        connection: Transaction,
        bodies: Mapping[ListedTarget, bytes],
        bins: Iterable[str],
        bits: int,
        now: datetime,
    ) -> None:
        """Store the new targets; the ones that they replace are served for a while longer."""
        if store.current_epoch(connection) is None:
            store.add_epoch(connection, MIRRORED, bits, now)
        for one, data in bodies.items():
            body = None if one.path.endswith(MANIFEST) else data
            store.put_target(connection, TargetContent(one, body), bin_number(one.path, bits), now)
        store.prune_metadata(connection, bins, now - KEEP_METADATA)
        store.forget_targets(connection, now - KEEP_TARGETS)

    def _register(self, connection: Transaction, bodies: Mapping[ListedTarget, bytes], now: datetime) -> None:
        """Store the images for the unsigned answers (lists, names, endorsements), in the catalog's order."""
        order = {entry.image_id: number for number, entry in enumerate(self._client.images())}
        images = _manifests(bodies).values()
        for manifest in sorted(images, key=lambda one: order.get(one.image_id, -1), reverse=True):
            if rows.get_manifest(connection, manifest.image_id) is None:
                rows.register_vo(connection, manifest.vo, now)
                rows.add_image(connection, manifest, now)
                publications.end_publication(connection, manifest.image_id)
        for one, data in bodies.items():
            if one.path.endswith(ENDORSEMENTS):
                pairs = [item.pair() for item in parse(EndorsementList, data, one.path, limit=MAX_RESPONSE).items]
                image_id = "sha256:" + one.path.split("/")[1]
                # The mirror does not verify endorsements, and so knows no fingerprints; readers verify them.
                rows.add_endorsements(connection, image_id, [StoredEndorsement(*pair, "") for pair in pairs], now)


def _manifests(bodies: Mapping[ListedTarget, bytes]) -> dict[ListedTarget, Manifest]:
    return {one: Manifest.parse(data) for one, data in bodies.items() if one.path.endswith(MANIFEST)}


def _keep(connection: Transaction, role: str, data: bytes, now: datetime) -> None:
    """Store metadata as it was received; a version that is here already stays."""
    found = SignedMetadata.of(data)
    if store.metadata_bytes(connection, role, found.version) is None:
        store.add_metadata(connection, role, found.version, data, now, found.expires)


def run_mirror(mirror: Mirror, every: float, ended: threading.Event, now: Callable[[], datetime]) -> None:
    """Mirror step by step until `ended` is set; a step that fails is retried, and the same failure is logged once."""
    logged = ""
    while not ended.is_set():
        try:
            step = mirror.step(now())
            if step.changed:
                log.info("mirrored snapshot %d: %d images, %d bytes of contents", step.version, step.images, step.bytes)
            logged = ""
        except PartitaError as exc:
            if str(exc) != logged:
                log.warning("mirroring failed; retrying in %.0f s: %s", every, exc)
            logged = str(exc)
        ended.wait(every)
