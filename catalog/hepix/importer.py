"""Images from a HEPiX list, taken in the one safe order: signature, endorser, subscription, dates, version, file.

Source: what vmcatcher does, with the holes closed that its kin have: who signed is compared with who the list says, a
list is never read unsigned, and one version stands for one content.
"""

import hashlib
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

from catalog.builder.disk_import import BuiltImage, ImportOptions, import_disk
from catalog.builder.recipe import ImageIdentity
from catalog.disk.inspector import MAX_VIRTUAL_SIZE, DiskFormat
from catalog.errors import ContentMismatch, DiskRefused, Malformed, Misused, Stale, TooLarge, Unavailable, Unverified
from catalog.hepix.image_list import ImageList, ListedImage, read_list
from catalog.hepix.subscriptions import ListEndorser, Subscription, Subscriptions, check_list, choose_images
from catalog.web.connection import Connection
from signer.documents import validate
from signer.errors import SignatureError
from signer.runtime.progress import ProgressBars, no_progress_bars
from signer.verification.smime import MAX_MESSAGE, read_message, verify_message
from signer.x509.cms_verifier import X509Rules

FORMATS: dict[str, DiskFormat] = {"raw": "raw", "qcow2": "qcow2"}
"""What `hv:format` may say, in lower case. Archives (OVA) and VMDK are not taken: their makers publish raw or qcow2 too."""

MEMORY, CORES = 1024, 1
"""MiB, number: what an image needs whose list does not say."""

_NOT_NAME = re.compile(r"[^a-z0-9._-]+")
_NOT_VERSION = re.compile(r"[^A-Za-z0-9.+_~-]+")


@dataclass(frozen=True)
class ImportRequest:
    """What a site wants of a list.

    Attributes:
        vo: under whose name the images will be published here.
        endorser: whom the site believes for a list that it has not subscribed to yet; None for known lists only.
        images: identifiers of those to take; empty takes what was taken before.
        every: take all.
        format: of files whose list does not say; None refuses them.
        max_bytes: the largest file that is downloaded.
    """

    vo: str
    endorser: ListEndorser | None = None
    images: frozenset[str] = frozenset()
    every: bool = False
    format: DiskFormat | None = None
    max_bytes: int = MAX_VIRTUAL_SIZE


@dataclass(frozen=True)
class ImportResult:
    """An image that was taken from a list, and the directory that it is in."""

    listed: ListedImage
    made: BuiltImage


def read_source(source: str) -> bytes:
    """The message at an http(s) URL, or in a file; never more than a message may have."""
    if "://" in source:
        with _download(source) as pieces:
            return b"".join(_capped(pieces, MAX_MESSAGE, source))
    try:
        with Path(source).open("rb") as file:
            return b"".join(_capped(iter(lambda: file.read(1 << 20), b""), MAX_MESSAGE, source))
    except OSError as exc:
        raise Misused(f"{source}: cannot be read ({exc.strerror})") from exc


def open_list(
    message: bytes, known: Subscriptions, order: ImportRequest, rules: X509Rules, now: datetime
) -> tuple[ImageList, Subscription]:
    """The list in a message, believed, and the subscription as it is after it; nothing is written down yet.

    Raises:
        Unverified, Stale, Equivocation, NotEntitled: it is not believed, or nothing in it was asked for; says why.
        Malformed: it is no list.
    """
    try:
        parts = read_message(message)
        signer = verify_message(parts, rules, now)
    except SignatureError as exc:
        raise Unverified(f"the image list is not believed: {exc}") from exc
    found = read_list(parts.text)
    by = ListEndorser(signer.subject, signer.issuer)
    held = known.get(found.identifier)
    if held is None:
        if order.endorser is None:
            raise Unverified(
                f"the list {found.identifier} ({found.title}) is new here; say whom you believe for it with "
                "--endorser-dn and --endorser-ca. Nobody is believed because a list says so"
            )
        held = Subscription(identifier=found.identifier, dn=order.endorser.dn, ca=order.endorser.ca)
    check_list(found, message, by, held, now)
    chosen = choose_images(found, held, order.images, every=order.every)
    return found, held.model_copy(
        update={
            "version": found.version,
            "digest": hashlib.sha256(message).hexdigest(),
            "accepted": now.replace(microsecond=0),
            "images": tuple(sorted({*held.images, *chosen})),
        }
    )


def import_image(
    found: ImageList,
    listed: ListedImage,
    target: Path,
    order: ImportRequest,
    now: datetime,
    bars: ProgressBars = no_progress_bars,
) -> ImportResult:
    """Download one image, check its size and SHA-512, and import its disk.

    Args:
        found: the list, believed.
        listed: the image in it.
        target: the image directory to make; absent or empty.
        order: what the site wants.
        now: the time.
        bars: shows how far each step is.

    Raises:
        ContentMismatch: the file is another one than was endorsed.
        TooLarge, Unavailable, Misused: it cannot be downloaded.
        Stale: its endorsement has expired.
        DiskRefused: it is no disk that may be imported.
    """
    if listed.expires is not None and listed.expires <= now:
        raise Stale(
            f"the endorsement of {listed.title} {listed.version} expired on {listed.expires:%Y-%m-%d %H:%M} UTC"
        )
    if listed.size > order.max_bytes:
        raise TooLarge(f"{listed.title} {listed.version} has {listed.size} bytes; at most {order.max_bytes} are taken")
    named = FORMATS.get(listed.format.lower()) if listed.format else order.format
    if named is None:
        said = f"has the format {listed.format[:40]!r}" if listed.format else "has no format in its list"
        raise DiskRefused(
            f"{listed.title} {listed.version} {said}; formats are never guessed: --format names one of {', '.join(FORMATS)}"
        )
    identity = image_identity(found, listed, order.vo)
    target.parent.mkdir(parents=True, exist_ok=True)
    room = shutil.disk_usage(target.parent).free
    if listed.size > room:
        raise TooLarge(f"{listed.title} has {listed.size} bytes and {target.parent} has room for {room}")
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".hepix-") as scratch:
        disk = Path(scratch) / "disk"
        with bars(f"downloading {listed.title}", listed.size) as advance:
            _fetch(listed, disk, advance)
        return ImportResult(
            listed, import_disk(disk, named, identity, target, ImportOptions(max_size=order.max_bytes), bars)
        )


def image_identity(found: ImageList, listed: ListedImage, vo: str) -> ImageIdentity:
    """What an image from a list is called here: its title and version, in the letters that names here have."""
    name = _NOT_NAME.sub("-", listed.title.lower()).strip("._-")[:128].strip("._-")
    version = _NOT_VERSION.sub("-", listed.version).strip(".+_~-")[:64].strip(".+_~-")
    system = {
        "id": _NOT_NAME.sub("-", listed.os.lower()).strip("._-")[:64] or "linux",
        "version": _NOT_VERSION.sub("-", listed.os_version)[:64],
    }
    document = {
        "vo": vo,
        "name": name,
        "version": version,
        "architecture": {"amd64": "x86_64", "arm64": "aarch64"}.get(listed.architecture, listed.architecture),
        "os": system,
        "needs": {"memory": f"{max(16, listed.memory or MEMORY)}MiB", "cores": max(1, listed.cores or CORES)},
        "provenance": [
            {"rel": "hepix-list", "href": f"urn:uuid:{found.identifier}"},
            {"rel": "hepix-image", "href": f"urn:uuid:{listed.identifier}"},
            {"rel": "hepix-endorser", "href": found.dn[:1024]},
        ],
    }
    return validate(ImageIdentity, document, f"image {listed.identifier} of the list")


def _fetch(listed: ListedImage, path: Path, advance: Callable[[int], None]) -> None:
    digest, size = hashlib.sha512(), 0
    what = f"{listed.title} {listed.version}"
    with _download(listed.uri) as pieces, path.open("xb") as file:
        for piece in pieces:
            size += len(piece)
            if size > listed.size:
                raise ContentMismatch(f"{what}: more than the {listed.size} endorsed bytes came; nothing was kept")
            digest.update(piece)
            file.write(piece)
            advance(len(piece))
    if size != listed.size:
        raise ContentMismatch(f"{what}: {size} bytes came and {listed.size} were endorsed; nothing was kept")
    if digest.hexdigest() != listed.sha512:
        raise ContentMismatch(f"{what}: what came has not the SHA-512 that was endorsed; nothing was kept")


@contextmanager
def _download(url: str) -> Iterator[Iterator[bytes]]:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.netloc or "@" in parts.netloc:
        raise Misused(f"{url[:200]!r} is no URL that is followed here; only http and https, without a user, are")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    with (
        closing(Connection(f"{parts.scheme}://{parts.netloc}")) as connection,
        connection.plain(path) as (status, pieces),
    ):
        if status != 200:
            raise Unavailable(f"{url[:200]}: answered {status} and not with a file; redirections are not followed")
        yield pieces


def _capped(pieces: Iterator[bytes], limit: int, what: str) -> Iterator[bytes]:
    size = 0
    for piece in pieces:
        size += len(piece)
        if size > limit:
            raise Malformed(f"{what[:200]}: has more than the {limit} bytes that an image list may have")
        yield piece
