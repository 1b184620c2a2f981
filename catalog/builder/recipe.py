"""The recipe of `image build`, a strict TOML document, and the identity of an image, which an import needs too.

Sizes are texts such as "64MiB". Paths are relative to the directory of the recipe. examples/recipes has an example.
"""

import uuid
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, model_validator

from catalog.image.manifest import (
    SECTOR,
    Filesystem,
    Guid,
    OperatingSystem,
    PartitionLabel,
    PartitionType,
    ProvenanceLink,
    TitledDocument,
)
from signer.documents import Document, parse_toml
from signer.runtime.units import parse_size

NAMESPACE = uuid.UUID("6f1b7a5e-8c0d-5f43-9d0e-6d2f0a5f7c31")
"""Namespace of the UUIDs (version 5, RFC 9562) that are derived if a recipe gives none."""

Size = Annotated[int, BeforeValidator(parse_size), Field(ge=1)]


def _path(text: str) -> str:
    if not text or "\0" in text or "\n" in text:
        raise ValueError("is not a valid path")
    return text


RecipePath = Annotated[str, Field(max_length=4096), AfterValidator(_path)]
AccessMode = Literal["read-only", "copy-on-write"]


class RecipeNeeds(Document):
    """The minimum resources of a machine of this image."""

    memory: Size
    cores: Annotated[int, Field(ge=1, le=1024)] = 1


class ImageIdentity(TitledDocument):
    """Name, needs and origin of an image: the part of a manifest that does not follow from the disk."""

    architecture: Literal["x86_64", "aarch64"] = "x86_64"
    os: OperatingSystem | None = None
    needs: RecipeNeeds
    contextualization: Literal["nocloud", "none"] = "nocloud"
    provenance: tuple[ProvenanceLink, ...] = ()


class FileSource(Document):
    """A partition made from a file."""

    file: RecipePath


class TreeSource(Document):
    """A partition made from a directory tree.

    Attributes:
        tree: the directory.
        filesystem: erofs is always read-only; ext4 if guests write to it.
        size: of the partition; ext4 only. By default the needs of the tree and a quarter more.
        owner: "root" makes root the owner of everything, "keep" keeps the owners of the tree.
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
            raise ValueError("an erofs has the size of its tree and no label; leave size and label out")
        return self


class BlankSource(Document):
    """A partition that each node makes locally."""

    blank: Filesystem
    size: Size
    label: Annotated[str, Field(max_length=16)] = ""


def _source_type(value: object) -> str | None:
    """The type of a source, by the one member that only this type has."""
    given = set(value) if isinstance(value, dict) else {name for name in _SOURCES if hasattr(value, name)}
    named = [name for name in _SOURCES if name in given]
    return named[0] if len(named) == 1 else None


_SOURCES = ("file", "tree", "blank")
PartitionSource = Annotated[
    Annotated[FileSource, Tag("file")] | Annotated[TreeSource, Tag("tree")] | Annotated[BlankSource, Tag("blank")],
    Discriminator(
        _source_type,
        custom_error_type="source",
        custom_error_message="a partition has one source: write file = ..., tree = ... or blank = ...",
    ),
]


class RecipePartition(Document):
    """One partition: its source, and its properties in the manifest."""

    label: PartitionLabel
    type: PartitionType = "linux-generic"
    access: AccessMode
    uuid: Guid | None = None
    flags: tuple[str, ...] = ()
    source: PartitionSource


class RecipeDisk(Document):
    """A virtual disk: one partition without table ("none"), or partitions in a GUID partition table ("gpt")."""

    table: Literal["none", "gpt"]
    uuid: Guid | None = None
    partition: Annotated[tuple[RecipePartition, ...], Field(min_length=1, max_length=128)]

    @model_validator(mode="after")
    def _bare(self) -> Self:
        if self.table == "none" and len(self.partition) != 1:
            raise ValueError(
                "a disk without a table is one partition; use a disk for each partition, or write table = 'gpt'"
            )
        if self.table == "none" and (self.uuid or self.partition[0].flags):
            raise ValueError("a disk without a table has neither disk UUID nor flags; leave them out")
        return self


class RecipeBoot(Document):
    """How the image boots; kernel and initrd are paths."""

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
    """As :class:`ImageIdentity`, with the operating system required."""

    os: OperatingSystem


class Recipe(Document):
    """A whole recipe."""

    image: RecipeIdentity
    boot: RecipeBoot
    disk: Annotated[tuple[RecipeDisk, ...], Field(min_length=1, max_length=16)]

    @classmethod
    def parse(cls, data: bytes, what: str) -> Self:
        """Parse a recipe; signer.errors.DocumentError gives place and reason."""
        return parse_toml(cls, data, what)

    def uuid(self, *position: int) -> str:
        """The UUID of a disk or partition without a UUID in the recipe: the same recipe gives the same UUIDs.

        The version is left out, so that guests find the partitions of a new version by the same UUIDs.
        """
        return str(uuid.uuid5(NAMESPACE, "/".join((self.image.vo, self.image.name, *map(str, position)))))


def align_up(value: int, to: int = SECTOR) -> int:
    """Round up to the next multiple of `to`."""
    return -(-value // to) * to
