"""HTTP client of a catalog: the same values and the same errors as on the server.

A manifest is checked against its image ID here; a content is checked against its address by the caller that assembles the
ranges. Every answer has a maximum length and every wait an end.
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Literal

from catalog.content import multipart_ranges
from catalog.content.content_store import AcceleratorKind, accelerator_sizes
from catalog.errors import ContentMismatch, Malformed, Misused, NotFound, Unavailable
from catalog.image.address import Address
from catalog.image.manifest import MAX_MANIFEST, Manifest
from catalog.image.reference import Reference
from catalog.schema.candidates import CandidateEntry, CandidateList, CandidateRequest
from catalog.schema.clusters import ClusterEntries, ClusterEntry, ClusterPublication
from catalog.schema.history import MAX_HISTORY_PAGE, HistoryEntry, HistoryPage, verify_chain
from catalog.schema.images import (
    MAX_PAGE_SIZE,
    EndorsementList,
    EndorsementsRequest,
    FlatImage,
    ImageEntry,
    ImagePage,
    Publication,
    PublicationRequest,
    RevocationPage,
    SignedStatement,
    UploadStatus,
    VoEntry,
    VoPage,
)
from catalog.schema.problems import MAX_PROBLEM
from catalog.schema.swarms import SwarmGrant, SwarmGrantQuery
from catalog.web.connection import BaseTransport, Connection
from signer.documents import canonical
from signer.runtime.closing import Closable
from signer.runtime.paging import walk_pages
from signer.verification.revocations import MAX_REVOCATIONS

VERIFY_RATE = 50e6
"""Bytes per second that a catalog re-reads at the least: a slow disk that other requests use too."""

Page = ImagePage | VoPage | HistoryPage | ClusterEntries | RevocationPage


class CatalogClient(Closable):
    """A connection to one catalog; safe to use from several threads."""

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

    def close(self) -> None:
        """Close the connections."""
        self._connection.close()

    def pause(self, seconds: float) -> None:
        """Wait before asking again."""
        self._connection.pause(seconds)

    def resolve(self, reference: Reference) -> str:
        """The image ID that a reference stands for; NotFound if no image matches. An image ID stands for itself."""
        if reference.image_id is not None:
            return reference.image_id
        path = f"/v1/names/{reference.vo}/{reference.name}"
        if reference.version is not None:
            entry = self._connection.ask(ImageEntry, "GET", f"{path}/{reference.version}")
            if (entry.vo, entry.name, entry.version) != (reference.vo, reference.name, reference.version):
                found = entry.title
                raise Malformed(f"{self.url}: answered a request for {reference} with {found}")
            return entry.image_id
        page = self._connection.ask(ImagePage, "GET", path, params={"limit": "1"})
        if not page.items:
            raise NotFound(f"no image {reference} at {self.url}")
        return page.items[0].image_id

    def manifest_bytes(self, image_id: str) -> bytes:
        """A manifest's canonical bytes, checked against the image ID.

        Raises:
            NotFound: no such image is published there.
            ContentMismatch: the catalog sent another manifest.
        """
        return self._manifest(f"/v1/images/{image_id}", image_id)

    def _manifest(self, path: str, image_id: str) -> bytes:
        data = self._connection.attempt("GET", path, MAX_MANIFEST)
        if image_id != "sha256:" + hashlib.sha256(data).hexdigest():
            raise ContentMismatch(f"{self.url}: sent another manifest for {image_id}; do not use this catalog")
        return data

    def manifest(self, image_id: str) -> Manifest:
        """A manifest, checked against the image ID; errors as in :meth:`manifest_bytes`."""
        return Manifest.parse(self.manifest_bytes(image_id))

    def endorsements(self, image_id: str) -> list[tuple[bytes, bytes]]:
        """(statement, signature) of each endorsement that the catalog holds, unverified."""
        found = self._connection.ask(EndorsementList, "GET", f"/v1/images/{image_id}/endorsements")
        return [one.pair() for one in found.items]

    def tuf_file(self, path: str, limit: int) -> bytes:
        """A file of the TUF metadata or targets, such as metadata/timestamp.json, unverified."""
        return self._connection.attempt("GET", f"/tuf/{path}", limit)

    def flat(self, manifest: Manifest) -> FlatImage:
        """Size and SHA-512 of an image's disk as one file. The first request waits while the catalog reads all of it."""
        size = sum(partition.size for partition in manifest.partitions())
        path = f"/v1/images/{manifest.image_id}/flat"
        return self._connection.ask(FlatImage, "GET", path, patience=size / VERIFY_RATE)

    def accelerator(self, address: Address, kind: AcceleratorKind) -> bytes:
        """An accelerator of a content, of the right length, unverified."""
        length = accelerator_sizes(address)[kind]
        data = self._connection.attempt("GET", f"/v1/contents/{address}/{kind}", length)
        if len(data) != length:
            raise Malformed(f"{self.url}: the {kind} of {address} has {len(data)} bytes, and should have {length}")
        return data

    def content_range(self, address: Address, start: int, end: int) -> Iterator[bytes]:
        """The bytes from start to end (exclusive) of a content as they arrive; never more or fewer without an error.

        Raises:
            Unavailable: the connection was cut; ask again from where it stopped.
        """
        yield from self._range(f"/v1/contents/{address}", address, start, end)

    def _range(self, path: str, address: Address, start: int, end: int) -> Iterator[bytes]:
        headers = {"Range": f"bytes={start}-{end - 1}"}
        left = end - start
        with self._connection.stream("GET", path, headers=headers) as answer:
            if answer.headers.get("content-range") != f"bytes {start}-{end - 1}/{address.size}":
                raise Malformed(f"{answer.url}: answered with another range than bytes {start}-{end - 1}")
            for chunk in answer.iter_raw():
                if len(chunk) > left:
                    raise Malformed(f"{answer.url}: sent more than the {end - start} bytes asked for")
                left -= len(chunk)
                yield chunk
        if left:
            raise Unavailable(f"{self.url}: bytes {start}-{end - 1} of {address} ended {left} bytes early")

    def content_ranges(self, address: Address, ranges: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        """The bytes of several ranges of a content, one after the other, from one request; all of them, or an error.

        Args:
            ranges: (start, end) of each, in order, with gaps between them; at most `multipart_ranges.MAX_RANGES`.

        Raises:
            Unavailable: the connection was cut; ask again from where it stopped.
            Malformed, RangeRefused: the server does not support several ranges; ask for them one by one.
        """
        if len(ranges) == 1:
            yield from self.content_range(address, *ranges[0])
            return
        left = sum(end - start for start, end in ranges)
        headers = {"Range": multipart_ranges.format_ranges(ranges)}
        with self._connection.stream("GET", f"/v1/contents/{address}", headers=headers) as answer:
            boundary = multipart_ranges.parse_boundary(answer.headers.get("content-type", ""))
            for chunk in multipart_ranges.read_parts(answer.iter_raw(), boundary, ranges, address.size):
                left -= len(chunk)
                yield chunk
        if left:
            raise Unavailable(f"{self.url}: {len(ranges)} ranges of {address} ended {left} bytes early")

    def grant(self, address: Address, node: str, request: str | None = None) -> SwarmGrant:
        """A grant that admits a node of that name to a content's swarm; NotFound where its site may not read the content.

        Args:
            request: a certificate request (PEM), needed for restricted contents.
        """
        query = canonical(SwarmGrantQuery(address=address, node=node, request=request))
        return self._connection.ask(SwarmGrant, "POST", "/v1/swarms/grants", content=query)

    def images(self, vo: str | None = None, name: str | None = None) -> Iterator[ImageEntry]:
        """Every published image, last published first, read page by page."""
        params = {"limit": str(MAX_PAGE_SIZE)} | ({"vo": vo} if vo else {}) | ({"name": name} if name else {})
        return self._items(ImagePage, "/v1/images", params)

    def history(self) -> Iterator[HistoryEntry]:
        """All that the catalog ever accepted, oldest first, read page by page; ContentMismatch if it was altered."""
        return verify_chain(self._items(HistoryPage, "/v1/history", {"limit": str(MAX_HISTORY_PAGE)}))

    def vos(self) -> Iterator[VoEntry]:
        """Every registered VO, by name."""
        return self._items(VoPage, "/v1/vos", {"limit": str(MAX_PAGE_SIZE)})

    def clusters(self, vo: str | None = None) -> Iterator[ClusterEntry]:
        """All published cluster documents, last published first, read page by page."""
        return self._items(ClusterEntries, "/v1/clusters", {"vo": vo} if vo else {})

    def _items(self, kind: type[Page], path: str, params: Mapping[str, str]) -> Iterator[Any]:
        """The items of a list, read page by page."""

        def read(cursor: str | None) -> tuple[tuple[Any, ...], str | None]:
            following = {} if cursor is None else {"cursor": cursor}
            page = self._connection.ask(kind, "GET", path, params={**params, **following})
            return page.items, page.next

        return walk_pages(read)

    def begin(self, manifest: bytes, endorsements: list[tuple[bytes, bytes]]) -> Publication:
        """Begin or continue a publication; the answer says which contents are missing."""
        if not endorsements:
            raise Misused("the image has no endorsement; run `partita endorse` on its directory first")
        request = PublicationRequest(manifest=manifest.decode("utf-8"), endorsements=_statements(endorsements))
        return self._connection.ask(Publication, "POST", "/v1/publications", content=canonical(request))

    def offer(self, manifest: bytes) -> Publication:
        """Offer an image without endorsements, or continue to; the answer says which contents are missing.

        Raises:
            NotEntitled: the client's credential is not that of a site that serves its VO, or no parent is published there.
        """
        request = CandidateRequest(manifest=manifest.decode("utf-8"))
        return self._connection.ask(Publication, "POST", "/v1/candidates", content=canonical(request))

    def candidates(self, vo: str | None = None) -> tuple[CandidateEntry, ...]:
        """The images that wait for an endorsement, of the VOs that the client's site serves."""
        return self._connection.ask(CandidateList, "GET", "/v1/candidates", params={"vo": vo} if vo else {}).items

    def upload_status(self, image_id: str, address: Address) -> UploadStatus:
        """The ranges that the catalog has safely stored of a content that is being sent."""
        return self._connection.ask(UploadStatus, "GET", f"/v1/publications/{image_id}/contents/{address}")

    def send_range(self, image_id: str, address: Address, start: int, data: bytes) -> UploadStatus:
        """Send a range of a content; when this returns, the catalog has stored it safely."""
        headers = {
            "Content-Range": f"bytes {start}-{start + len(data) - 1}/{address.size}",
            "Content-Type": "application/octet-stream",
        }
        path = f"/v1/publications/{image_id}/contents/{address}"
        return self._connection.ask(UploadStatus, "PUT", path, content=data, headers=headers)

    def complete(self, image_id: str, address: Address) -> UploadStatus:
        """Have the catalog verify a content that was sent; ContentMismatch if its bytes do not have the address."""
        path = f"/v1/publications/{image_id}/contents/{address}/complete"
        return self._connection.ask(UploadStatus, "POST", path, patience=address.size / VERIFY_RATE)

    def commit(self, image_id: str) -> Publication:
        """Make the image visible; Conflict while contents are missing."""
        return self._connection.ask(Publication, "POST", f"/v1/publications/{image_id}/commit")

    def revocations(self) -> list[tuple[bytes, bytes]]:
        """(statement, signature) of every revocation that the catalog holds, unverified."""
        found = self._items(RevocationPage, "/v1/revocations", {"cursor": "0"})
        return [one.pair() for one in islice(found, MAX_REVOCATIONS + 1)]

    def revoke(self, statement: bytes, signature: bytes) -> None:
        """Send a revocation to the catalog; NotEntitled if no registered key of the VO signed it."""
        offered = canonical(SignedStatement.of(statement, signature))
        self._connection.attempt("POST", "/v1/revocations", MAX_PROBLEM, content=offered)

    def endorse(
        self, digest: str, endorsements: Sequence[tuple[bytes, bytes]], kind: Literal["images", "clusters"] = "images"
    ) -> None:
        """Add endorsements to a published image or cluster document."""
        request = canonical(EndorsementsRequest(endorsements=_statements(endorsements)))
        self._connection.attempt("POST", f"/v1/{kind}/{digest}/endorsements", MAX_PROBLEM, content=request)

    def publish_cluster(self, document: bytes, endorsements: Sequence[tuple[bytes, bytes]]) -> ClusterEntry:
        """Publish a cluster document (canonical JSON) under the name that its endorsements give it."""
        try:
            request = ClusterPublication(document=document.decode("utf-8"), endorsements=_statements(endorsements))
        except UnicodeDecodeError as exc:
            raise Malformed(f"a cluster document is not UTF-8 at byte {exc.start}") from exc
        return self._connection.ask(ClusterEntry, "POST", "/v1/clusters", content=canonical(request))


def _statements(pairs: Sequence[tuple[bytes, bytes]]) -> tuple[SignedStatement, ...]:
    return tuple(SignedStatement.of(*pair) for pair in pairs)


class CandidateView(CatalogClient):
    """A catalog with candidates in place of published images: manifests and contents, which have paths of their own."""

    def __init__(self, of: CatalogClient) -> None:
        self._connection, self.url, self._image_id = of._connection, of.url, ""  # noqa: SLF001 - of the same class

    def manifest_bytes(self, image_id: str) -> bytes:
        """A candidate's manifest, as `CatalogClient.manifest_bytes`; its contents can be read afterwards."""
        data = self._manifest(f"/v1/candidates/{image_id}", image_id)
        self._image_id = image_id
        return data

    def endorsements(self, image_id: str) -> list[tuple[bytes, bytes]]:  # noqa: ARG002 - the base class's signature
        """Always empty: a candidate has no endorsements."""
        return []

    def accelerator(self, address: Address, kind: AcceleratorKind) -> bytes:
        """A map without zeros, for instance: the catalog serves no accelerators of candidates."""
        return b"\xff" * accelerator_sizes(address)[kind]

    def content_range(self, address: Address, start: int, end: int) -> Iterator[bytes]:
        """A range of a candidate's content, as `CatalogClient.content_range`."""
        yield from self._range(f"/v1/candidates/{self._image_id}/contents/{address}", address, start, end)
