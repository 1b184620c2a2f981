"""What travels when a machine goes from one node to another: an offer, and files as runs of bytes. Values and formats, no network.

What is the machine's own travels: the overlays that took its writes, its saved memory, its seed, its firmware's variables, its console.
Contents of the image do not: the other node stages them as ever. Blanks lie beneath overlays and are made from recipes; they
travel only where the other node makes other bytes of a recipe.

A file travels as runs, each of them two big-endian numbers of eight bytes (offset, length) and so many bytes; a run of no bytes
says that there are no more. Holes and zeros do not travel. Its digest is that of blanks (`catalog.image.blanks.blank_digest`): SHA-256
over the offset and bytes of each 4 KiB that are not all zero, and over the size.
"""

import os
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field

from catalog.image.blanks import blank_digest
from catalog.image.manifest import ImageId
from deployer.errors import MigrationFailed
from deployer.machine.spec import Uuid, Virt
from deployer.protocol.migration import MigrationNumber, Platform
from signer.documents import Document
from signer.runtime import files
from signer.statements.endorsement import Instant

MAX_MIGRATION_MANIFEST: Final = 16 << 20
"""Bytes of an offer: a receipt, and some dozen files."""

MAX_RUN: Final = 1 << 20
"""Bytes of one run, and of what is held of a file at once."""

MAX_FILES: Final = 64
"""Files of a machine: 24 disks, as many blanks, and five more."""

MANIFEST_NAME = "offer.json"
RUN_HEADER: Final = struct.Struct(">QQ")
_BLOCK: Final = 4096
_ZERO: Final = bytes(_BLOCK)

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class MigrationFile(Document):
    """A file that is offered.

    Attributes:
        name: in the machine's directory.
        size: bytes, holes included.
        digest: see the module.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,127}$")]
    size: Annotated[int, Field(ge=0, le=1 << 50)]
    digest: Digest


class MigrationManifest(Document):
    """All that a node needs beside an image to go on with another node's machine.

    Attributes:
        number: of the migration.
        state: "suspended", with its memory, or "stopped".
        image_id: of the image that it was made of.
        name: in lists.
        created: when it was made, at its first node.
        memory, cores: that it has now.
        virt: the accelerator that its memory was saved on.
        platform: the same, in detail.
        firmware: digest of the UEFI firmware beneath it, or empty.
        pieces: its own files.
        blanks: the blanks beneath its overlays, by names that follow from their recipes.
        receipt, signature: of its last boot there, base64, or None.
    """

    number: MigrationNumber
    machine: Uuid
    state: Literal["suspended", "stopped"]
    image_id: ImageId
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
    created: Instant
    memory: Annotated[int, Field(ge=1)]
    cores: Annotated[int, Field(ge=1)]
    virt: Virt
    platform: Platform
    firmware: str = ""
    pieces: Annotated[tuple[MigrationFile, ...], Field(max_length=MAX_FILES)]
    blanks: Annotated[tuple[MigrationFile, ...], Field(max_length=MAX_FILES)] = ()
    receipt: str | None = None
    signature: str | None = None


def describe_file(path: Path, name: str = "") -> MigrationFile:
    """A file as it is offered; OSError if it cannot be read."""
    with files.opened(path, os.O_NOFOLLOW) as descriptor:
        size = os.fstat(descriptor).st_size
        return MigrationFile(name=name or path.name, size=size, digest=blank_digest(descriptor).hex())


def read_runs(path: Path, start: int = 0) -> Iterator[bytes]:
    """A file as it travels, from an offset on; OSError if it cannot be read."""
    with files.opened(path, os.O_NOFOLLOW) as descriptor:
        size = os.fstat(descriptor).st_size
        position = start // _BLOCK * _BLOCK
        while position < size:
            try:
                position = max(position, os.lseek(descriptor, position, os.SEEK_DATA) // _BLOCK * _BLOCK)
            except OSError:  # ENXIO: only holes remain
                break
            data = os.pread(descriptor, min(MAX_RUN, size - position), position)
            if not data:
                break
            for offset, some in _filled(data):
                yield RUN_HEADER.pack(position + offset, len(some)) + some
            position += len(data)
        yield RUN_HEADER.pack(size, 0)


def _filled(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The parts of some bytes that have anything in them, in blocks."""
    begin: int | None = None
    for offset in range(0, len(data), _BLOCK):
        block = data[offset : offset + _BLOCK]
        if block == _ZERO[: len(block)]:
            if begin is not None:
                yield begin, data[begin:offset]
            begin = None
        elif begin is None:
            begin = offset
    if begin is not None:
        yield begin, data[begin:]


def write_runs(descriptor: int, piece: MigrationFile, stream: Iterable[bytes], advance: Callable[[int], None]) -> None:
    """Write a file as it comes, in order and within its size.

    Args:
        descriptor: of a file open for writing; as long afterwards as the last run reaches.
        piece: what was offered.
        stream: bytes in whatever portions they come.
        advance: called with bytes just written; may raise to give up.

    Raises:
        MigrationFailed: the stream is not a file of that size, or is truncated.
    """
    held, at = bytearray(), 0
    header: tuple[int, int] | None = None
    for portion in stream:
        held += portion
        while True:
            if header is None:
                if len(held) < RUN_HEADER.size:
                    break
                header = RUN_HEADER.unpack_from(held)
                del held[: RUN_HEADER.size]
                _demand(header, at, piece)
                if header[1] == 0:
                    return
            if len(held) < header[1]:
                break
            offset, length = header
            os.pwrite(descriptor, memoryview(held)[:length], offset)
            del held[:length]
            at, header = offset + length, None
            advance(length)
    raise MigrationFailed(f"{piece.name}: transfer truncated; retrying the migration", again=True)


def _demand(header: tuple[int, int], at: int, piece: MigrationFile) -> None:
    offset, length = header
    if offset < at or length > MAX_RUN or offset + length > piece.size:
        raise MigrationFailed(
            f"{piece.name}: the source node sent data that does not belong to a file of {piece.size} bytes"
        )


def verify_file(path: Path, piece: MigrationFile) -> None:
    """Raise MigrationFailed unless a file is exactly as offered."""
    found = describe_file(path, piece.name)
    if found != piece:
        raise MigrationFailed(
            f"{piece.name}: received data differs from the offer (SHA-256 mismatch); retrying the migration", again=True
        )
