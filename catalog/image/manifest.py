"""The manifest, which defines an image. Frozen values, one canonical form (RFC 8785); its SHA-256 is the image ID.

It contains everything that decides what boots: the disks with their tables, the partitions with their addresses or blank
recipes, kernel and command line. Sizes and offsets are bytes. docs/formats.md describes the document byte for byte.
"""

import base64
import hashlib
import re
from collections.abc import Iterator
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from catalog.image.address import MAX_SIZE, Address
from catalog.image.partition_types import FLAG_BITS, check_type, standard_protective
from signer.documents import Document, canonical, check_base64, parse_canonical

MANIFEST_TYPE = "urn:partita:image:v1"
MANIFEST_MEDIA_TYPE = "application/vnd.partita.image.v1+json"
SECTOR = 512
MAX_MANIFEST = 1 << 20
"""Bytes. An image with 128 partitions on each of 16 disks takes a third of it."""

BOOT_CODE = 440
"""Bytes of boot code at the start of a disk: what lies before the disk signature of an MBR."""

MAX_GAPS = 256
"""Gaps of a disk, at most. 124 logical partitions have a table each; boot loaders need a few more."""

_GUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_MBR_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{2}")


VO_PATTERN = r"[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?"
NAME_PATTERN = r"[a-z0-9](?:[a-z0-9._-]{0,126}[a-z0-9])?"
VERSION_PATTERN = r"[A-Za-z0-9](?:[A-Za-z0-9.+_~-]{0,62}[A-Za-z0-9])?"
CONTROL = r"\x00-\x1f\x7f-\x9f"
"""The control characters, as the inside of a character class: text that is displayed contains none."""

MAX_LABEL = 36
"""UTF-16 units that a GPT entry has for a name."""


def _label(text: str) -> str:
    if len(text.encode("utf-16-le")) > 2 * MAX_LABEL:
        raise ValueError(f"a partition label has at most {MAX_LABEL} UTF-16 units, the limit of a GPT entry")
    return text


def _partition_uuid(text: str) -> str:
    if not (_GUID.fullmatch(text) or _MBR_UUID.fullmatch(text)):
        raise ValueError(
            f"{text[:40]!r} is not a valid partition UUID: write 8-4-4-4-12 lower-case hex digits, or 8-2 on an MBR disk"
        )
    return text


def _boot_code(text: str) -> str:
    code = base64.b64decode(check_base64(text))
    if len(code) != BOOT_CODE or not any(code) or base64.b64encode(code).decode() != text:
        raise ValueError(
            f"boot code is {BOOT_CODE} bytes, not all zero, in canonical base64; leave it out if the disk has no boot code"
        )
    return text


def _flags(flags: tuple[str, ...]) -> tuple[str, ...]:
    for flag in flags:
        if flag not in FLAG_BITS:
            raise ValueError(
                f"{flag[:40]!r} is not a valid partition flag; known flags: required, no-block-io, legacy-bios-bootable, "
                "grow-fs, read-only, hidden, no-auto, bit-N"
            )
    if list(flags) != sorted(set(flags), key=FLAG_BITS.__getitem__):
        raise ValueError("flags are listed once each, in the order of their bits")
    return flags


def _sectors(value: int) -> int:
    if value % SECTOR:
        raise ValueError(f"{value} is not a multiple of {SECTOR} bytes")
    return value


SectorBytes = Annotated[int, Field(ge=0, le=MAX_SIZE), AfterValidator(_sectors)]
Guid = Annotated[str, Field(pattern=rf"^{_GUID.pattern}$")]
Vo = Annotated[str, Field(pattern=rf"^{VO_PATTERN}$")]
Name = Annotated[str, Field(pattern=rf"^{NAME_PATTERN}$")]
Version = Annotated[str, Field(pattern=rf"^{VERSION_PATTERN}$")]
ManifestText = Annotated[str, Field(max_length=1024, pattern=rf"^[^{CONTROL}]*$")]
PartitionLabel = Annotated[str, Field(pattern=rf"^[^{CONTROL}]*$"), AfterValidator(_label)]
PartitionType = Annotated[str, AfterValidator(check_type)]
ImageId = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
Filesystem = Literal["ext4", "xfs", "vfat", "swap", "none"]

_LABEL_LIMIT = {"ext4": 16, "xfs": 12, "vfat": 11, "swap": 15, "none": 0}
_SMALLEST = {"ext4": 1 << 20, "xfs": 300 << 20, "vfat": 1 << 20, "swap": 40 << 10, "none": SECTOR}


class TitledDocument(Document):
    """A document about one version of a name of a VO."""

    vo: Vo
    name: Name
    version: Version

    @property
    def title(self) -> str:
        """VO/name@version."""
        return f"{self.vo}/{self.name}@{self.version}"


class Blank(Document):
    """A recipe for a partition that a node makes locally; the partition is never stored or sent.

    Attributes:
        size: bytes.
        filesystem: the format; "none" leaves zeros.
        label: of the filesystem, within its limits.
    """

    size: Annotated[SectorBytes, Field(gt=0)]
    filesystem: Filesystem
    label: Annotated[str, Field(max_length=16, pattern=r"^[A-Za-z0-9_.-]*$")] = ""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(self.label) > _LABEL_LIMIT[self.filesystem]:
            raise ValueError(f"a label on {self.filesystem} has at most {_LABEL_LIMIT[self.filesystem]} characters")
        if self.filesystem == "vfat" and self.label != self.label.upper():
            raise ValueError("a label on vfat is in upper case")
        if self.size < _SMALLEST[self.filesystem]:
            raise ValueError(f"a blank {self.filesystem} has at least {_SMALLEST[self.filesystem]} bytes")
        return self


class Partition(Document):
    """One partition, which has either a content address or a blank.

    Attributes:
        label: the name in the partition table.
        type: a Discoverable Partitions name, a GUID without a name, or `mbr-XX`.
        uuid: the partition's own UUID (what `PARTUUID=` means to a guest).
        access: "read-only" is shared by machines and never written; "copy-on-write" keeps each machine's changes apart.
    """

    label: PartitionLabel
    type: PartitionType
    uuid: Annotated[str, AfterValidator(_partition_uuid)]
    access: Literal["read-only", "copy-on-write"]
    content: Address | None = None
    blank: Blank | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.content is None) == (self.blank is None):
            raise ValueError("a partition has either content or a blank, not both")
        if self.size % SECTOR:
            raise ValueError(f"the size of a partition is a multiple of {SECTOR} bytes, not {self.size}")
        return self

    @property
    def source(self) -> Address | Blank:
        """The content or the blank."""
        source = self.content or self.blank
        assert source is not None  # noqa: S101 - the validator ensures that there is exactly one
        return source

    @property
    def size(self) -> int:
        """Bytes."""
        return self.source.size


class PlacedPartition(Partition):
    """A partition of a disk with a partition table: entry number from 1, offset in bytes, GPT flags."""

    number: Annotated[int, Field(ge=1, le=128)]
    offset: Annotated[SectorBytes, Field(gt=0)]
    flags: Annotated[tuple[str, ...], AfterValidator(_flags)] = ()


class Gap(Document):
    """Nonzero bytes outside all partitions: an embedded boot loader, the table of a logical partition."""

    offset: SectorBytes
    content: Address

    @model_validator(mode="after")
    def _whole_sectors(self) -> Self:
        _sectors(self.content.size)
        return self


class _Tabled(Document):
    size: Annotated[SectorBytes, Field(gt=0)]
    gaps: Annotated[tuple[Gap, ...], Field(max_length=MAX_GAPS)] = ()
    partitions: Annotated[tuple[PlacedPartition, ...], Field(min_length=1, max_length=128)]

    def _check_places(self, low: int, high: int) -> None:
        """Check that partitions and gaps lie inside [low, high), do not overlap, and are in the order of their offsets."""
        numbers = [part.number for part in self.partitions]
        if len(set(numbers)) != len(numbers):
            raise ValueError("two partitions have the same number")
        if [part.offset for part in self.partitions] != sorted(part.offset for part in self.partitions):
            raise ValueError("partitions are listed in the order of their offsets")
        if [gap.offset for gap in self.gaps] != sorted(gap.offset for gap in self.gaps):
            raise ValueError("gaps are listed in the order of their offsets")
        places = [(part.offset, part.offset + part.size, f"partition {part.number}") for part in self.partitions]
        places += [(gap.offset, gap.offset + gap.content.size, f"the gap at {gap.offset}") for gap in self.gaps]
        end, before = low, "the partition table"
        for start, stop, name in sorted(places):
            if start < end:
                raise ValueError(f"{name} begins at byte {start}, inside {before}, which ends at {end}")
            end, before = stop, name
        if end > high:
            raise ValueError(f"{before} ends at byte {end}, after the last usable byte {high} of the disk")


class GptDisk(_Tabled):
    """A disk with a GUID partition table (UEFI 2.10, section 5.3), 512-byte sectors, 128 entries of 128 bytes.

    Attributes:
        uuid: the disk GUID.
        size: bytes of the whole disk, both tables included.
        first_lba, last_lba: the usable sectors that the header names.
        boot_code: base64 of the first 440 bytes, where a BIOS boots from the disk.
        protective: hex of bytes 440-461, disk signature and protective record, where they differ from those that UEFI
            2.10, section 5.2.3 specifies for a disk of this size: tools differ, and some BIOSes want the record marked bootable.
    """

    table: Literal["gpt"]
    uuid: Guid
    first_lba: Annotated[int, Field(ge=34)]
    last_lba: Annotated[int, Field(ge=34)]
    boot_code: Annotated[str, AfterValidator(_boot_code)] | None = None
    protective: Annotated[str, Field(pattern=r"^[0-9a-f]{44}$")] | None = None

    @model_validator(mode="after")
    def _places(self) -> Self:
        sectors = self.size // SECTOR
        if self.protective is not None:
            given = bytes.fromhex(self.protective)
            if given[10] != 0xEE or given[14:18] != b"\1\0\0\0" or given == standard_protective(sectors):
                raise ValueError(
                    "a protective record has type EE and begins at sector 1; leave it out if it is the standard one"
                )
        if not self.first_lba <= self.last_lba <= sectors - 34:
            raise ValueError(f"the usable sectors are in order and between 34 and {sectors - 34}")
        self._check_places(34 * SECTOR, (sectors - 33) * SECTOR)
        for part in self.partitions:
            if part.offset < self.first_lba * SECTOR or part.offset + part.size > (self.last_lba + 1) * SECTOR:
                raise ValueError(
                    f"partition {part.number} lies outside the usable sectors {self.first_lba}-{self.last_lba}"
                )
            if part.type.startswith("mbr-") or not _GUID.fullmatch(part.uuid):
                raise ValueError(f"partition {part.number} of a GPT disk has a GPT type and UUID")
        return self


class MbrDisk(_Tabled):
    """A disk with an MBR. Gaps keep its first sector and the tables of logical partitions byte for byte."""

    table: Literal["mbr"]

    @model_validator(mode="after")
    def _places(self) -> Self:
        self._check_places(0, self.size)
        if not self.gaps or self.gaps[0].offset != 0:
            raise ValueError("the first gap of an MBR disk is its first sector, at offset 0")
        for part in self.partitions:
            if not part.type.startswith("mbr-") or part.flags or not _MBR_UUID.fullmatch(part.uuid):
                raise ValueError(
                    f"partition {part.number} of an MBR disk has a type mbr-XX, an 8-2 UUID and no GPT flags"
                )
        return self


class BareDisk(Document):
    """A virtual disk that is one partition without a partition table, as in images of the Xen era."""

    table: Literal["none"]
    partition: Partition

    @property
    def size(self) -> int:
        """Bytes of the disk: those of its partition."""
        return self.partition.size

    @property
    def partitions(self) -> tuple[Partition, ...]:
        """The partition, in the form of disks with a table."""
        return (self.partition,)


Disk = Annotated[GptDisk | MbrDisk | BareDisk, Field(discriminator="table")]


class DirectBoot(Document):
    """The hypervisor loads kernel and initrd itself (QEMU -kernel)."""

    mode: Literal["direct"]
    kernel: Address
    initrd: Address | None = None
    cmdline: Annotated[str, Field(max_length=2048, pattern=r"^[\x20-\x7e]*$")] = ""


class FirmwareBoot(Document):
    """BIOS or UEFI firmware finds a boot loader on the first disk."""

    mode: Literal["bios", "uefi"]


Boot = Annotated[DirectBoot | FirmwareBoot, Field(discriminator="mode")]


class OperatingSystem(Document):
    """ID and VERSION_ID as in os-release(5)."""

    id: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
    version: Annotated[str, Field(pattern=r"^[A-Za-z0-9._~+-]{0,64}$")]


class Needs(Document):
    """The minimum resources of a machine of this image: memory in bytes, cores."""

    memory: Annotated[int, Field(ge=16 << 20, le=1 << 46)]
    cores: Annotated[int, Field(ge=1, le=1024)]


class ProvenanceLink(Document):
    """A link of any kind to the origin of the image: a build log, a source, a package list."""

    rel: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,63}$")]
    href: Annotated[ManifestText, Field(min_length=1)]


class Manifest(TitledDocument):
    """The definition of an image."""

    type: Literal["urn:partita:image:v1"]
    architecture: Literal["x86_64", "aarch64"]
    os: OperatingSystem
    disks: Annotated[tuple[Disk, ...], Field(min_length=1, max_length=16)]
    boot: Boot
    needs: Needs
    contextualization: Literal["nocloud", "none"]
    provenance: Annotated[tuple[ProvenanceLink, ...], Field(max_length=64)] = ()

    @model_validator(mode="after")
    def _whole(self) -> Self:
        uuids = [part.uuid for part in self.partitions()]
        if len(set(uuids)) != len(uuids):
            raise ValueError("two partitions have the same UUID")
        first = self.disks[0]
        if self.boot.mode == "bios" and first.table == "none":
            raise ValueError("a BIOS boots from a disk with a partition table; the first disk has no table")
        if self.boot.mode == "bios" and isinstance(first, GptDisk) and first.boot_code is None:
            raise ValueError("a BIOS runs the boot code in the first sector; the first disk has no boot code")
        if self.boot.mode == "uefi" and not any(part.type in {"esp", "mbr-ef"} for part in first.partitions):
            raise ValueError("UEFI boots from an EFI system partition; the first disk has no such partition")
        return self

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a manifest from its canonical bytes; anything else raises signer.errors.DocumentError."""
        return parse_canonical(cls, data, "manifest", limit=MAX_MANIFEST)

    def canonical(self) -> bytes:
        """The canonical bytes: these are signed, and their SHA-256 is the image ID."""
        return canonical(self)

    @property
    def image_id(self) -> str:
        """`sha256:` and 64 hex digits: the SHA-256 of the canonical bytes."""
        # Cached, as each decision reads it a dozen times; with the id of its owner, as model_copy() copies the cache.
        known: tuple[int, str] | None = self.__dict__.get("_image_id")
        if known is None or known[0] != id(self):
            known = (id(self), "sha256:" + hashlib.sha256(self.canonical()).hexdigest())
            self.__dict__["_image_id"] = known
        return known[1]

    def partitions(self) -> Iterator[Partition]:
        """All partitions, in the order of disks and offsets."""
        for disk in self.disks:
            yield from disk.partitions

    def contents(self) -> tuple[Address, ...]:
        """The addresses of all contents of the image, each once, in order: partitions, gaps, kernel, initrd."""
        found: list[Address | None] = []
        for disk in self.disks:
            found += [part.content for part in disk.partitions]
            found += [] if isinstance(disk, BareDisk) else [gap.content for gap in disk.gaps]
        if isinstance(self.boot, DirectBoot):
            found += [self.boot.kernel, self.boot.initrd]
        return tuple(address for address in dict.fromkeys(found) if address is not None)
