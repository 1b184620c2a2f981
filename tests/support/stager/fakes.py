"""Fakes that behave: a source in memory that can cut, lie and corrupt, a disk that fails at the n-th step, a clock."""

import errno
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from catalog.content.content_store import AcceleratorKind
from catalog.content.indexing import ContentIndex
from catalog.image.address import Address
from catalog.image.ranges import ByteRange
from stager.cache.disk import DiskOperations
from stager.errors import SourceLacks, SourceUnavailable
from stager.fetch.sources import ContentSource

MIB = 1 << 20


class Clock:
    """Time that moves when told."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class MemorySource(ContentSource):
    """A catalog in memory: ranges, piece layers, data maps.

    Attributes:
        cuts: how many of the next answers end after `cut_after` bytes.
        corrupt: for a byte offset, how many answers that cover it have it flipped.
        reads: the (start, end) of every range asked for.
        gate: if set, every answer waits for it.
    """

    def __init__(
        self, contents: Mapping[Address, bytes], measured: Mapping[Address, ContentIndex], chunk: int = 65536
    ) -> None:
        self.contents, self.chunk = dict(contents), chunk
        self.stored = {address: one.hints for address, one in measured.items()}
        self.maps: dict[Address, bytes] = {address: one.data_map for address, one in measured.items()}
        self.layers: dict[Address, bytes] = {address: one.layer for address, one in measured.items()}
        self.cuts, self.cut_after = 0, 0
        self.corrupt: dict[int, int] = {}
        self.reads: list[tuple[Address, int, int]] = []
        self.gate: threading.Event | None = None
        self.overlong = False
        self._lock = threading.Lock()

    def read(self, address: Address, ranges: Sequence[ByteRange]) -> Iterator[bytes]:
        """The bytes of ranges, one after the other."""
        for start, end in ranges:
            yield from self.read_range(address, start, end)

    def read_range(self, address: Address, start: int, end: int) -> Iterator[bytes]:
        """The bytes of a range, or what is left of them."""
        if address not in self.contents:
            raise SourceLacks(f"{address} is not here")
        if self.gate is not None:
            assert self.gate.wait(30)
        data = bytearray(self.contents[address][start:end])
        with self._lock:
            self.reads.append((address, start, end))
            for offset, times in self.corrupt.items():
                if start <= offset < end and times:
                    data[offset - start] ^= 0xFF
                    self.corrupt[offset] -= 1
            cut = self.cuts > 0
            self.cuts -= cut
        if self.overlong:
            data += b"more"
        sent = bytes(data[: self.cut_after]) if cut else bytes(data)
        for at in range(0, len(sent), self.chunk):
            yield sent[at : at + self.chunk]
        if cut:
            raise SourceUnavailable("the connection was cut")

    def accelerator(self, address: Address, kind: AcceleratorKind) -> bytes | None:
        """As it was measured, or as a test has it; no hints."""
        known: dict[str, dict[Address, bytes]] = {"layer": self.layers, "map": self.maps, "hints": {}}
        return known[kind].get(address)


class Hinting(MemorySource):
    """A source in memory that has hints too."""

    asked_for_hints = 0

    def accelerator(self, address: Address, kind: AcceleratorKind) -> bytes | None:
        """As they were measured, or as a test has them."""
        if kind != "hints":
            return super().accelerator(address, kind)
        self.asked_for_hints += 1
        return self.stored[address]

    def sent(self) -> int:
        """Bytes asked for."""
        return sum(end - start for _, start, end in self.reads)


class Unguided(ContentSource):
    """Only the lowest rung of a source."""

    def __init__(self, source: MemorySource) -> None:
        self._source = source

    def read(self, address: Address, ranges: Sequence[ByteRange]) -> Iterator[bytes]:
        """As the source does."""
        return self._source.read(address, ranges)


class Died(BaseException):
    """The process was killed: nothing catches this and nothing is cleaned up after it."""


class FailingDisk(DiskOperations):
    """A disk whose n-th step (counting from 1) fails, with EIO or by the death of the process; after a death none works."""

    def __init__(self, at: int, *, death: bool = False, number: int = errno.EIO) -> None:
        self.at, self.death, self.number = at, death, number
        self.steps: list[str] = []
        self.fired = False

    def _step(self, name: str) -> None:
        if self.death and self.fired:
            raise Died(name)
        self.steps.append(name)
        if len(self.steps) == self.at:
            self.fired = True
            raise Died(name) if self.death else OSError(self.number, os.strerror(self.number))

    def create(self, path: Path, size: int) -> int:
        self._step("create")
        return super().create(path, size)

    def allocate(self, descriptor: int, offset: int, length: int) -> None:
        self._step("allocate")
        super().allocate(descriptor, offset, length)

    def write(self, descriptor: int, data: bytes | memoryview, offset: int) -> None:
        if len(self.steps) + 1 == self.at:  # half of it is written: what a kill or a full disk leaves
            super().write(descriptor, data[: len(data) // 2], offset)
        self._step("write")
        super().write(descriptor, data, offset)

    def copy(self, source: int, descriptor: int, offset: int, target: int, length: int) -> int:
        if len(self.steps) + 1 == self.at:
            super().copy(source, descriptor, offset, target, length // 2)
        self._step("copy")
        return super().copy(source, descriptor, offset, target, length)

    def put(self, path: Path, data: bytes) -> None:
        self._step("put")
        super().put(path, data)

    def empty(self, descriptor: int) -> None:
        self._step("empty")
        super().empty(descriptor)

    def seal(self, descriptor: int) -> None:
        self._step("seal")
        super().seal(descriptor)

    def sync(self, descriptor: int) -> None:
        self._step("sync")
        super().sync(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        self._step("rename")
        super().rename(source, target)

    def sync_directory(self, path: Path) -> None:
        self._step("sync_directory")
        super().sync_directory(path)

    def remove(self, path: Path) -> None:
        self._step("remove")
        super().remove(path)


def no_sleep(_seconds: float) -> None:
    """Waiting is for users."""
