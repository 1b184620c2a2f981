"""Flat images: the disk of an image as one file, for those who know nothing of partitions. Sent, never stored.

What is read is put together while it is read: tables, contents, blanks, and zeros between them. Only two things are kept
in DIRECTORY/flat: the blanks, which are made there once, sparse, by the tools of this machine; and the digest of each
flat image, which takes reading all of it. Both can be made again. A blank that comes out differently (another version of
mkfs) would make another file of what lists have promised: then the image is not sent until it is measured anew.
"""

import hashlib
import os
import tempfile
import threading
from bisect import bisect_right
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Annotated

from pydantic import Field

from catalog.content.content_store import ContentStore
from catalog.disk.layout import DiskExtent, disk_extents, partition_content
from catalog.errors import Conflict, NotFound, Unavailable
from catalog.image.address import Address
from catalog.image.blanks import blank_digest, filesystem_uuid, make_blank
from catalog.image.manifest import BareDisk, Blank, ImageId, Manifest
from signer.documents import Document, canonical, parse
from signer.runtime import files
from signer.statements.endorsement import Instant

CHUNK = 4 << 20
"""Bytes per read while a flat image is measured."""

MAX_RECORD = 4096
"""Bytes of what is kept of one."""

ContentOpener = Callable[[Address | Blank], int]
"""A descriptor of a content or a blank, for reading; its caller closes it."""


class FlatImageRecord(Document):
    """A flat image as it was read.

    Attributes:
        image_id: of the image.
        size: bytes.
        sha512: of all of it, hex.
        blanks: digest of the blanks in it; empty if it has none.
        measured: when.
    """

    image_id: ImageId
    size: Annotated[int, Field(gt=0)]
    sha512: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]
    blanks: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")]
    measured: Instant


def flat_extents(manifest: Manifest) -> tuple[DiskExtent, ...]:
    """The extents of an image's flat file; NotFound if the image has no one file that could stand for it."""
    if len(manifest.disks) != 1:
        raise NotFound(f"{manifest.title} has {len(manifest.disks)} disks, and a flat image is one")
    disk = manifest.disks[0]
    if isinstance(disk, BareDisk):
        return (DiskExtent(0, disk.partition.size, partition_content(disk.partition)),)
    return disk_extents(disk)


class FlatImageReader:
    """An open flat image: read anywhere, closed by `close`. One content is open at a time; not for several threads."""

    def __init__(self, whole: tuple[DiskExtent, ...], tag: str, opening: ContentOpener) -> None:
        self.size = whole[-1].offset + whole[-1].length
        self.tag = tag
        self._whole, self._starts = whole, [extent.offset for extent in whole]
        self._opening = opening
        self._held: tuple[int, int] | None = None

    def read(self, length: int, offset: int) -> bytes:
        """The bytes there; fewer at the end of the image, or where a content turned out shorter than it must be."""
        parts = []
        end = min(offset + length, self.size)
        while offset < end:
            index = bisect_right(self._starts, offset) - 1
            extent = self._whole[index]
            part = self._part(index, offset - extent.offset, min(end, extent.offset + extent.length) - offset)
            if not part:
                break
            parts.append(part)
            offset += len(part)
        return b"".join(parts)

    def close(self) -> None:
        """Give the open file back."""
        if self._held is not None:
            os.close(self._held[1])
            self._held = None

    def _part(self, index: int, offset: int, length: int) -> bytes:
        source = self._whole[index].source
        if source is None:
            return bytes(length)
        if isinstance(source, bytes):
            return source[offset : offset + length]
        if self._held is None or self._held[0] != index:
            self.close()
            self._held = (index, self._opening(source))
        return os.pread(self._held[1], length, offset)


class FlatImageStore:
    """The flat images of a catalog; for several threads."""

    def __init__(self, contents: ContentStore) -> None:
        self._contents, self._root = contents, contents.root / "flat"
        self._making, self._measuring = threading.Lock(), threading.Lock()
        self._digests: dict[Blank, bytes] = {}

    def open(self, manifest: Manifest) -> FlatImageReader:
        """Open an image's flat file.

        Raises:
            NotFound: it has none.
            BlankFailed: a blank in it cannot be made on this machine.
            Conflict: its blanks have become others than those that were measured.
        """
        flat, blanks = self._open(manifest)
        known = self._recall(manifest)
        if known is not None and known.blanks != blanks:
            flat.close()
            raise Conflict(
                f"the blanks of {manifest.title} come out differently since mkfs was changed here; remove "
                f"{self._record(manifest)} and export the list again"
            )
        return flat

    def measure(self, manifest: Manifest, now: datetime) -> FlatImageRecord:
        """Size and SHA-512 of an image's flat file: read once, then remembered. Errors as in :meth:`open`."""
        with self._measuring:  # one at a time: each reads everything
            flat = self.open(manifest)
            try:
                known = self._recall(manifest)
                return known if known is not None else self._measure(manifest, flat, now)
            finally:
                flat.close()

    def _measure(self, manifest: Manifest, flat: FlatImageReader, now: datetime) -> FlatImageRecord:
        digest, position = hashlib.sha512(), 0
        while position < flat.size:
            data = flat.read(CHUNK, position)
            if not data:
                raise Unavailable(f"{manifest.title}: a content became shorter while it was read; check the catalog")
            digest.update(data)
            position += len(data)
        measured = FlatImageRecord(
            image_id=manifest.image_id,
            size=flat.size,
            sha512=digest.hexdigest(),
            blanks=self._blanks(flat_blanks(manifest)),
            measured=now.replace(microsecond=0),
        )
        path = self._record(manifest)
        path.parent.mkdir(exist_ok=True)
        files.write(path, canonical(measured))
        return measured

    def _open(self, manifest: Manifest) -> tuple[FlatImageReader, str]:
        whole = flat_extents(manifest)
        blanks = self._blanks(flat_blanks(manifest))
        digest = hashlib.sha256(manifest.image_id.encode() + blanks.encode()).hexdigest()
        return FlatImageReader(whole, f"flat-{digest}", self._source), blanks

    def _blanks(self, blanks: tuple[Blank, ...]) -> str:
        """Make the blanks that are not there, and say what all of them are."""
        if not blanks:
            return ""
        digest = hashlib.sha256()
        with self._making:
            for blank in blanks:
                if blank not in self._digests or not self._path(blank).is_file():
                    self._digests[blank] = self._make(blank)
                digest.update(self._digests[blank])
        return digest.hexdigest()

    def _make(self, blank: Blank) -> bytes:
        path = self._path(blank)
        path.parent.mkdir(exist_ok=True)
        if not path.is_file():
            with tempfile.TemporaryDirectory(dir=path.parent, prefix="new-") as scratch:
                fresh = Path(scratch) / "blank"
                with fresh.open("xb") as file:
                    file.truncate(blank.size)
                make_blank(blank, fresh)
                fresh.chmod(0o444)
                fresh.replace(path)
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            return blank_digest(descriptor)
        finally:
            os.close(descriptor)

    def _source(self, source: Address | Blank) -> int:
        if isinstance(source, Address):
            return self._contents.open(source)
        return os.open(self._path(source), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)

    def _path(self, blank: Blank) -> Path:
        return self._root / f"{filesystem_uuid(blank)}.blank"

    def _record(self, manifest: Manifest) -> Path:
        return self._root / f"{manifest.image_id.removeprefix('sha256:')}.json"

    def _recall(self, manifest: Manifest) -> FlatImageRecord | None:
        try:
            data = self._record(manifest).read_bytes()
        except FileNotFoundError:
            return None
        return parse(FlatImageRecord, data, "record of a flat image", limit=MAX_RECORD)


def flat_blanks(manifest: Manifest) -> tuple[Blank, ...]:
    """The blanks of an image, in order."""
    return tuple(part.blank for part in manifest.partitions() if part.blank is not None)
