"""A mirror: a read-only copy of a catalog, for a site. It can withhold, and cannot forge.

Signed metadata is copied byte for byte and verified by whoever reads it, contents are verified by their addresses as they
come. A step of mirroring brings everything that a newer timestamp leads to, and only then lets that timestamp be seen, so
what a mirror serves always fits together. It is served by the catalog's own code, without the routes of publishers.
"""

import hashlib
import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta

from catalog.client.client import CatalogClient
from catalog.content import indexing as measuring
from catalog.content.indexing import ContentIndex
from catalog.db import images as registry
from catalog.db import publications as holdings
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
from catalog.tuf_repository import store as tuf_store
from catalog.tuf_repository.online_signing import KEEP_METADATA
from catalog.tuf_repository.repository import KEEP_TARGETS, MIRRORED
from catalog.tuf_repository.store import TargetContent
from signer.documents import parse
from signer.errors import PartitaError
from signer.runtime.progress import Advance, ignore_progress

CONNECTIONS = 8
"""Requests in parallel: most are for metadata of some hundred bytes."""

MAX_METADATA = 5_000_000
"""Bytes of any metadata, as readers allow."""

MAX_ROOTS = 256
"""Roots that are looked for beyond the last one, as readers do."""

PENDING = timedelta(days=30)
"""How long contents of an image are kept whose mirroring stopped half way."""

MANIFEST, ENDORSEMENTS = "/manifest.json", "/endorsements.json"

log = logging.getLogger("partita.mirror")


@dataclass(frozen=True)
class MirrorStep:
    """What one step of mirroring brought.

    Attributes:
        changed: whether there was anything new.
        version: of the snapshot that is served now.
        metadata: files of metadata that came.
        images: images that came.
        bytes: bytes of contents that came.
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
        """Bring what is new; nothing of it is seen before all of it is there.

        Raises:
            Unavailable: the catalog cannot be reached, or cuts; what came of contents is kept.
            ContentMismatch, Unverified, Malformed: what it sends does not fit together; nothing of this step is served.
        """
        timestamp = self._get("timestamp.json")
        wanted = SignedMetadata.of(timestamp)
        with self._database.reading() as connection:
            before = tuf_store.latest_metadata(connection, TIMESTAMP)
            if before is not None and wanted.version <= before.version:
                return MirrorStep(changed=False, version=_version(connection, SNAPSHOT))
            known = tuf_store.bin_versions(connection)
            newest = tuf_store.latest_metadata(connection, ROOT)
        number, digest = named_snapshot(timestamp)
        snapshot = self._get(f"{number}.{SNAPSHOT}.json")
        if digest != hashlib.sha256(snapshot).hexdigest():
            raise Unverified(f"{self._client.url}: its snapshot is not the one that its timestamp names")
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
        images = [Manifest.parse(data) for one, data in bodies.items() if one.path.endswith(MANIFEST)]
        for manifest, one in (
            (Manifest.parse(data), one) for one, data in bodies.items() if one.path.endswith(MANIFEST)
        ):
            if one.path != manifest_path(manifest.image_id):
                raise Unverified(f"{self._client.url}: lists {manifest.title} as another image")
        moved = sum(self._contents(manifest, now, advance) for manifest in images)
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
        return MirrorStep(True, number, len(bins) + len(roots) + 3, len(images), moved)

    def _get(self, name: str) -> bytes:
        return self._client.freshness_file(f"metadata/{name}", MAX_METADATA)

    def _roots(self, last: int) -> Iterable[bytes]:
        for version in range(last + 1, last + 1 + MAX_ROOTS):
            try:
                yield self._get(f"{version}.{ROOT}.json")
            except NotFound:
                return

    def _unknown(self, bins: Iterable[bytes]) -> list[ListedTarget]:
        """The targets in these bins that are not here yet."""
        with self._database.reading() as connection:
            return [
                one for data in bins for one in read_targets(data) if not tuf_store.is_current_target(connection, one)
            ]

    def _target(self, one: ListedTarget) -> bytes | None:
        """A target's content; None for what the catalog keeps from strangers, and a mirror so keeps from everybody."""
        head, _, name = one.path.rpartition("/")
        place = f"{head}/" if head else ""
        try:
            data = self._client.freshness_file(f"targets/{place}{one.digest}.{name}", one.length)
        except (NotFound, NotEntitled):
            return None
        if len(data) != one.length or hashlib.sha256(data).hexdigest() != one.digest:
            raise ContentMismatch(f"{self._client.url}: what it sends as {one.path} is not what its metadata lists")
        return data

    def _contents(self, manifest: Manifest, now: datetime, advance: Advance) -> int:
        """Bring the contents of an image that are not here; each is verified before it enters the store.

        The image is a pending publication meanwhile, so that what has come survives a death of this process.
        """
        with self._database.writing() as connection:
            if registry.get_manifest(connection, manifest.image_id) is None:
                holdings.put_publication(connection, manifest, now + PENDING)
            missing = list(dict.fromkeys(holdings.missing_contents(connection, manifest.image_id)))
        moved = 0
        for address in missing:
            count, measured = self._content(address, advance)
            moved += count
            with self._database.writing() as connection:
                holdings.add_content(connection, address, measured.data_bytes, now)
        return moved

    def _content(self, address: Address, advance: Advance) -> tuple[int, ContentIndex]:
        """One content, by the catalog's map at first; without it if the map left something out."""
        file = self._store.root / "uploads" / f"mirror-{address}"
        for extents in (
            list(measuring.decode_data_map(self._client.data_map(address), address.size)),
            [(0, address.size)],
        ):
            moved = 0
            with file.open("wb") as out:
                out.truncate(address.size)
                for start, length in extents:
                    for part in range(start, start + length, UPLOAD_PART):
                        out.seek(part)
                        for piece in self._client.content_range(address, part, min(part + UPLOAD_PART, start + length)):
                            out.write(piece)
                            moved += len(piece)
                            advance(len(piece))
            try:
                return moved, self._store.enter(file, address)
            except ContentMismatch:
                continue
        file.unlink()
        raise ContentMismatch(f"{self._client.url}: what it sends as {address} is something else")

    def _list(
        self,
        connection: Transaction,
        bodies: Mapping[ListedTarget, bytes],
        bins: Iterable[str],
        bits: int,
        now: datetime,
    ) -> None:
        """Serve the new targets; what they replace is served for a while longer."""
        if tuf_store.current_epoch(connection) is None:
            tuf_store.add_epoch(connection, MIRRORED, bits, now)
        for one, data in bodies.items():
            body = None if one.path.endswith(MANIFEST) else data
            tuf_store.put_target(connection, TargetContent(one, body), bin_number(one.path, bits), now)
        tuf_store.prune_metadata(connection, bins, now - KEEP_METADATA)
        tuf_store.forget_targets(connection, now - KEEP_TARGETS)

    def _register(self, connection: Transaction, bodies: Mapping[ListedTarget, bytes], now: datetime) -> None:
        """The unsigned answers (lists, names, endorsements) work here too, in the catalog's order."""
        order = {entry.image_id: number for number, entry in enumerate(self._client.images())}
        images = [Manifest.parse(data) for one, data in bodies.items() if one.path.endswith(MANIFEST)]
        for manifest in sorted(images, key=lambda one: order.get(one.image_id, -1), reverse=True):
            if registry.get_manifest(connection, manifest.image_id) is None:
                registry.register_vo(connection, manifest.vo, now)
                registry.add_image(connection, manifest, now)
                holdings.end_publication(connection, manifest.image_id)
        for one, data in bodies.items():
            if one.path.endswith(ENDORSEMENTS):
                pairs = [item.pair() for item in parse(EndorsementList, data, one.path, limit=MAX_RESPONSE).items]
                image_id = "sha256:" + one.path.split("/")[1]
                # Whose they are is for those to find out who read them.
                registry.add_endorsements(connection, image_id, [StoredEndorsement(*pair, "") for pair in pairs], now)


def _version(connection: Transaction, role: str) -> int:
    newest = tuf_store.latest_metadata(connection, role)
    return 0 if newest is None else newest.version


def _keep(connection: Transaction, role: str, data: bytes, now: datetime) -> None:
    """Keep metadata as it came; what is here already stays."""
    found = SignedMetadata.of(data)
    if tuf_store.metadata_bytes(connection, role, found.version) is None:
        tuf_store.add_metadata(connection, role, found.version, data, now, found.expires)


def run_mirror(mirror: Mirror, every: float, ended: threading.Event, now: Callable[[], datetime]) -> None:
    """Step after step until told to end; what fails is tried again, and said once."""
    told = ""
    while not ended.is_set():
        try:
            step = mirror.step(now())
            if step.changed:
                log.info("snapshot %d: %d images, %d bytes came", step.version, step.images, step.bytes)
            told = ""
        except PartitaError as exc:
            if str(exc) != told:
                log.warning("mirroring stopped for now: %s", exc)
            told = str(exc)
        ended.wait(every)
