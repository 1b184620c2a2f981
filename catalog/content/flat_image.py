"""Flat images: the disk of an image as one file, for software that does not know partitions. Sent, never stored.

A flat image is assembled while it is read, from tables, contents, blanks, and zeros between them. DIRECTORY/flat keeps the
blanks, which the tools of this machine make once, as sparse files, and the digest of each flat image, which takes reading
all of it. Both can be made again. A blank that differs (another version of mkfs) would change a file whose digest has been
published in image lists; then the image is not sent until it is measured again.
"""

import hashlib
import os
import tempfile
import threading
from bisect import bisect_right
from collections.abc import Callable
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Annotated

from pydantic import Field

from catalog.content.content_store import ContentStore
from catalog.disk.layout import DiskExtent, disk_extents
from catalog.errors import Conflict, NotFound, Unavailable
from catalog.image.address import Address
from catalog.image.blanks import blank_digest, filesystem_uuid, make_blank
from catalog.image.manifest import Blank, ImageId, Manifest
from signer.documents import Document, canonical, parse
from signer.runtime import files
from signer.statements.endorsement import Instant

CHUNK = 4 << 20
"""Bytes per read when a flat image is measured."""

MAX_RECORD = 4096
"""Bytes of a FlatImageRecord, at most."""

ContentOpener = Callable[[Address | Blank], int]
"""Opens a content or a blank for reading; the caller closes the descriptor."""


class FlatImageRecord(Document):
    """The record of a flat image that was read once.

    Attributes:
        image_id: the image.
        size: bytes.
        sha512: the digest of the whole file, hex.
        blanks: the digest of the image's blanks; empty if it has none.
        measured: the time of the reading.
    """

    image_id: ImageId
    size: Annotated[int, Field(gt=0)]
    sha512: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]
    blanks: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")]
    measured: Instant


def flat_extents(manifest: Manifest) -> tuple[DiskExtent, ...]:
    """The extents of an image's flat file; NotFound if the image has several disks."""
    if len(manifest.disks) != 1:
        raise NotFound(f"{manifest.title} has {len(manifest.disks)} disks; a flat image has one")
    return disk_extents(manifest.disks[0])


class FlatImageReader:
    """An open flat image with random access. One content is open at a time; not thread-safe."""

    def __init__(self, extents: tuple[DiskExtent, ...], tag: str, open_content: ContentOpener) -> None:
        self.size = extents[-1].offset + extents[-1].length
        self.tag = tag
        self._extents, self._starts = extents, [extent.offset for extent in extents]
        self._open_content = open_content
        self._held: tuple[int, int] | None = None

    def read(self, length: int, offset: int) -> bytes:
        """Read bytes; fewer at the end of the image, or if a content is shorter than its address says."""
        parts = []
        end = min(offset + length, self.size)
        while offset < end:
            index = bisect_right(self._starts, offset) - 1
            extent = self._extents[index]
            part = self._read(index, offset - extent.offset, min(end, extent.offset + extent.length) - offset)
            if not part:
                break
            parts.append(part)
            offset += len(part)
        return b"".join(parts)

    def close(self) -> None:
        """Close the open content."""
        if self._held is not None:
            os.close(self._held[1])
            self._held = None

    def _read(self, index: int, offset: int, length: int) -> bytes:
        source = self._extents[index].source
        if source is None:
            return bytes(length)
        if isinstance(source, bytes):
            return source[offset : offset + length]
        if self._held is None or self._held[0] != index:
            self.close()
            self._held = (index, self._open_content(source))
        return os.pread(self._held[1], length, offset)


class FlatImageStore:
    """The flat images of a catalog; thread-safe."""

    def __init__(self, contents: ContentStore) -> None:
        self._contents, self._root = contents, contents.root / "flat"
        self._making, self._measuring = threading.Lock(), threading.Lock()
        self._digests: dict[Blank, bytes] = {}

    def open(self, manifest: Manifest) -> FlatImageReader:
        """Open the flat file of an image.

        Raises:
            NotFound: the image has several disks.
            BlankFailed: a blank of the image cannot be made on this machine.
            Conflict: the blanks differ from those that were measured.
        """
        extents = flat_extents(manifest)
        blanks = self._blanks(manifest)
        known = self._recall(manifest)
        if known is not None and known.blanks != blanks:
            raise Conflict(
                f"the blanks of {manifest.title} differ since mkfs was changed on this machine; remove "
                f"{self._record(manifest)} and export the list again"
            )
        digest = hashlib.sha256(manifest.image_id.encode() + blanks.encode()).hexdigest()
        return FlatImageReader(extents, f"flat-{digest}", self._open_content)

    def measure(self, manifest: Manifest, now: datetime) -> FlatImageRecord:
        """Return the record of an image's flat file, which is read once to make it. Errors as in :meth:`open`."""
        digest, position = hashlib.sha512(), 0
        # One at a time, as each reads a whole image.
        with self._measuring, closing(self.open(manifest)) as flat:
            if (known := self._recall(manifest)) is not None:
                return known
            while position < flat.size:
                data = flat.read(CHUNK, position)
                if not data:
                    raise Unavailable(
                        f"{manifest.title}: a content is shorter than its address says; check the catalog"
                    )
                digest.update(data)
                position += len(data)
            measured = FlatImageRecord(
                image_id=manifest.image_id,
                size=flat.size,
                sha512=digest.hexdigest(),
                blanks=self._blanks(manifest),
                measured=now.replace(microsecond=0),
            )
            path = self._record(manifest)
            path.parent.mkdir(exist_ok=True)
            files.write(path, canonical(measured))
            return measured

    def _blanks(self, manifest: Manifest) -> str:
        """Make the missing blanks of an image, and return the digest of all; empty if the image has no blanks."""
        blanks = [part.blank for part in manifest.partitions() if part.blank is not None]
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
        with files.opened(path, os.O_NOFOLLOW) as descriptor:
            return blank_digest(descriptor)

    def _open_content(self, source: Address | Blank) -> int:
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
