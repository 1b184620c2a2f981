"""Candidates: images that a site offers and that have no endorsement yet, such as an image saved from a machine.

A candidate is a publication that waits for its first endorsement. A registered site that serves the VO may begin one; like
any image it becomes visible by an endorsement of a registered key of the VO. Until then it has no name, is in no list of
images and in no TUF metadata, and only sites that serve the VO can see it: a machine writes secrets to its disks. It is
deleted after `catalog.pending_days`, like every abandoned publication.
"""

from collections.abc import Sequence
from datetime import datetime

from catalog.access.authorizer import CatalogAuthorizer
from catalog.db import publications
from catalog.db.engine import Transaction
from catalog.db.images import get_manifest
from catalog.errors import NotEntitled, NotFound, TooLarge
from catalog.image.address import Address
from catalog.image.manifest import Manifest
from catalog.publication.images import PublicationService
from catalog.schema.candidates import CandidateEntry
from catalog.schema.images import Publication

MAX_CANDIDATES = 64
"""Candidates of a VO at a time: each may be as large as an image, and waits for a person to review it."""


class CandidateService:
    """The use cases of candidates, on top of those of publications."""

    def __init__(self, publishing: PublicationService, authorizer: CatalogAuthorizer) -> None:
        self._publishing, self._authorizer = publishing, authorizer

    def offer(self, manifest_text: str, site: str, now: datetime) -> Publication:
        """Begin or continue a candidate; the answer lists the missing contents, and a complete candidate has none.

        Raises:
            DocumentError: the manifest is malformed.
            TooLarge: the image is larger than this catalog accepts, or too many candidates wait.
            NotEntitled: the request is anonymous, the site does not serve the VO, or no published image is the parent.
            Conflict: the name@version names another image.
        """
        manifest = Manifest.parse(manifest_text.encode("utf-8"))
        self._publishing.check_size(manifest)
        if not self._authorizer.serves(site, manifest.vo):
            who = f"the site {site}" if site else "a request without a site's credential"
            raise NotEntitled(
                f"{who} cannot offer images to {manifest.vo} here; the catalog's operator registers sites with the VOs "
                "that they serve (`partita catalog site register --vo`)"
            )
        with self._publishing.database.writing() as connection:
            parents = [link.href for link in manifest.provenance if link.rel == "parent"]
            known = (get_manifest(connection, parent) for parent in parents)
            if not any(data is not None and Manifest.parse(data).vo == manifest.vo for data in known):
                raise NotEntitled(f"{manifest.title} has no parent among the published images of {manifest.vo} here")
            waiting = {one.image_id for one in _candidates(connection, manifest.vo)}
            if manifest.image_id not in waiting and len(waiting) >= MAX_CANDIDATES:
                raise TooLarge(
                    f"{len(waiting)} images already wait for an endorsement by {manifest.vo}; try again later"
                )
            return self._publishing.put_pending(connection, manifest, now)

    def waiting(self, site: str, vo: str | None = None) -> tuple[CandidateEntry, ...]:
        """The candidates that a site may see, of one VO or all; a candidate is complete when all its contents are here."""
        with self._publishing.database.reading() as connection:
            return tuple(one for one in _candidates(connection, vo) if self._authorizer.serves(site, one.vo))

    def manifest(self, site: str, image_id: str) -> Manifest:
        """A candidate's manifest; NotFound if there is none, or the site does not serve its VO."""
        with self._publishing.database.reading() as connection:
            data = publications.candidate_manifest(connection, image_id)
        manifest = None if data is None else Manifest.parse(data)
        if manifest is None or not self._authorizer.serves(site, manifest.vo):
            raise NotFound(f"no candidate {image_id} here")
        return manifest

    def content(self, site: str, image_id: str, address: Address) -> Address:
        """The address, if it is a content of the candidate and stored here; NotFound otherwise."""
        if address in self.manifest(site, image_id).contents():
            with self._publishing.database.reading() as connection:
                if publications.has_content(connection, address):
                    return address
        raise NotFound(f"that candidate has no content {address} here")


def _candidates(connection: Transaction, vo: str | None) -> Sequence[CandidateEntry]:
    found = []
    for data, expires in publications.list_candidates(connection):
        manifest = Manifest.parse(data)
        if vo is None or manifest.vo == vo:
            found.append(
                CandidateEntry(
                    image_id=manifest.image_id,
                    vo=manifest.vo,
                    name=manifest.name,
                    version=manifest.version,
                    size=sum(address.size for address in manifest.contents()),
                    complete=not publications.missing_contents(connection, manifest.image_id),
                    expires=expires,
                )
            )
    return found
