"""A site's subscriptions to HEPiX lists, and the decision whether it accepts the next list.

DIRECTORY/<list's identifier>/subscription.json    the list's trusted endorser, and the version accepted last
DIRECTORY/<list's identifier>/<version>-<digest>.smime    every accepted message, as it was received
"""

import hashlib
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated

from pydantic import Field

from catalog.errors import Equivocation, Malformed, NotEntitled, Stale, Unverified
from catalog.hepix.image_list import ImageList, version_order
from signer.documents import Document, canonical, parse
from signer.runtime import files
from signer.statements.endorsement import Instant

SKEW = timedelta(minutes=5)
"""How far the clock of a list's maker may be ahead."""

MAX_SUBSCRIPTION = 1 << 20
"""Bytes."""

SubscriptionText = Annotated[str, Field(min_length=1, max_length=4096)]


class Subscription(Document):
    """A list that a site imports images from.

    Attributes:
        identifier: of the list.
        dn, ca: subject and issuer of its endorser's certificate.
        version: of the list accepted last; empty before the first.
        digest: SHA-256 of that message.
        accepted: when it was accepted.
        images: identifiers of the images that the site imports.
    """

    identifier: SubscriptionText
    dn: SubscriptionText
    ca: SubscriptionText
    version: str = ""
    digest: str = ""
    accepted: Instant | None = None
    images: tuple[str, ...] = ()


@dataclass(frozen=True)
class ListEndorser:
    """The endorser of a list: subject and issuer of the certificate, as `openssl x509 -nameopt compat` writes them."""

    dn: str
    ca: str


def check_list(found: ImageList, message: bytes, signer: ListEndorser, known: Subscription, now: datetime) -> None:
    """Check that a list, whose signature was verified, is the next one of a subscription.

    Raises:
        Unverified: the signer is not the endorser that the list names, or not the trusted one; another or an older list.
        Stale: it has expired, or was made in the future.
        Equivocation: the version was accepted before with another content.
    """
    if signer != ListEndorser(found.endorser.dn, found.endorser.ca):
        raise Unverified(
            f"the list names {found.endorser.dn} (CA {found.endorser.ca}) as its endorser, but {signer.dn} (CA {signer.ca}) signed it"
        )
    if signer != ListEndorser(known.dn, known.ca):
        raise Unverified(
            f"{signer.dn} (CA {signer.ca}) is not the trusted endorser of the list {found.identifier}, which is "
            f"{known.dn} (CA {known.ca})"
        )
    if found.identifier != known.identifier:
        raise Unverified(f"the list is {found.identifier}, but the subscription is to {known.identifier}")
    if found.created > now + SKEW:
        raise Stale(f"the list was made on {found.created:%Y-%m-%d %H:%M} UTC, in the future; check both clocks")
    if found.expires <= now:
        raise Stale(f"the list expired on {found.expires:%Y-%m-%d %H:%M} UTC; its endorser must sign a new one")
    if not known.version:
        return
    if version_order(found.version) < version_order(known.version):
        raise Unverified(f"the list has version {found.version}, older than {known.version}, which was accepted before")
    if (
        version_order(found.version) == version_order(known.version)
        and hashlib.sha256(message).hexdigest() != known.digest
    ):
        raise Equivocation(
            f"two lists {found.identifier} have the version {found.version} and different contents; ask their endorser"
        )


def choose_images(found: ImageList, known: Subscription, wanted: frozenset[str], *, every: bool) -> tuple[str, ...]:
    """The images to import: those that are named, all, or those that were imported before.

    Raises:
        NotEntitled: a named image is not listed, or none is chosen; new images are imported only on request.
    """
    listed = [image.identifier for image in found.images]
    if every:
        return tuple(listed)
    if missing := sorted(wanted.difference(listed)):
        raise NotEntitled(f"the list has no image {', '.join(missing)}; it has {', '.join(listed) or 'none'}")
    chosen = tuple(each for each in listed if each in wanted or (not wanted and each in known.images))
    if not chosen:
        raise NotEntitled(
            "new images are imported only on request; name them with --image, or use --all: "
            + ", ".join(f"{image.identifier} ({image.title} {image.version})" for image in found.images)
        )
    return chosen


class Subscriptions:
    """The subscriptions of a site, in a directory."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def get(self, identifier: str) -> Subscription | None:
        """A subscription; None if there is none."""
        try:
            data = self._file(identifier).read_bytes()
        except FileNotFoundError:
            return None
        return parse(Subscription, data, str(self._file(identifier)), limit=MAX_SUBSCRIPTION)

    def keep(self, known: Subscription, message: bytes | None = None) -> None:
        """Store a subscription, and before it the accepted message."""
        file = self._file(known.identifier)
        file.parent.mkdir(parents=True, exist_ok=True)
        if message is not None:
            safe = "".join(char if char.isalnum() else "_" for char in known.version)[:64]
            files.write(file.parent / f"{safe}-{hashlib.sha256(message).hexdigest()[:16]}.smime", message)
        files.write(file, canonical(known))

    def _file(self, identifier: str) -> Path:
        try:
            return self._root / str(uuid.UUID(identifier)) / "subscription.json"
        except ValueError as exc:
            raise Malformed(f"{identifier[:40]!r} is not a list identifier (a UUID)") from exc
