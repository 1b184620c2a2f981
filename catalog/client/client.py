"""A catalog as its clients see it: the same values and the same errors, over HTTP.

Whatever an address or an image ID vouches for is checked here or, for contents, by whoever puts the ranges together.
Every answer has a maximum length and every wait an end.
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Self

from catalog.content import multipart_ranges as byteranges
from catalog.content.content_store import accelerator_sizes
from catalog.errors import ContentMismatch, Malformed, Misused, NotFound, Unavailable
from catalog.image.address import Address
from catalog.image.manifest import MAX_MANIFEST, Manifest
from catalog.image.reference import Reference
from catalog.schema.candidates import CandidateEntry, CandidateList, CandidateRequest
from catalog.schema.clusters import ClusterEntries, ClusterEntry, ClusterPublication
from catalog.schema.flat import FlatImage
from catalog.schema.history import MAX_HISTORY_PAGE, HistoryEntry, HistoryPage, verify_chain
from catalog.schema.images import (
    MAX_PAGE_SIZE,
    EndorsementList,
    EndorsementsRequest,
    ImageEntry,
    ImagePage,
    Publication,
    PublicationRequest,
    SignedStatement,
    UploadStatus,
    VoEntry,
    VoPage,
)
from catalog.schema.problems import MAX_PROBLEM
from catalog.schema.revocations import RevocationPage
from catalog.schema.swarms import SwarmGrant, SwarmGrantQuery
from catalog.web.connection import BaseTransport, Connection
from signer.documents import canonical
from signer.verification.revocations import MAX_REVOCATIONS

VERIFY_RATE = 50e6
"""Bytes per second that a catalog re-reads at least: a slow disk, and others waiting."""


class CatalogClient:
    """A connection to one catalog; safe to use from several threads, closed by `close` or as a context manager."""

    def __init__(
        self,
        url: str,
        transport: BaseTransport | None = None,
        *,
        sleep: Callable[[float], None] = time.sleep,
        credential: str = "",
    ) -> None:
        """As :class:`catalog.web.connection.Connection`."""
        self._connection = Connection(url, transport, sleep=sleep, credential=credential)
        self.url = self._connection.url

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
        self._connection.close()

    def pause(self, seconds: float) -> None:
        """Wait before asking again."""
        self._connection.pause(seconds)

    def resolve(self, reference: Reference) -> str:
        """The image ID that a reference stands for; NotFound if there is none. An image ID stands for itself."""
        if reference.image_id is not None:
            return reference.image_id
        path = f"/v1/names/{reference.vo}/{reference.name}"
        if reference.version is not None:
            entry = self._connection.ask(ImageEntry, "GET", f"{path}/{reference.version}")
            if (entry.vo, entry.name, entry.version) != (reference.vo, reference.name, reference.version):
                raise Malformed(
                    f"{self.url}: was asked for {reference} and answered with {entry.vo}/{entry.name}@{entry.version}"
                )
            return entry.image_id
        page = self._connection.ask(ImagePage, "GET", path, params={"limit": "1"})
        if not page.items:
            raise NotFound(f"there is no image {reference} at {self.url}")
        return page.items[0].image_id

    def manifest_bytes(self, image_id: str) -> bytes:
        """A manifest's canonical bytes, checked against the image ID.

        Raises:
            NotFound: no such image is published there.
            ContentMismatch: the catalog sent something else.
        """
        data = self._connection.get(f"/v1/images/{image_id}", MAX_MANIFEST)
        if image_id != "sha256:" + hashlib.sha256(data).hexdigest():
            raise ContentMismatch(f"{self.url}: what it sent as {image_id} is something else; do not use this catalog")
        return data

    def manifest(self, image_id: str) -> Manifest:
        """A manifest, checked against the image ID; errors as in :meth:`manifest_bytes`."""
        return Manifest.parse(self.manifest_bytes(image_id))

    def endorsements(self, image_id: str) -> list[tuple[bytes, bytes]]:
        """(statement, signature) of each endorsement that the catalog holds; nothing about them is checked here."""
        found = self._connection.ask(EndorsementList, "GET", f"/v1/images/{image_id}/endorsements")
        return [one.pair() for one in found.items]

    def freshness_file(self, path: str, limit: int) -> bytes:
        """A file of the freshness metadata or targets, such as metadata/timestamp.json; nothing about it is checked."""
        return self._connection.get(f"/tuf/{path}", limit)

    def flat(self, manifest: Manifest) -> FlatImage:
        """Size and SHA-512 of an image's disk as one file. The first to ask waits while the catalog reads all of it."""
        size = sum(part.size for part in manifest.partitions())
        path = f"/v1/images/{manifest.image_id}/flat"
        return self._connection.ask(FlatImage, "GET", path, patience=size / VERIFY_RATE)

    def data_map(self, address: Address) -> bytes:
        """One bit per 16 KiB of the content, most significant first, set where it is not zero. A hint, unchecked."""
        return self._beside(address, "map")

    def layer(self, address: Address) -> bytes:
        """The piece layer, of the right length; check it with `address.root_of_layer`."""
        return self._beside(address, "layer")

    def hints(self, address: Address) -> bytes:
        """XXH3-64 of every 4 KiB of the content, 8 bytes each. A hint, unchecked."""
        return self._beside(address, "hints")

    def content_range(self, address: Address, start: int, end: int) -> Iterator[bytes]:
        """The bytes from start to end (exclusive) of a content as they arrive; exactly so many, or an error.

        Raises:
            Unavailable: the connection was cut; ask again from where it stopped.
        """
        yield from self._range(f"/v1/blobs/{address}", address, start, end)

    def _range(self, path: str, address: Address, start: int, end: int) -> Iterator[bytes]:
        headers = {"Range": f"bytes={start}-{end - 1}"}
        left = end - start
        with self._connection.stream("GET", path, headers=headers) as answer:
            if answer.headers.get("content-range") != f"bytes {start}-{end - 1}/{address.size}":
                raise Malformed(f"{answer.url}: answered with another range than bytes {start}-{end - 1}")
            for piece in answer.iter_raw():
                if len(piece) > left:
                    raise Malformed(f"{answer.url}: sent more than the {end - start} bytes asked for")
                left -= len(piece)
                yield piece
        if left:
            raise Unavailable(f"{self.url}: the range bytes {start}-{end - 1} of {address} was cut {left} bytes early")

    def content_ranges(self, address: Address, ranges: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        """The bytes of several ranges of a content, one after the other, in one request; exactly so many, or an error.

        Args:
            ranges: (start, end) of each, in order, with gaps between them; at most `byteranges.MAX_RANGES`.

        Raises:
            Unavailable: the connection was cut; ask again from where it stopped.
            Malformed, RangeRefused: what answers there does not know several ranges; ask for them one by one.
        """
        if len(ranges) == 1:
            yield from self.content_range(address, *ranges[0])
            return
        left = sum(end - start for start, end in ranges)
        headers = {"Range": byteranges.format_ranges(ranges)}
        with self._connection.stream("GET", f"/v1/blobs/{address}", headers=headers) as answer:
            boundary = byteranges.parse_boundary(answer.headers.get("content-type", ""))
            for piece in byteranges.read_parts(answer.iter_raw(), boundary, ranges, address.size):
                left -= len(piece)
                yield piece
        if left:
            raise Unavailable(f"{self.url}: {len(ranges)} ranges of {address} were cut {left} bytes early")

    def grant(self, address: Address, node: str, request: str | None = None) -> SwarmGrant:
        """What opens the swarm of a content to a node of that name; NotFound where this node's site may not read it.

        Args:
            request: a certificate request (PEM), without which restricted contents are refused.
        """
        wanted = canonical(SwarmGrantQuery(address=address, node=node, request=request))
        return self._connection.ask(SwarmGrant, "POST", "/v1/swarms/grants", content=wanted)

    def images(self, vo: str | None = None, name: str | None = None) -> Iterator[ImageEntry]:
        """Every published image, last published first, read page by page."""
        params = {"limit": str(MAX_PAGE_SIZE)} | ({"vo": vo} if vo else {}) | ({"name": name} if name else {})
        while True:
            page = self._connection.ask(ImagePage, "GET", "/v1/images", params=params)
            yield from page.items
            if page.next is None or page.next == params.get("cursor"):
                return
            params["cursor"] = page.next

    def history(self) -> Iterator[HistoryEntry]:
        """All that the catalog ever accepted, the oldest first, read page by page; ContentMismatch if it was changed."""

        def pages() -> Iterator[HistoryEntry]:
            params = {"limit": str(MAX_HISTORY_PAGE)}
            while True:
                page = self._connection.ask(HistoryPage, "GET", "/v1/history", params=params)
                yield from page.items
                if page.next is None or page.next == params.get("cursor"):
                    return
                params["cursor"] = page.next

        return verify_chain(pages())

    def vos(self) -> Iterator[VoEntry]:
        """Every registered VO, by name."""
        params = {"limit": str(MAX_PAGE_SIZE)}
        while True:
            page = self._connection.ask(VoPage, "GET", "/v1/vos", params=params)
            yield from page.items
            if page.next is None or page.next == params.get("cursor"):
                return
            params["cursor"] = page.next

    def begin(self, manifest: bytes, endorsements: list[tuple[bytes, bytes]]) -> Publication:
        """Begin a publication, or go on with it; says which contents are missing."""
        if not endorsements:
            raise Misused("nobody endorses this image; run `partita endorse` on its directory first")
        offered = tuple(SignedStatement.of(*pair) for pair in endorsements)
        request = PublicationRequest(manifest=manifest.decode("utf-8"), endorsements=offered)
        return self._connection.ask(Publication, "POST", "/v1/publications", content=canonical(request))

    def offer(self, manifest: bytes) -> Publication:
        """Offer an image that nobody has endorsed, or go on with it; says which contents are missing.

        Raises:
            NotEntitled: the credential shown is not that of a site that serves its VO, or the image has no parent there.
        """
        request = CandidateRequest(manifest=manifest.decode("utf-8"))
        return self._connection.ask(Publication, "POST", "/v1/candidates", content=canonical(request))

    def candidates(self, vo: str | None = None) -> tuple[CandidateEntry, ...]:
        """The images that wait for an endorsement, of the VOs that the site whose credential is shown serves."""
        return self._connection.ask(CandidateList, "GET", "/v1/candidates", params={"vo": vo} if vo else {}).items

    def upload_status(self, image_id: str, address: Address) -> UploadStatus:
        """What the catalog has safely stored of a content that is being sent."""
        return self._connection.ask(UploadStatus, "GET", f"/v1/publications/{image_id}/blobs/{address}")

    def send_range(self, image_id: str, address: Address, start: int, data: bytes) -> UploadStatus:
        """Send a range of a content; when this returns, the catalog has stored it safely."""
        headers = {
            "Content-Range": f"bytes {start}-{start + len(data) - 1}/{address.size}",
            "Content-Type": "application/octet-stream",
        }
        path = f"/v1/publications/{image_id}/blobs/{address}"
        return self._connection.ask(UploadStatus, "PUT", path, content=data, headers=headers)

    def complete(self, image_id: str, address: Address) -> UploadStatus:
        """Have the catalog verify a content that was sent; ContentMismatch if it was not what its address says."""
        path = f"/v1/publications/{image_id}/blobs/{address}/complete"
        return self._connection.ask(UploadStatus, "POST", path, patience=address.size / VERIFY_RATE)

    def commit(self, image_id: str) -> Publication:
        """Make the image visible; Conflict while contents are missing."""
        return self._connection.ask(Publication, "POST", f"/v1/publications/{image_id}/commit")

    def revocations(self) -> list[tuple[bytes, bytes]]:
        """(statement, signature) of every revocation that the catalog holds; nothing about them is checked here."""
        found: list[tuple[bytes, bytes]] = []
        cursor: str | None = "0"
        while cursor is not None and len(found) <= MAX_REVOCATIONS:
            page = self._connection.ask(RevocationPage, "GET", "/v1/revocations", params={"cursor": cursor})
            found += [one.pair() for one in page.items]
            cursor = page.next
        return found

    def revoke(self, statement: bytes, signature: bytes) -> None:
        """Hand a revocation to the catalog; NotEntitled if its signer is no registered key of the VO."""
        offered = canonical(SignedStatement.of(statement, signature))
        self._connection.attempt("POST", "/v1/revocations", MAX_PROBLEM, content=offered)

    def endorse(self, image_id: str, endorsements: list[tuple[bytes, bytes]]) -> None:
        """Add endorsements to a published image."""
        offered = tuple(SignedStatement.of(*pair) for pair in endorsements)
        path = f"/v1/images/{image_id}/endorsements"
        self._connection.attempt(
            "POST", path, MAX_PROBLEM, content=canonical(EndorsementsRequest(endorsements=offered))
        )

    def publish_cluster(self, document: bytes, endorsements: Sequence[tuple[bytes, bytes]]) -> ClusterEntry:
        """Publish a cluster document (canonical JSON) under the name that its endorsements give it."""
        offered = tuple(SignedStatement.of(*pair) for pair in endorsements)
        try:
            request = ClusterPublication(document=document.decode("utf-8"), endorsements=offered)
        except UnicodeDecodeError as exc:
            raise Malformed(f"a cluster document is not UTF-8 at byte {exc.start}") from exc
        return self._connection.ask(ClusterEntry, "POST", "/v1/clusters", content=canonical(request))

    def endorse_cluster(self, digest: str, endorsements: Sequence[tuple[bytes, bytes]]) -> None:
        """Add endorsements to a published cluster document."""
        offered = tuple(SignedStatement.of(*pair) for pair in endorsements)
        path = f"/v1/clusters/{digest}/endorsements"
        self._connection.attempt(
            "POST", path, MAX_PROBLEM, content=canonical(EndorsementsRequest(endorsements=offered))
        )

    def clusters(self, vo: str | None = None) -> Iterator[ClusterEntry]:
        """All published cluster documents, last published first, read page by page."""
        params = {"vo": vo} if vo else {}
        while True:
            page = self._connection.ask(ClusterEntries, "GET", "/v1/clusters", params=params)
            yield from page.items
            if page.next is None:
                return
            params["cursor"] = page.next

    def candidate_view(self) -> "CatalogClient":
        """This catalog with its candidates in the place of published images: their manifests and contents, no endorsements."""
        return _CandidateView(self, self._connection)

    def _beside(self, address: Address, kind: str) -> bytes:
        length = accelerator_sizes(address)[kind]
        data = self._connection.get(f"/v1/blobs/{address}/{kind}", length)
        if len(data) != length:
            raise Malformed(f"{self.url}: the {kind} of {address} has {len(data)} bytes, and should have {length}")
        return data


class _CandidateView(CatalogClient):
    """A catalog whose images are its candidates: manifests and contents have paths of their own; none is endorsed."""

    def __init__(self, of: CatalogClient, connection: Connection) -> None:
        self._connection, self.url, self._image_id = connection, of.url, ""

    def manifest_bytes(self, image_id: str) -> bytes:
        """See there."""
        data = self._connection.get(f"/v1/candidates/{image_id}", MAX_MANIFEST)
        if image_id != "sha256:" + hashlib.sha256(data).hexdigest():
            raise ContentMismatch(f"{self.url}: what it sent as {image_id} is something else; do not use this catalog")
        self._image_id = image_id
        return data

    def endorsements(self, image_id: str) -> list[tuple[bytes, bytes]]:  # noqa: ARG002 - as there
        """None."""
        return []

    def data_map(self, address: Address) -> bytes:
        """Nothing is said to be zero: what is not published has nothing beside it that is told."""
        return b"\xff" * accelerator_sizes(address)["map"]

    def content_range(self, address: Address, start: int, end: int) -> Iterator[bytes]:
        """See there."""
        yield from self._range(f"/v1/candidates/{self._image_id}/blobs/{address}", address, start, end)
