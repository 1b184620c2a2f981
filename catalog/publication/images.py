"""Publishing: a signed manifest asks, contents arrive and are verified, and the image becomes visible in one transaction.

1. The VO is registered, and an endorsement of this very image by one of its registered keys verifies (`begin`).
2. Each content arrives in ranges, is read again and must have its address (`arriving`, `complete`).
3. All contents are here, the key is still registered, the name@version is free: the image is visible (`commit`).

Everything may be asked again with the same result, so a client that was cut off, or a catalog that was, goes on.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta

from catalog.content.content_store import ContentStore
from catalog.content.upload_store import UploadRange, UploadStore
from catalog.db import images as registry
from catalog.db import publications as holdings
from catalog.db.engine import CatalogDatabase, Transaction
from catalog.db.images import StoredEndorsement
from catalog.errors import Conflict, ContentMismatch, NotEntitled, NotFound, TooLarge
from catalog.image.address import Address
from catalog.image.manifest import Manifest
from catalog.publication.history import History
from catalog.schema.images import Publication, SignedStatement, UploadStatus
from catalog.settings import CatalogSettings
from catalog.tuf_repository.repository import TufRepository
from catalog.tuf_repository.status import list_warnings
from signer.errors import DocumentError
from signer.statements.endorsement import PartitionStatement, parse_any_endorsement
from signer.verification.endorsements import MAX_ENDORSEMENTS, verify_endorsements
from signer.x509.cms_verifier import X509Rules


class PublicationService:
    """The use cases of publishing, over a database and a directory of contents."""

    def __init__(
        self,
        database: CatalogDatabase,
        contents: ContentStore,
        settings: CatalogSettings,
        history: History | None = None,
    ) -> None:
        """Without a history nothing is recorded; a service always has one."""
        self.database, self.contents, self.history = database, contents, history
        self.uploads = UploadStore(contents)
        self.freshness = TufRepository(contents.root / "tuf")
        self.x509 = X509Rules(settings.ca_directory, settings.crls)
        self._limit = settings.max_image_bytes
        self._pending = timedelta(days=settings.pending_days)

    def begin(self, manifest_text: str, offered: Sequence[SignedStatement], now: datetime) -> Publication:
        """Begin a publication, or go on with it; says which contents are missing.

        Raises:
            DocumentError: the manifest is malformed.
            TooLarge: the image is larger than this catalog accepts.
            NotEntitled: the VO is not registered, or none of its registered keys endorses this image.
            Conflict: the name@version names another image.
        """
        manifest = Manifest.parse(manifest_text.encode("utf-8"))
        self.check_size(manifest)
        accepted, reasons = self._endorsed(manifest, offered, now)
        if not any(parse_any_endorsement(one.statement).image_id for one in accepted):
            raise NotEntitled(_refusal(manifest.title, manifest.vo, reasons))
        with self.database.writing() as connection:
            _check_name(connection, manifest)
            self._keep(connection, manifest.image_id, accepted, now)
            return self.pend(connection, manifest, now)

    def check_size(self, manifest: Manifest) -> None:
        """Raise TooLarge where an image is larger than this catalog accepts."""
        if (size := sum(address.size for address in manifest.contents())) > self._limit:
            raise TooLarge(f"{manifest.title} has {size} bytes of content; this catalog accepts {self._limit}")

    def pend(self, connection: Transaction, manifest: Manifest, now: datetime) -> Publication:
        """Let a publication wait for its contents, or go on waiting; Conflict if the name@version names another image."""
        _check_name(connection, manifest)
        published = registry.get_manifest(connection, manifest.image_id) is not None
        missing = holdings.missing_contents(connection, manifest.image_id)
        expires = now + self._pending
        if not published or missing:  # a published image that lost a content is repaired by publishing it again
            holdings.put_publication(connection, manifest, expires)
            missing = holdings.missing_contents(connection, manifest.image_id)
            return Publication(
                image_id=manifest.image_id,
                state="pending",
                missing=tuple(_received(connection, manifest.image_id, address) for address in missing),
                expires=expires,
            )
        return Publication(image_id=manifest.image_id, state="published")

    def status(self, image_id: str, address: Address) -> UploadStatus:
        """What has arrived of a content; NotFound if no pending publication wants it."""
        with self.database.reading() as connection:
            _check_pending(connection, image_id, address)
            return _received(connection, image_id, address)

    @contextmanager
    def arriving(self, image_id: str, address: Address, start: int, end: int) -> Iterator[UploadRange | None]:
        """A range arrives; yields where to write it, or None if the content is complete and the range worthless."""
        if self.status(image_id, address).complete:
            yield None
            return
        with self.uploads.arriving(image_id, address, start, end) as arriving:
            yield arriving

    def keep(self, image_id: str, address: Address, arriving: UploadRange) -> UploadStatus:
        """All bytes of the range were written: make them durable, then acknowledge them."""
        arriving.keep()
        with self.database.writing() as connection:
            _check_pending(connection, image_id, address)
            if not holdings.has_content(connection, address):
                holdings.add_range(connection, image_id, address, arriving.start, arriving.end)
            return _received(connection, image_id, address)

    def complete(self, image_id: str, address: Address, now: datetime) -> UploadStatus:
        """Everything was sent: read it again, and let it enter the store if it has its address.

        Raises:
            ContentMismatch: it has not; what was sent is dropped.
        """
        if (status := self.status(image_id, address)).complete:
            return status
        with self.uploads.sealed(image_id, address) as file:
            if (status := self.status(image_id, address)).complete:  # another request or image brought it meanwhile
                self.uploads.drop(image_id, address)
                return status
            try:
                measured = self.contents.enter(file, address)
            except ContentMismatch as exc:
                with self.database.writing() as connection:
                    holdings.drop_ranges(connection, image_id, address)
                self.uploads.drop(image_id, address)
                raise ContentMismatch(
                    f"what was sent for {address} has another content; it was dropped, send it again"
                ) from exc
            with self.database.writing() as connection:
                _check_pending(connection, image_id, address)
                holdings.add_content(connection, address, measured.data_bytes, now)
                return _received(connection, image_id, address)

    def commit(self, image_id: str, now: datetime) -> Publication:
        """Make the image visible, in one transaction.

        Raises:
            NotFound: there is no such publication.
            Conflict: contents are missing, or the name@version names another image.
            NotEntitled: the keys that endorsed it were removed meanwhile.
        """
        with self.database.writing() as connection:
            data = holdings.pending_manifest(connection, image_id)
            published = registry.get_manifest(connection, image_id) is not None
            if data is None:
                if published:
                    return Publication(image_id=image_id, state="published")
                raise NotFound(f"there is no publication {image_id} here; begin it again")
            manifest = Manifest.parse(data)
            if missing := holdings.missing_contents(connection, image_id):
                raise Conflict(f"{manifest.title} still misses {len(missing)} contents, first {missing[0]}; send them")
            known = {anchor.fingerprint for anchor in registry.list_anchors(connection, manifest.vo)}
            if not any(one.fingerprint in known for one in registry.list_endorsements(connection, image_id)):
                raise NotEntitled(f"no key that is registered for {manifest.vo} endorses {manifest.title} any more")
            if not published:
                _check_name(connection, manifest)
                registry.add_image(connection, manifest, now)
                self._list(connection, image_id, now)
                if self.history is not None:
                    self.history.published(manifest, now)
            holdings.end_publication(connection, image_id)
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
            data = registry.get_manifest(connection, image_id)
        if data is None:
            raise NotFound(f"there is no image {image_id} here")
        manifest = Manifest.parse(data)
        accepted, reasons = self._endorsed(manifest, offered, now)
        if reasons or not accepted:
            raise NotEntitled(_refusal(manifest.title, manifest.vo, reasons))
        with self.database.writing() as connection:
            self._keep(connection, image_id, accepted, now)

    def expire(self, now: datetime) -> int:
        """Forget the publications that nobody continued, and the contents that only they had; returns how many."""
        count = 0
        with self.database.writing() as connection:
            for image_id in holdings.list_expired(connection, now):
                if not self.uploads.is_busy(image_id):
                    holdings.forget_publication(connection, image_id)
                    self.uploads.drop_image(image_id)
                    count += 1
            # Still inside the write transaction: no publication can begin to count on these contents meanwhile.
            for address in holdings.unreferenced_contents(connection):
                holdings.drop_content(connection, address)
                self.contents.remove(address)
        return count

    def renew(self, now: datetime) -> Sequence[str]:
        """Sign afresh what is due of the freshness metadata; returns what an operator should do, in sentences."""
        with self.database.writing() as connection:
            self.freshness.renew(connection, now)
            return list_warnings(self.freshness, connection, now)

    def _endorsed(
        self, manifest: Manifest, offered: Sequence[SignedStatement], now: datetime
    ) -> tuple[list[StoredEndorsement], list[str]]:
        """The endorsements that count, and why the others do not.

        Those of partitions may be in the name of another VO, or a site, that is registered here.
        """
        vo, pairs = manifest.vo, [one.pair() for one in offered]
        with self.database.reading() as connection:
            if not registry.has_vo(connection, vo):
                raise NotEntitled(f"the VO {vo} is not registered here; ask the catalog's operator to register it")
            anchors = registry.list_anchors(connection, vo)
            others = {found.vo for pair in pairs if (found := _partition(pair[0])) is not None} - {vo}
            foreign = [anchor for other in sorted(others) for anchor in registry.list_anchors(connection, other)]
        if not anchors:
            raise NotEntitled(f"the VO {vo} has no registered key here; ask the catalog's operator to register one")
        checks = verify_endorsements(
            manifest.image_id,
            pairs,
            [*anchors, *foreign],
            now,
            title=manifest.title,
            x509=self.x509,
            addresses={str(address) for address in manifest.contents()},
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
        fresh = registry.add_endorsements(connection, image_id, accepted, now)
        if len(registry.list_endorsements(connection, image_id)) > MAX_ENDORSEMENTS:
            raise TooLarge(f"an image has at most {MAX_ENDORSEMENTS} endorsements here; these would be more")
        if fresh:
            self._list(connection, image_id, now)
        if self.history is not None:
            self.history.endorsed(fresh, now)

    def _list(self, connection: Transaction, image_id: str, now: datetime) -> None:
        """Sites learn of it by the freshness metadata, in the same transaction. A service always has made some."""
        if self.freshness.is_made(connection):
            self.freshness.image(connection, image_id, now)


def _refusal(title: str, vo: str, reasons: Sequence[str]) -> str:
    why = " ".join(dict.fromkeys(reasons)) or "there is none"
    return f"{title}: no endorsement by a registered key of {vo} that counts: {why}"


def _check_name(connection: Transaction, manifest: Manifest) -> None:
    other = registry.find_image(connection, manifest.vo, manifest.name, manifest.version)
    if other is not None and other.image_id != manifest.image_id:
        raise Conflict(f"{manifest.title} is published and names {other.image_id}; publish under a new version")


def _check_pending(connection: Transaction, image_id: str, address: Address) -> None:
    if holdings.pending_manifest(connection, image_id) is None:
        raise NotFound(f"there is no pending publication {image_id} here; begin it again")
    if not holdings.image_has_content(connection, image_id, address):
        raise NotFound(f"the content {address} is no part of {image_id}")


def _received(connection: Transaction, image_id: str, address: Address) -> UploadStatus:
    if holdings.has_content(connection, address):
        return UploadStatus(address=address, received=((0, address.size),), complete=True)
    return UploadStatus(address=address, received=holdings.received_ranges(connection, image_id, address))


def _partition(statement: bytes) -> PartitionStatement | None:
    """What is endorsed, where that is a partition."""
    try:
        found = parse_any_endorsement(statement)
    except DocumentError:
        return None  # verification says what is wrong with it
    return found if isinstance(found, PartitionStatement) else None
