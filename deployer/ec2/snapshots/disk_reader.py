"""Reading the blocks of a disk from the cache: holes are never read, zeros never hashed, memory is bounded.

SHA-256 and reading both let other threads run, so a few threads use a few cores; each has one buffer and no more.
"""

import hashlib
import os
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path

from catalog.content.sparse_files import data_runs
from catalog.image.address import Address
from catalog.image.blanks import blank_digest
from catalog.image.manifest import Blank, Disk
from deployer.ec2.errors import SnapshotFailed
from deployer.ec2.snapshots.blocks import BLOCK_SIZE, BlockMap, Layout, layout_of, runs_of
from deployer.hypervisor.disks import ImageContents
from signer.runtime import files
from signer.runtime.progress import Advance, ignore_progress

THREADS = 2
"""Threads that hash. Each keeps a core busy; a site that uploads has other work, too."""

TAKEN = 8
"""Blocks that a thread takes at a time, so that threads seldom meet."""

_ZERO = bytes(BLOCK_SIZE)


class OpenDisk:
    """A disk put together from open files; for any number of threads, as long as they are open."""

    def __init__(self, layout: Layout, sources: list[bytes | int]) -> None:
        """Args: the layout, and the bytes or the open file of each of its runs."""
        self.layout = layout
        self._sources = sources
        self._map = BlockMap(layout)

    def solid(self) -> Iterator[int]:
        """The numbers of the blocks that may hold data, growing: all but the holes of the files and the gaps between runs."""
        following = 0
        for run, source in zip(self.layout.runs, self._sources, strict=True):
            places = ((0, run.length),) if isinstance(source, bytes) else data_runs(source, 0, run.length)
            for low, high in places:
                first, last = (run.offset + low) // BLOCK_SIZE, (run.offset + high - 1) // BLOCK_SIZE
                yield from range(max(first, following), last + 1)
                following = max(following, last + 1)

    def read(self, index: int, buffer: bytearray) -> None:
        """Read block `index` into a buffer; SnapshotFailed if a file has become shorter or cannot be read."""
        pieces = self._map.pieces(index)
        if sum(piece.length for piece in pieces) < BLOCK_SIZE:
            buffer[:] = _ZERO
        view = memoryview(buffer)
        for piece in pieces:
            source = self._sources[piece.run]
            if isinstance(source, bytes):
                view[piece.at : piece.at + piece.length] = source[piece.start : piece.start + piece.length]
            else:
                self._fill(source, view[piece.at : piece.at + piece.length], piece.start, piece.run)

    def _fill(self, descriptor: int, view: memoryview, start: int, run: int) -> None:
        while view:
            try:
                count = os.preadv(descriptor, [view], start)
            except OSError as exc:
                raise SnapshotFailed(f"{self.layout.runs[run].source}: cannot be read: {exc.strerror}") from exc
            if not count:
                raise SnapshotFailed(
                    f"{self.layout.runs[run].source}: ends at byte {start}, too early; stage the image again"
                )
            view, start = view[count:], start + count


@contextmanager
def open_disk(disk: Disk, contents: ImageContents) -> Iterator[OpenDisk]:
    """A disk of an image whose contents are all here, open while the block runs; SnapshotFailed if one is not usable."""
    sources: list[bytes | int] = []
    blanks: dict[Blank, bytes] = {}
    with ExitStack() as closing:
        for run in runs_of(disk):
            match run.source:
                case bytes():
                    sources.append(run.source)
                case Address() | Blank():
                    path = contents.path(run.source) if isinstance(run.source, Address) else contents.blank(run.source)
                    sources.append(descriptor := closing.enter_context(open_content(path, run.length)))
                    if isinstance(run.source, Blank):
                        blanks[run.source] = blank_digest(descriptor)
        yield OpenDisk(layout_of(disk, blanks.__getitem__), sources)


@contextmanager
def open_content(path: Path, size: int) -> Iterator[int]:
    """The descriptor of a content's file of `size` bytes, open while the block runs; SnapshotFailed if it is unusable."""
    try:
        with files.opened(path, os.O_NOFOLLOW) as descriptor:
            if (found := os.fstat(descriptor).st_size) != size:
                raise SnapshotFailed(f"{path}: size mismatch: {found} bytes instead of {size}; stage the image again")
            yield descriptor
    except OSError as exc:
        raise SnapshotFailed(f"{exc.filename}: {exc.strerror}; stage the image again") from exc


def block_digest(buffer: bytearray) -> bytes | None:
    """SHA-256 of a block; None if it is zero."""
    return None if buffer == _ZERO else hashlib.sha256(buffer).digest()


def block_digests(
    disk: OpenDisk,
    wanted: Iterable[int] | None = None,
    *,
    threads: int = THREADS,
    advance: Advance = ignore_progress,
) -> dict[int, bytes]:
    """SHA-256 of the non-zero blocks of a disk, by number.

    Args:
        disk: open.
        wanted: numbers of blocks; None for all that may hold data.
        threads: the number of threads that read and hash.
        advance: called with the number of bytes just read, from any of them.
    """
    numbers = iter(disk.solid() if wanted is None else wanted)
    lock, found = threading.Lock(), dict[int, bytes]()

    def work() -> None:
        buffer = bytearray(BLOCK_SIZE)
        while True:
            with lock:
                taken = list(islice(numbers, TAKEN))
            if not taken:
                return
            for index in taken:
                disk.read(index, buffer)
                if (value := block_digest(buffer)) is not None:
                    found[index] = value
                advance(BLOCK_SIZE)

    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(work) for _ in range(threads)]:
            done.result()
    return found
