"""Candidates: images that a site offers and nobody has endorsed yet, such as what a machine of its has made of an image.

A candidate is a publication that waits for its first endorsement. A registered site that serves the VO may begin one; what
makes it visible is what makes any image visible: an endorsement by a registered key of the VO. Until then it has no name, is
in no list of images and in no freshness metadata, and is shown to the sites that serve the VO alone: a machine writes secrets
to its disks. It is forgotten after `catalog.pending_days`, like every publication that nobody continues.
"""

from collections.abc import Sequence
from datetime import datetime

from catalog.access.authorizer import CatalogAuthorizer
from catalog.db import images as registry
from catalog.db import publications as holdings
from catalog.db.engine import Transaction
from catalog.errors import NotEntitled, NotFound, TooLarge
from catalog.image.address import Address
from catalog.image.manifest import Manifest
from catalog.publication.images import PublicationService
from catalog.schema.candidates import CandidateEntry
from catalog.schema.images import Publication

MAX_CANDIDATES = 64
"""Candidates of a VO at a time: each may be as large as an image, and waits for a person who looks at it."""


class CandidateService:
    """The use cases, over those of publishing and who may read what."""

    def __init__(self, publishing: PublicationService, readers: CatalogAuthorizer) -> None:
        self._publishing, self._readers = publishing, readers

    def offer(self, manifest_text: str, site: str, now: datetime) -> Publication:
        """Begin a candidate, or go on with it; says which contents are missing. Complete is one that misses none.

        Raises:
            DocumentError: the manifest is malformed.
            TooLarge: the image is larger than this catalog accepts, or too many wait already.
            NotEntitled: nobody in particular asks, the site does not serve the VO, or no published image is its parent.
            Conflict: the name@version names another image.
        """
        manifest = Manifest.parse(manifest_text.encode("utf-8"))
        self._publishing.check_size(manifest)
        if not self._readers.serves(site, manifest.vo):
            who = f"the site {site}" if site else "whoever shows no site's credential"
            raise NotEntitled(
                f"{who} offers nothing to {manifest.vo} here; the catalog's operator registers sites with the VOs that "
                "they serve (`partita catalog site register --vo`)"
            )
        with self._publishing.database.writing() as connection:
            parents = [link.href for link in manifest.provenance if link.rel == "parent"]
            known = (registry.get_manifest(connection, parent) for parent in parents)
            if not any(data is not None and Manifest.parse(data).vo == manifest.vo for data in known):
                raise NotEntitled(f"{manifest.title} was made of no image of {manifest.vo} that is published here")
            waiting = {one.image_id for one in _candidates(connection, manifest.vo)}
            if manifest.image_id not in waiting and len(waiting) >= MAX_CANDIDATES:
                raise TooLarge(
                    f"{len(waiting)} images wait for an endorsement by {manifest.vo} already; try again later"
                )
            return self._publishing.pend(connection, manifest, now)

    def waiting(self, site: str, vo: str | None = None) -> tuple[CandidateEntry, ...]:
        """The candidates that a site may see, of one VO or all; those whose contents are not all here are not complete."""
        with self._publishing.database.reading() as connection:
            return tuple(one for one in _candidates(connection, vo) if self._readers.serves(site, one.vo))

    def manifest(self, site: str, image_id: str) -> Manifest:
        """A candidate's manifest; NotFound where there is none, or the site does not serve its VO."""
        with self._publishing.database.reading() as connection:
            data = holdings.candidate_manifest(connection, image_id)
        manifest = None if data is None else Manifest.parse(data)
        if manifest is None or not self._readers.serves(site, manifest.vo):
            raise NotFound(f"there is no candidate {image_id} here")
        return manifest

    def content(self, site: str, image_id: str, address: Address) -> Address:
        """That a content is a candidate's, and is here; NotFound."""
        if address in self.manifest(site, image_id).contents():
            with self._publishing.database.reading() as connection:
                if holdings.has_content(connection, address):
                    return address
        raise NotFound(f"there is no content {address} of that candidate here")


def _candidates(connection: Transaction, vo: str | None) -> Sequence[CandidateEntry]:
    found = []
    for data, expires in holdings.list_candidates(connection):
        manifest = Manifest.parse(data)
        if vo is None or manifest.vo == vo:
            found.append(
                CandidateEntry(
                    image_id=manifest.image_id,
                    vo=manifest.vo,
                    name=manifest.name,
                    version=manifest.version,
                    size=sum(address.size for address in manifest.contents()),
                    complete=not holdings.missing_contents(connection, manifest.image_id),
                    expires=expires,
                )
            )
    return found
