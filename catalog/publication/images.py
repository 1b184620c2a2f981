"""Publishing an image: a signed manifest, then its contents, then the image becomes visible in one transaction.

1. The VO is registered, and an endorsement of this very image by one of its registered keys verifies (`begin`).
2. Each content arrives in ranges, is read again and must have its address (`receive_range`, `complete`).
3. All contents are here, the key is still registered, the name@version is free: the image is visible (`commit`).

Every step may be repeated with the same result, so that publishing continues after a cut connection or a crash.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta

from catalog.content.content_store import ContentStore
from catalog.content.upload_store import UploadRange, UploadStore
from catalog.db import images, publications
from catalog.db.engine import CatalogDatabase, Transaction
from catalog.db.images import StoredEndorsement
from catalog.errors import Conflict, ContentMismatch, NotEntitled, NotFound, TooLarge
from catalog.image.address import Address
from catalog.image.manifest import Manifest
from catalog.publication.history import PUBLISH, History
from catalog.schema.images import Publication, SignedStatement, UploadStatus
from catalog.settings import CatalogSettings
from catalog.tuf_repository.repository import TufRepository
from catalog.tuf_repository.status import list_warnings
from signer.errors import DocumentError
from signer.statements.endorsement import VouchingStatement, parse_endorsement
from signer.verification.endorsements import MAX_ENDORSEMENTS, verify_endorsements
from signer.verification.trust import Anchor, EndorsedSubject
from signer.x509.cms_verifier import X509Rules


class PublicationService:
    """The use cases of publishing, over a database and a directory of contents."""

    def __init__(
        self, database: CatalogDatabase, contents: ContentStore, settings: CatalogSettings, history: History
    ) -> None:
        self.database, self.contents, self.history = database, contents, history
        self.uploads = UploadStore(contents)
        self.repository = TufRepository(contents.root / "tuf")
        self.x509 = X509Rules(settings.ca_directory, settings.crls)
        self._limit = settings.max_image_bytes
        self._pending = timedelta(days=settings.pending_days)

    def begin(self, manifest_text: str, offered: Sequence[SignedStatement], now: datetime) -> Publication:
        """Begin or continue a publication; the answer lists the missing contents.

        Raises:
            DocumentError: the manifest is malformed.
            TooLarge: the image is larger than this catalog accepts.
            NotEntitled: the VO is not registered, or none of its registered keys endorses this image.
            Conflict: the name@version names another image.
        """
        manifest = Manifest.parse(manifest_text.encode("utf-8"))
        self.check_size(manifest)
        accepted, reasons = self._endorsed(manifest, offered, now)
        if not any(parse_endorsement(one.statement, "image", "partition").image_id for one in accepted):
            raise NotEntitled(_refusal(manifest.title, manifest.vo, reasons))
        with self.database.writing() as connection:
            _check_name(connection, manifest)
            self._keep(connection, manifest.image_id, accepted, now)
            return self.put_pending(connection, manifest, now)

    def check_size(self, manifest: Manifest) -> None:
        """Raise TooLarge if an image is larger than this catalog accepts."""
        if (size := sum(address.size for address in manifest.contents())) > self._limit:
            raise TooLarge(f"{manifest.title} has {size} bytes of content; this catalog accepts {self._limit}")

    def put_pending(self, connection: Transaction, manifest: Manifest, now: datetime) -> Publication:
        """Make or extend the pending publication of an image; Conflict if the name@version names another image."""
        _check_name(connection, manifest)
        published = images.get_manifest(connection, manifest.image_id) is not None
        missing = publications.missing_contents(connection, manifest.image_id)
        expires = now + self._pending
        if not published or missing:  # a published image that lost a content is repaired by publishing it again
            publications.put_publication(connection, manifest, expires)
            missing = publications.missing_contents(connection, manifest.image_id)
            return Publication(
                image_id=manifest.image_id,
                state="pending",
                missing=tuple(_received(connection, manifest.image_id, address) for address in missing),
                expires=expires,
            )
        return Publication(image_id=manifest.image_id, state="published")

    def status(self, image_id: str, address: Address) -> UploadStatus:
        """The ranges that have arrived of a content; NotFound if no pending publication needs it."""
        with self.database.reading() as connection:
            _check_pending(connection, image_id, address)
            return _received(connection, image_id, address)

    @contextmanager
    def receive_range(self, image_id: str, address: Address, start: int, end: int) -> Iterator[UploadRange | None]:
        """Receive a range: yields where to write it, or None if the content is complete and the range not needed."""
        if self.status(image_id, address).complete:
            yield None
            return
        with self.uploads.arriving(image_id, address, start, end) as upload:
            yield upload

    def keep_range(self, image_id: str, address: Address, upload: UploadRange) -> UploadStatus:
        """Make a range durable once all its bytes are written, then acknowledge it."""
        upload.keep()
        with self.database.writing() as connection:
            _check_pending(connection, image_id, address)
            if not publications.has_content(connection, address):
                publications.add_range(connection, image_id, address, upload.start, upload.end)
            return _received(connection, image_id, address)

    def complete(self, image_id: str, address: Address, now: datetime) -> UploadStatus:
        """Read a content again that was sent whole, and move it into the store if it has its address.

        Raises:
            ContentMismatch: it has another address; what was sent is deleted.
        """
        if (status := self.status(image_id, address)).complete:
            return status
        with self.uploads.sealed(image_id, address) as file:
            if (status := self.status(image_id, address)).complete:  # another request or image completed it meanwhile
                self.uploads.drop(image_id, address)
                return status
            try:
                measured = self.contents.enter(file, address)
            except ContentMismatch as exc:
                with self.database.writing() as connection:
                    publications.drop_ranges(connection, image_id, address)
                self.uploads.drop(image_id, address)
                raise ContentMismatch(
                    f"the bytes sent for {address} do not match it; they were deleted, send them again"
                ) from exc
            with self.database.writing() as connection:
                _check_pending(connection, image_id, address)
                publications.add_content(connection, address, measured.data_bytes, now)
                return _received(connection, image_id, address)

    def commit(self, image_id: str, now: datetime) -> Publication:
        """Make the image visible, in one transaction.

        Raises:
            NotFound: there is no such publication.
            Conflict: contents are missing, or the name@version names another image.
            NotEntitled: the keys that endorsed it were removed meanwhile.
        """
        with self.database.writing() as connection:
            data = publications.pending_manifest(connection, image_id)
            published = images.get_manifest(connection, image_id) is not None
            if data is None:
                if published:
                    return Publication(image_id=image_id, state="published")
                raise NotFound(f"no publication {image_id} here; begin it again")
            manifest = Manifest.parse(data)
            if missing := publications.missing_contents(connection, image_id):
                raise Conflict(f"{manifest.title} lacks {len(missing)} contents, first {missing[0]}; send them")
            known = {anchor.fingerprint for anchor in images.list_anchors(connection, manifest.vo)}
            if not any(one.fingerprint in known for one in images.list_endorsements(connection, image_id)):
                raise NotEntitled(f"{manifest.title} has lost its endorsement by a registered key of {manifest.vo}")
            if not published:
                _check_name(connection, manifest)
                images.add_image(connection, manifest, now)
                self.repository.list_image(connection, image_id, now)
                self.history.record(PUBLISH, {"image": manifest.image_id, "title": manifest.title}, now)
            publications.end_publication(connection, image_id)
        self.uploads.drop_image(image_id)
        return Publication(image_id=image_id, state="published")

    def endorse(self, image_id: str, offered: Sequence[SignedStatement], now: datetime) -> None:
        """Add endorsements to a published image; all of them must verify.

        Raises:
            NotFound: no such image is published.
            NotEntitled: one does not verify with a registered key of the image's VO.
            TooLarge: the image has as many as the catalog keeps.
        """
        with self.database.reading() as connection:
            data = images.get_manifest(connection, image_id)
        if data is None:
            raise NotFound(f"no image {image_id} here")
        manifest = Manifest.parse(data)
        accepted, reasons = self._endorsed(manifest, offered, now)
        if reasons or not accepted:
            raise NotEntitled(_refusal(manifest.title, manifest.vo, reasons))
        with self.database.writing() as connection:
            self._keep(connection, image_id, accepted, now)

    def expire(self, now: datetime) -> int:
        """Delete abandoned publications, and the contents that only they had; returns how many publications."""
        count = 0
        with self.database.writing() as connection:
            for image_id in publications.list_expired(connection, now):
                if not self.uploads.is_busy(image_id):
                    publications.forget_publication(connection, image_id)
                    self.uploads.drop_image(image_id)
                    count += 1
            # Still inside the write transaction: no publication can start to rely on these contents meanwhile.
            for address in publications.unreferenced_contents(connection):
                publications.drop_content(connection, address)
                self.contents.remove(address)
        return count

    def renew(self, now: datetime) -> Sequence[str]:
        """Renew the TUF metadata that is due; returns what an operator should act on, in sentences."""
        with self.database.writing() as connection:
            self.repository.renew(connection, now)
            return list_warnings(self.repository, connection, now)

    def _endorsed(
        self, manifest: Manifest, offered: Sequence[SignedStatement], now: datetime
    ) -> tuple[list[StoredEndorsement], list[str]]:
        """The endorsements that count, and why the others do not.

        Endorsements of partitions may be in the name of another VO, or a site, that is registered here.
        """
        vo, pairs = manifest.vo, [one.pair() for one in offered]
        with self.database.reading() as connection:
            anchors = registered_anchors(connection, vo)
            others = {found.vo for pair in pairs if (found := _partition(pair[0])) is not None} - {vo}
            foreign = [anchor for other in sorted(others) for anchor in images.list_anchors(connection, other)]
        checks = verify_endorsements(
            EndorsedSubject(manifest.image_id, manifest.title, {str(address) for address in manifest.contents()}),
            pairs,
            [*anchors, *foreign],
            now,
            x509=self.x509,
        )
        accepted, reasons = [], []
        for pair, check in zip(pairs, checks, strict=True):
            if check.counts:
                accepted.append(StoredEndorsement(*pair, check.fingerprint))
            else:
                reasons.append(check.reason)
        return accepted, reasons

    def _keep(
        self, connection: Transaction, image_id: str, accepted: Sequence[StoredEndorsement], now: datetime
    ) -> None:
        """Store the endorsements and list them in the TUF metadata, in the same transaction."""
        fresh = images.add_endorsements(connection, image_id, accepted, now)
        if len(images.list_endorsements(connection, image_id)) > MAX_ENDORSEMENTS:
            raise TooLarge(f"this catalog keeps at most {MAX_ENDORSEMENTS} endorsements of an image")
        if fresh:
            self.repository.list_image(connection, image_id, now)
        self.history.record_endorsements(fresh, now)


def registered_anchors(connection: Transaction, vo: str) -> list[Anchor]:
    """The registered keys of a VO; NotEntitled if the VO is not registered or has no key."""
    if not images.has_vo(connection, vo):
        raise NotEntitled(f"the VO {vo} is not registered here; ask the catalog's operator to register it")
    if not (anchors := images.list_anchors(connection, vo)):
        raise NotEntitled(f"the VO {vo} has no registered key here; ask the catalog's operator to register one")
    return anchors


def _refusal(title: str, vo: str, reasons: Sequence[str]) -> str:
    why = " ".join(dict.fromkeys(reasons)) or "it has no endorsement"
    return f"{title}: no endorsement by a registered key of {vo} counts: {why}"


def _check_name(connection: Transaction, manifest: Manifest) -> None:
    other = images.find_image(connection, manifest.vo, manifest.name, manifest.version)
    if other is not None and other.image_id != manifest.image_id:
        raise Conflict(f"{manifest.title} is published and names {other.image_id}; publish under a new version")


def _check_pending(connection: Transaction, image_id: str, address: Address) -> None:
    if publications.pending_manifest(connection, image_id) is None:
        raise NotFound(f"no pending publication {image_id} here; begin it again")
    if not publications.image_has_content(connection, image_id, address):
        raise NotFound(f"{image_id} has no content {address}")


def _received(connection: Transaction, image_id: str, address: Address) -> UploadStatus:
    if publications.has_content(connection, address):
        return UploadStatus(address=address, received=((0, address.size),), complete=True)
    return UploadStatus(address=address, received=publications.received_ranges(connection, image_id, address))


def _partition(statement: bytes) -> VouchingStatement | None:
    """The statement, if it endorses a partition."""
    try:
        return parse_endorsement(statement, "partition")
    except DocumentError:
        return None  # verification reports the fault
