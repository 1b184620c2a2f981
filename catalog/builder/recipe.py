"""What a person writes to have an image made: its identity, and for `image build` the recipe, a strict TOML document.

Sizes are texts such as "64MiB". Paths are relative to the recipe's own directory. examples/recipes shows one.
"""

import re
import uuid
from collections.abc import Iterator
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, model_validator

from catalog.image.address import MAX_SIZE
from catalog.image.manifest import (
    SECTOR,
    Filesystem,
    Guid,
    Name,
    OperatingSystem,
    PartitionLabel,
    PartitionType,
    ProvenanceLink,
    Version,
    Vo,
)
from signer.documents import Document, parse_toml

NAMESPACE = uuid.UUID("6f1b7a5e-8c0d-5f43-9d0e-6d2f0a5f7c31")
"""Of the UUIDs (version 5, RFC 9562) that are derived where a recipe gives none."""

_SIZE = re.compile(r"([1-9][0-9]{0,13})(B|KiB|MiB|GiB|TiB)")
_UNIT = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}


def parse_size(text: object) -> int:
    """The bytes that a text such as "64MiB" says; ValueError with what would be right."""
    match = _SIZE.fullmatch(text) if isinstance(text, str) else None
    if not match or (size := int(match[1]) * _UNIT[match[2]]) > MAX_SIZE:
        raise ValueError(f"{str(text)[:40]!r} is no size; write a number and B, KiB, MiB, GiB or TiB, such as '64MiB'")
    return size


Size = Annotated[int, BeforeValidator(parse_size)]


def _place(text: str) -> str:
    if not text or "\0" in text or "\n" in text:
        raise ValueError("is no path")
    return text


RecipePath = Annotated[str, Field(max_length=4096), AfterValidator(_place)]
AccessMode = Literal["read-only", "copy-on-write"]


class RecipeNeeds(Document):
    """The least that a machine of this image must get."""

    memory: Size
    cores: Annotated[int, Field(ge=1, le=1024)] = 1


class ImageIdentity(Document):
    """What an image is called and what it needs: all of a manifest that the disk itself cannot say."""

    vo: Vo
    name: Name
    version: Version
    architecture: Literal["x86_64", "aarch64"] = "x86_64"
    os: OperatingSystem | None = None
    needs: RecipeNeeds
    contextualization: Literal["nocloud", "none"] = "nocloud"
    provenance: tuple[ProvenanceLink, ...] = ()


class FileSource(Document):
    """A partition whose bytes are those of a file."""

    file: RecipePath


class TreeSource(Document):
    """A partition made of a directory tree.

    Attributes:
        tree: the directory.
        filesystem: erofs is read-only by nature; ext4 for what a guest writes to.
        size: of the partition; ext4 only. By default what the tree takes, and a quarter more.
        owner: "root" makes root the owner of everything, "keep" keeps the owners that the tree has here.
        label: of the filesystem; ext4 only.
    """

    tree: RecipePath
    filesystem: Literal["erofs", "ext4"]
    size: Size | None = None
    owner: Literal["root", "keep"] = "root"
    label: Annotated[str, Field(max_length=16, pattern=r"^[A-Za-z0-9_.-]*$")] = ""

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        if self.filesystem == "erofs" and (self.size is not None or self.label):
            raise ValueError("an erofs is as large as its tree and has no label; leave size and label out")
        return self


class BlankSource(Document):
    """A partition that each node makes for itself."""

    blank: Filesystem
    size: Size
    label: Annotated[str, Field(max_length=16)] = ""


def _kind_of_source(value: object) -> str | None:
    """Which source a table is: the one whose own member it has."""
    given = set(value) if isinstance(value, dict) else {name for name in _SOURCES if hasattr(value, name)}
    named = [name for name in _SOURCES if name in given]
    return named[0] if len(named) == 1 else None


_SOURCES = ("file", "tree", "blank")
PartitionSource = Annotated[
    Annotated[FileSource, Tag("file")] | Annotated[TreeSource, Tag("tree")] | Annotated[BlankSource, Tag("blank")],
    Discriminator(
        _kind_of_source,
        custom_error_type="source",
        custom_error_message="is made of one thing: write file = ..., tree = ... or blank = ...",
    ),
]


class RecipePartition(Document):
    """One partition: what `partita image build` makes it of, and how a guest sees it."""

    label: PartitionLabel
    type: PartitionType = "linux-generic"
    access: AccessMode
    uuid: Guid | None = None
    flags: tuple[str, ...] = ()
    source: PartitionSource


class RecipeDisk(Document):
    """A virtual disk: one bare partition ("none"), or partitions under a GUID partition table ("gpt")."""

    table: Literal["none", "gpt"]
    uuid: Guid | None = None
    partition: Annotated[tuple[RecipePartition, ...], Field(min_length=1, max_length=128)]

    @model_validator(mode="after")
    def _bare(self) -> Self:
        if self.table == "none" and len(self.partition) != 1:
            raise ValueError("a disk without a table is one partition; give each its own disk, or say table = 'gpt'")
        if self.table == "none" and (self.uuid or self.partition[0].flags):
            raise ValueError("a disk without a table has no disk UUID and no flags; leave them out")
        return self


class RecipeBoot(Document):
    """How it boots; kernel and initrd are paths."""

    mode: Literal["direct", "bios", "uefi"]
    kernel: RecipePath | None = None
    initrd: RecipePath | None = None
    cmdline: str | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.mode == "direct") != (self.kernel is not None):
            raise ValueError("mode 'direct' and a kernel belong together")
        if self.mode != "direct" and (self.initrd is not None or self.cmdline is not None):
            raise ValueError("initrd and cmdline belong to mode 'direct'")
        return self


class RecipeIdentity(ImageIdentity):
    """As :class:`ImageIdentity`; here the operating system must be named."""

    os: OperatingSystem


class Recipe(Document):
    """A whole recipe."""

    image: RecipeIdentity
    boot: RecipeBoot
    disk: Annotated[tuple[RecipeDisk, ...], Field(min_length=1, max_length=16)]

    @classmethod
    def parse(cls, data: bytes, what: str) -> Self:
        """Read a recipe; signer.errors.DocumentError says where and why not."""
        return parse_toml(cls, data, what)

    def partitions(self) -> Iterator[tuple[int, int, RecipePartition]]:
        """(disk, place, partition), both counted from 0."""
        for at, disk in enumerate(self.disk):
            for place, partition in enumerate(disk.partition):
                yield at, place, partition

    def uuid(self, *place: int) -> str:
        """The UUID of a disk or a partition that gives none itself: the same recipe, the same UUIDs.

        The version is left out: a new version of an image keeps what guests find their partitions by.
        """
        return str(uuid.uuid5(NAMESPACE, "/".join((self.image.vo, self.image.name, *map(str, place)))))


def align_up(value: int, to: int = SECTOR) -> int:
    """The next multiple."""
    return -(-value // to) * to
