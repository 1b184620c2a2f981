"""Upload and download of image directories: several ranges at once, resumed where an earlier attempt stopped."""

import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from catalog.client.client import CandidateView, CatalogClient
from catalog.content import indexing
from catalog.errors import ContentMismatch, Misused, NotFound, Unavailable
from catalog.image.address import LEAF, Address
from catalog.image.bundle import Bundle
from catalog.image.reference import Reference
from catalog.schema.images import UPLOAD_PART, Publication
from catalog.web.connection import RETRIES
from signer.runtime import files
from signer.runtime.progress import Advance, ignore_progress

if TYPE_CHECKING:  # it loads the TUF library, which publishers do not need
    from catalog.client.trusted import TrustedCatalog

CONNECTIONS = 4
"""Ranges at once: enough to keep disk and network busy at both ends; more would only queue."""


@dataclass(frozen=True)
class PublishResult:
    """The result of a publication.

    Attributes:
        image_id, title: of the image, now visible.
        sent: bytes sent now.
        present: bytes of content that the catalog already had, or that are zero.
    """

    image_id: str
    title: str
    sent: int
    present: int


def publish_image(
    client: CatalogClient,
    bundle: Bundle,
    advance: Advance = ignore_progress,
    *,
    part: int = UPLOAD_PART,
    connections: int = CONNECTIONS,
) -> PublishResult:
    """Publish an image directory, continuing where an earlier attempt stopped.

    Args:
        client: of the catalog.
        bundle: the image, endorsed.
        advance: called with bytes of content done, sent or not; in total, the sizes of all contents.
        part: bytes in one request, a multiple of 16 KiB.
        connections: requests at once.

    Raises:
        ContentMismatch: a file of the directory does not have the address in its name.
        NotEntitled, Conflict, TooLarge: the catalog does not accept the image, for the reason given.
        Unavailable: the connection to the catalog was lost; run it again to continue.
    """
    publication = client.begin(bundle.manifest.canonical(), bundle.endorsements())
    try:
        result = _send(client, bundle, publication, advance, part, connections)
    except NotFound:  # another client has published the same image meanwhile, which ended this publication
        publication = client.begin(bundle.manifest.canonical(), bundle.endorsements())
        result = _send(client, bundle, publication, ignore_progress, part, connections)
    if publication.state == "pending":
        client.commit(result.image_id)
    return result


def offer_candidate(client: CatalogClient, bundle: Bundle, advance: Advance = ignore_progress) -> PublishResult:
    """Send an image without endorsements, as `publish_image`; it waits at the catalog until its VO endorses it."""
    return _send(client, bundle, client.offer(bundle.manifest.canonical()), advance, UPLOAD_PART, CONNECTIONS)


def _send(
    client: CatalogClient, bundle: Bundle, publication: Publication, advance: Advance, part: int, connections: int
) -> PublishResult:
    """Send the contents that the catalog is missing."""
    manifest, advance = bundle.manifest, _serialised(advance)
    total = sum(address.size for address in manifest.contents())
    missing = {one.address: one.received for one in publication.missing}
    advance(total - sum(address.size for address in missing))
    sent = 0
    with ThreadPoolExecutor(connections) as pool:
        for address, received in missing.items():
            path = bundle.content(address)
            # Reading the whole file before sending finds the zeros, and a file that was altered since it was named.
            measured = indexing.verify_content(path, address)
            parts = list(_parts(subtract_ranges(list(measured.extents()), received), part))
            wanted = sum(end - start for start, end in parts)
            advance(address.size - wanted)
            with files.opened(path, os.O_RDONLY | os.O_NOFOLLOW) as descriptor:

                def send(bounds: tuple[int, int], address: Address = address, descriptor: int = descriptor) -> None:
                    start, end = bounds
                    client.send_range(manifest.image_id, address, start, os.pread(descriptor, end - start, start))
                    advance(end - start)

                for _ in pool.map(send, parts):
                    pass
            client.complete(manifest.image_id, address)
            sent += wanted
    return PublishResult(manifest.image_id, manifest.title, sent, total - sent)


def fetch_image(
    client: "CatalogClient | TrustedCatalog",
    reference: Reference,
    target: Path,
    advance: Advance = ignore_progress,
    *,
    connections: int = CONNECTIONS,
) -> Bundle:
    """Fetch an image into a directory that does not exist or is empty; contents are verified, endorsements are not.

    Raises:
        Misused: the directory is not empty.
        NotFound: the catalog has no such image.
        ContentMismatch: the catalog sent another content.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise Misused(f"{target}: not empty; name a directory that does not exist or is empty")
    advance = _serialised(advance)
    manifest = client.manifest(client.resolve(reference))
    endorsements = client.endorsements(manifest.image_id)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as name:
        fresh = Path(name) / "image"
        (fresh / "blobs").mkdir(parents=True)
        with ThreadPoolExecutor(connections) as pool:
            for address in manifest.contents():
                _fetch_content(client, address, fresh / "blobs" / str(address), pool, advance)
        bundle = Bundle.create(fresh, manifest)
        for statement, signature in endorsements:
            bundle.add_endorsement(statement, signature)
        if target.is_dir():
            target.rmdir()
        shutil.move(fresh, target)
    return Bundle(target, manifest)


def fetch_candidate(client: CatalogClient, image_id: str, target: Path, advance: Advance = ignore_progress) -> Bundle:
    """Fetch an image that has no endorsement yet into a directory, for review; errors as in `fetch_image`."""
    return fetch_image(CandidateView(client), Reference(image_id=image_id), target, advance)


def _fetch_content(
    client: "CatalogClient | TrustedCatalog", address: Address, path: Path, pool: ThreadPoolExecutor, advance: Advance
) -> None:
    extents = list(indexing.decode_data_map(client.accelerator(address, "map"), address.size))
    advance(address.size - sum(length for _, length in extents))
    _fetch_extents(client, address, path, extents, pool, advance)
    try:
        indexing.verify_content(path, address)
    except ContentMismatch:
        # The map is only a hint, and may declare data to be zero. Without it, every byte is fetched.
        _fetch_extents(client, address, path, [(0, address.size)], pool, ignore_progress)
        try:
            indexing.verify_content(path, address)
        except ContentMismatch as exc:
            raise ContentMismatch(f"{client.url}: sent another content for {address}; use another catalog") from exc


def _fetch_extents(
    client: "CatalogClient | TrustedCatalog",
    address: Address,
    path: Path,
    extents: list[tuple[int, int]],
    pool: ThreadPoolExecutor,
    advance: Advance,
) -> None:
    with files.opened(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644) as descriptor:
        os.ftruncate(descriptor, address.size)

        def get(bounds: tuple[int, int]) -> None:
            position, end = bounds
            for delay in RETRIES.pauses():
                try:
                    for chunk in client.content_range(address, position, end):
                        os.pwrite(descriptor, chunk, position)
                        position += len(chunk)
                        advance(len(chunk))
                except Unavailable:
                    if delay is None:
                        raise
                    client.pause(delay)
                if position == end:
                    return

        for _ in pool.map(get, list(_parts(subtract_ranges(extents, ()), UPLOAD_PART))):
            pass


def subtract_ranges(extents: list[tuple[int, int]], received: tuple[tuple[int, int], ...]) -> list[tuple[int, int]]:
    """The extents (offset, length) without the received ranges (start, end), as (start, end) of what is left."""
    left = []
    for offset, length in extents:
        start, end = offset, offset + length
        for low, high in received:
            if high <= start or low >= end:
                continue
            if low > start:
                left.append((start, low))
            start = max(start, high)
        if start < end:
            left.append((start, end))
    return left


def _parts(ranges: list[tuple[int, int]], part: int) -> Iterator[tuple[int, int]]:
    if part % LEAF:
        raise ValueError(f"a part is a multiple of {LEAF} bytes")
    for start, end in ranges:
        for position in range(start, end, part):
            yield position, min(position + part, end)


def _serialised(advance: Advance) -> Advance:
    """An Advance that several threads may call."""
    lock = threading.Lock()

    def locked(done: int) -> None:
        with lock:
            advance(done)

    return locked
