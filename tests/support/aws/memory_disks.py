"""Disks out of byte strings, and disks that exist in memory only."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from catalog.image.address import Address
from catalog.image.blanks import make_blank
from catalog.image.manifest import BareDisk, Blank, GptDisk
from deployer.ec2.snapshots.blocks import BLOCK_SIZE, BlockMap, Layout, Run
from signer.documents import validate

MIB = 1 << 20
_ZERO = bytes(BLOCK_SIZE)


@dataclass
class Shelf:
    """Contents and blanks as plain files in a directory; what a stager would hand out.

    Attributes:
        directory: where they are.
        names: contents by address.
    """

    directory: Path
    names: dict[Address, Path] = field(default_factory=dict)

    def put(self, data: bytes, size: int | None = None) -> Address:
        """A content: the bytes, and zeros up to `size`, which are a hole."""
        whole = data.ljust(size or len(data), b"\0")
        address = Address.of(whole)
        path = self.directory / str(address)
        self.directory.mkdir(exist_ok=True)
        with path.open("wb") as file:
            file.write(data)
            file.truncate(len(whole))
        self.names[address] = path
        return address

    def path(self, address: Address) -> Path:
        """The file."""
        return self.names[address]

    def blank(self, blank: Blank) -> Path:
        """Made at the first call."""
        path = self.directory / f"{blank.filesystem}-{blank.size}-{blank.label}"
        if not path.exists():
            self.directory.mkdir(exist_ok=True)
            with path.open("wb") as file:
                file.truncate(blank.size)
            make_blank(blank, path)
        return path


def gpt(*parts: tuple[int, Address | Blank], size: int) -> GptDisk:
    """A disk of some parts, each at an offset."""
    document: dict[str, Any] = {
        "table": "gpt",
        "uuid": "11111111-1111-4111-8111-111111111111",
        "size": size,
        "first_lba": 34,
        "last_lba": size // 512 - 34,
        "partitions": [
            {
                "label": f"part{number}",
                "type": "linux-generic",
                "uuid": f"00000000-0000-4000-8000-{number:012x}",
                "access": "copy-on-write",
                "number": number,
                "offset": offset,
                **(
                    {"content": str(source)}
                    if isinstance(source, Address)
                    else {"blank": source.model_dump(mode="json")}
                ),
            }
            for number, (offset, source) in enumerate(parts, 1)
        ],
    }
    return validate(GptDisk, document, "disk")


def bare(source: Address | Blank) -> BareDisk:
    """One part as a whole disk."""
    part = {"label": "data", "type": "linux-generic", "uuid": "00000000-0000-4000-8000-00000000000a"}
    where = {"content": str(source)} if isinstance(source, Address) else {"blank": source.model_dump(mode="json")}
    document = {"table": "none", "partition": {**part, "access": "copy-on-write", **where}}
    return validate(BareDisk, document, "disk")


@dataclass
class MemoryDisk:
    """A disk of named byte strings; it remembers which blocks were read.

    Attributes:
        layout: where they lie.
        sources: the bytes by name.
        reads: block numbers, in the order of reading.
    """

    layout: Layout
    sources: Mapping[str, bytes]
    reads: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, size: int, *runs: tuple[int, str, bytes]) -> "MemoryDisk":
        """Runs of (offset, name, bytes)."""
        layout = Layout(
            size=size, runs=tuple(Run(offset=offset, length=len(data), source=name) for offset, name, data in runs)
        )
        return cls(layout, {name: data for _, name, data in runs})

    def solid(self) -> Iterator[int]:
        """All blocks that a run touches with anything but zeros: as if zeros were holes."""
        whole = self.whole()
        return (
            index
            for index in range(self.layout.blocks)
            if whole[index * BLOCK_SIZE : (index + 1) * BLOCK_SIZE].strip(b"\0")
        )

    def read(self, index: int, buffer: bytearray) -> None:
        """From memory."""
        self.reads.append(index)
        buffer[:] = bytes(BLOCK_SIZE)
        for piece in BlockMap(self.layout).pieces(index):
            data = self.sources[self.layout.runs[piece.run].source][piece.start : piece.start + piece.length]
            buffer[piece.at : piece.at + piece.length] = data

    def whole(self) -> bytes:
        """All bytes of the disk."""
        data = bytearray(self.layout.size)
        for run in self.layout.runs:
            data[run.offset : run.offset + run.length] = self.sources[run.source]
        return bytes(data)


def plain_digests(data: bytes) -> dict[int, bytes]:
    """SHA-256 of the blocks that are not zero, the simple way."""
    found = {}
    for index in range(-(-len(data) // BLOCK_SIZE)):
        block = data[index * BLOCK_SIZE : (index + 1) * BLOCK_SIZE].ljust(BLOCK_SIZE, b"\0")
        if block != _ZERO:
            found[index] = hashlib.sha256(block).digest()
    return found
