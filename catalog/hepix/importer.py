"""Import of images from a HEPiX list, in the only safe order: signature, endorser, subscription, dates, version, file.

Source: the behaviour of vmcatcher, without the holes of its relatives: the signer is compared with the endorser that the
list names, an unsigned list is never read, and a version stands for one content only.
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
"""The accepted values of `hv:format`, in lower case. OVA and VMDK are not: their makers publish raw or qcow2 too."""

MEMORY, CORES = 1024, 1
"""MiB and number: the needs of an image whose list does not say."""

_NOT_NAME = re.compile(r"[^a-z0-9._-]+")
_NOT_VERSION = re.compile(r"[^A-Za-z0-9.+_~-]+")


@dataclass(frozen=True)
class ImportRequest:
    """What a site imports from a list.

    Attributes:
        vo: the VO under which the images will be published here.
        endorser: the trusted endorser of a list without a subscription; None accepts subscribed lists only.
        images: identifiers of the images to import; empty imports those that were imported before.
        every: import all images.
        format: of files whose list does not say; None refuses them.
        max_bytes: the largest file that is downloaded.
    """

    vo: str
    endorser: ListEndorser | None = None
    images: frozenset[str] = frozenset()
    every: bool = False
    format: DiskFormat | None = None
    max_bytes: int = MAX_VIRTUAL_SIZE


def read_source(source: str) -> bytes:
    """The message at an http(s) URL or in a file, of at most MAX_MESSAGE bytes."""
    if "://" in source:
        with _download(source) as chunks:
            return b"".join(_capped(chunks, MAX_MESSAGE, source))
    try:
        with Path(source).open("rb") as file:
            return b"".join(_capped(iter(lambda: file.read(1 << 20), b""), MAX_MESSAGE, source))
    except OSError as exc:
        raise Misused(f"{source}: cannot be read ({exc.strerror})") from exc


def open_list(
    message: bytes, known: Subscriptions, request: ImportRequest, rules: X509Rules, now: datetime
) -> tuple[ImageList, Subscription]:
    """The verified list in a message, and the subscription that follows from it; nothing is stored yet.

    Raises:
        Unverified, Stale, Equivocation, NotEntitled: the list is not accepted, or no image in it was requested.
        Malformed: it is not a valid list.
    """
    try:
        parts = read_message(message)
        signer = verify_message(parts, rules, now)
    except SignatureError as exc:
        raise Unverified(f"the image list does not verify: {exc}") from exc
    found = read_list(parts.text)
    by = ListEndorser(signer.subject, signer.issuer)
    subscription = known.get(found.identifier)
    if subscription is None:
        if request.endorser is None:
            raise Unverified(
                f"the list {found.identifier} ({found.title}) is new here; name its trusted endorser with --endorser-dn "
                "and --endorser-ca. What a list says about its own endorser is not trusted"
            )
        subscription = Subscription(identifier=found.identifier, dn=request.endorser.dn, ca=request.endorser.ca)
    check_list(found, message, by, subscription, now)
    chosen = choose_images(found, subscription, request.images, every=request.every)
    return found, subscription.model_copy(
        update={
            "version": found.version,
            "digest": hashlib.sha256(message).hexdigest(),
            "accepted": now.replace(microsecond=0),
            "images": tuple(sorted({*subscription.images, *chosen})),
        }
    )


def import_image(
    found: ImageList,
    listed: ListedImage,
    target: Path,
    request: ImportRequest,
    now: datetime,
    bars: ProgressBars = no_progress_bars,
) -> BuiltImage:
    """Download one image, check its size and SHA-512, and import its disk.

    Args:
        found: the list, verified.
        listed: the image in it.
        target: the image directory to make; absent or empty.
        request: what the site imports.
        now: the time.
        bars: shows the progress of each step.

    Raises:
        ContentMismatch: the file is not the one that was endorsed.
        TooLarge, Unavailable, Misused: it cannot be downloaded.
        Stale: its endorsement has expired.
        DiskRefused: it is not a disk that can be imported.
    """
    if listed.expires is not None and listed.expires <= now:
        raise Stale(
            f"the endorsement of {listed.title} {listed.version} expired on {listed.expires:%Y-%m-%d %H:%M} UTC"
        )
    if listed.size > request.max_bytes:
        raise TooLarge(f"{listed.title} {listed.version} has {listed.size} bytes; the limit is {request.max_bytes}")
    named = FORMATS.get(listed.format.lower()) if listed.format else request.format
    if named is None:
        problem = f"has the format {listed.format[:40]!r}" if listed.format else "has no format in its list"
        raise DiskRefused(
            f"{listed.title} {listed.version} {problem}; formats are never guessed: give --format, one of "
            f"{', '.join(FORMATS)}"
        )
    identity = image_identity(found, listed, request.vo)
    target.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(target.parent).free
    if listed.size > free:
        raise TooLarge(f"{listed.title} has {listed.size} bytes and {target.parent} has only {free} bytes free")
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".hepix-") as scratch:
        disk = Path(scratch) / "disk"
        with bars(f"downloading {listed.title}", listed.size) as advance:
            _fetch(listed, disk, advance)
        return import_disk(disk, named, identity, target, ImportOptions(max_size=request.max_bytes), bars)


def image_identity(found: ImageList, listed: ListedImage, vo: str) -> ImageIdentity:
    """The identity of an imported image: its title and version, reduced to the characters of names and versions here."""
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
            {"rel": "hepix-endorser", "href": found.endorser.dn[:1024]},
        ],
    }
    return validate(ImageIdentity, document, f"image {listed.identifier} of the list")


def _fetch(listed: ListedImage, path: Path, advance: Callable[[int], None]) -> None:
    digest, size = hashlib.sha512(), 0
    name = f"{listed.title} {listed.version}"
    with _download(listed.uri) as chunks, path.open("xb") as file:
        for chunk in chunks:
            size += len(chunk)
            if size > listed.size:
                raise ContentMismatch(f"{name}: the file exceeds the {listed.size} endorsed bytes; it was deleted")
            digest.update(chunk)
            file.write(chunk)
            advance(len(chunk))
    if size != listed.size:
        raise ContentMismatch(f"{name}: the file has {size} bytes and {listed.size} were endorsed; it was deleted")
    if digest.hexdigest() != listed.sha512:
        raise ContentMismatch(f"{name}: the file does not have the endorsed SHA-512; it was deleted")


@contextmanager
def _download(url: str) -> Iterator[Iterator[bytes]]:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.netloc or "@" in parts.netloc:
        raise Misused(f"{url[:200]!r} is not an accepted URL; use http or https, without a user name")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    with (
        closing(Connection(f"{parts.scheme}://{parts.netloc}")) as connection,
        connection.plain(path) as (status, chunks),
    ):
        if status != 200:
            raise Unavailable(f"{url[:200]}: answered {status} instead of a file; redirections are not followed")
        yield chunks


def _capped(chunks: Iterator[bytes], limit: int, source: str) -> Iterator[bytes]:
    size = 0
    for chunk in chunks:
        size += len(chunk)
        if size > limit:
            raise Malformed(f"{source[:200]}: larger than {limit} bytes, the limit of an image list")
        yield chunk
