"""Manifests: one form, read strictly, refused with the place and the reason."""

import base64
import copy
import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings

from catalog.image.address import Address
from catalog.image.manifest import MAX_MANIFEST, GptDisk, Manifest
from catalog.image.partition_types import standard_protective
from signer.documents import canonical, validate
from signer.errors import DocumentError
from tests.support import factories
from tests.support.catalog.partition_tables import gpt_disks
from tests.vectors.generate import MANIFEST

MIB = 1 << 20
ADDRESS = str(Address.of(bytes(MIB)))
GPT = MANIFEST["disks"][0]
BARE: dict[str, Any] = {
    "table": "none",
    "partition": {
        "label": "data",
        "type": "linux-generic",
        "uuid": "0f3c3f0e-7d9e-4a63-8f0b-0c6d6b1f1a09",
        "access": "copy-on-write",
        "content": ADDRESS,
    },
}
MBR: dict[str, Any] = {
    "table": "mbr",
    "size": 16 * MIB,
    "gaps": [{"offset": 0, "content": str(Address.of(bytes(511) + b"\1"))}],
    "partitions": [
        {
            "number": 1,
            "offset": 4 * MIB,
            "label": "",
            "type": "mbr-83",
            "uuid": "12345678-01",
            "access": "copy-on-write",
            "flags": [],
            "content": ADDRESS,
        }
    ],
}
BOOT_CODE = base64.b64encode(b"\1" * 440).decode()


def _document() -> dict[str, Any]:
    """A direct boot; a GPT disk, an MBR disk, a bare one."""
    document: dict[str, Any] = copy.deepcopy(MANIFEST | {"disks": [GPT, MBR, BARE]})
    document["disks"][0]["gaps"] = []
    return document


def test_a_manifest_is_read_and_written() -> None:
    data = canonical(_document())
    manifest = Manifest.parse(data)
    assert manifest.canonical() == data
    assert manifest.image_id == "sha256:" + hashlib.sha256(data).hexdigest()
    assert manifest.title == "star/worker@1.0"
    assert [part.label for part in manifest.partitions()] == ["base", "scratch", "", "data"]
    assert [part.size for part in manifest.partitions()] == [65536, 8 * MIB, MIB, MIB]


def test_the_blobs_are_each_content_once() -> None:
    manifest = validate(Manifest, _document(), "manifest")
    assert [str(address) for address in manifest.contents()] == [
        GPT["partitions"][0]["content"],
        ADDRESS,
        MBR["gaps"][0]["content"],
        # the kernel is the same 1 MiB of zeros as two partitions
    ]
    with_initrd = validate(
        Manifest, _document() | {"boot": MANIFEST["boot"] | {"initrd": str(Address.of(b"initrd"))}}, "manifest"
    )
    assert with_initrd.contents()[-1] == Address.of(b"initrd")


def test_a_manifest_cannot_be_changed() -> None:
    manifest = validate(Manifest, _document(), "manifest")
    with pytest.raises(Exception, match="frozen"):
        manifest.name = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    "change",
    [
        {"name": "other"},
        {"needs": {"memory": 256 * MIB, "cores": 1}},
        {"boot": MANIFEST["boot"] | {"cmdline": "root=/dev/vda1 rw"}},
        {"contextualization": "none"},
        {"disks": [GPT]},
        {"provenance": []},
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_decides_what_boots_changes_the_image_id(change: dict[str, object]) -> None:
    one = validate(Manifest, _document(), "manifest")
    other = validate(Manifest, _document() | change, "manifest")
    assert one.image_id != other.image_id


def test_bios_and_uefi_boots_are_described() -> None:
    disk = copy.deepcopy(GPT) | {"boot_code": BOOT_CODE}
    validate(Manifest, _document() | {"boot": {"mode": "bios"}, "disks": [disk]}, "manifest")
    validate(Manifest, _document() | {"boot": {"mode": "bios"}, "disks": [MBR]}, "manifest")
    disk["partitions"][0]["type"] = "esp"
    validate(Manifest, _document() | {"boot": {"mode": "uefi"}, "disks": [disk]}, "manifest")


Break = Callable[[dict[str, Any]], object]


def _set(path: str, value: object) -> Break:
    """Put a value at a place such as `disks.0.size`."""

    def change(document: dict[str, Any]) -> None:
        *way, last = [int(part) if part.isdigit() else part for part in path.split(".")]
        place: Any = document
        for part in way:
            place = place[part]
        place[last] = value

    return change


def _drop(path: str) -> Break:
    def change(document: dict[str, Any]) -> None:
        *way, last = path.split(".")
        place: Any = document
        for part in way:
            place = place[int(part) if part.isdigit() else part]
        del place[last]

    return change


def _all(*changes: Break) -> Break:
    return lambda document: [change(document) for change in changes]


_P = "disks.0.partitions.0"
_NAMED = "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7"
_STANDARD = standard_protective(16 * MIB // 512).hex()

REFUSALS: dict[str, tuple[Break, str, str]] = {
    "an unknown member": (_set("x", 1), "$.x", "is not known here"),
    "an unknown member deep inside": (_set(_P + ".colour", "red"), "$.disks[0].partitions[0].colour", "is not known here"),
    "an unknown type of document": (_set("type", "urn:partita:image:v2"), "$.type", "urn:partita:image:v1"),
    "a missing member": (_drop("vo"), "$.vo", "is missing"),
    "a missing member deep inside": (_drop(_P + ".uuid"), "$.disks[0].partitions[0].uuid", "is missing"),
    "a number as text": (_set("needs.cores", "1"), "$.needs.cores", "valid integer"),
    "a truth as a number": (_set("needs.cores", True), "$.needs.cores", "valid integer"),
    "text as a list": (_set("disks", "x"), "$.disks", "valid"),
    "a null": (_set("boot.cmdline", None), "$.boot.cmdline", "valid string"),
    "a VO in capitals": (_set("vo", "Star"), "$.vo", "pattern"),
    "a VO with a path": (_set("vo", "../star"), "$.vo", "pattern"),
    "a name with a newline at its end": (_set("name", "worker\n"), "$.name", "pattern"),
    "a name that is too long": (_set("name", "w" * 129), "$.name", "pattern"),
    "a version with a slash": (_set("version", "1/2"), "$.version", "pattern"),
    "an architecture that nobody runs": (_set("architecture", "vax"), "$.architecture", "x86_64"),
    "an operating system with spaces": (_set("os.id", "Debian GNU"), "$.os.id", "pattern"),
    "no disks": (_set("disks", []), "$.disks", "at least 1"),
    "too many disks": (_set("disks", [BARE] * 17), "$.disks", "at most 16"),
    "a disk of an unknown kind": (_set("disks.0.table", "sun"), "$.disks[0]", "tag 'sun'"),
    "a disk without a kind": (_drop("disks.0.table"), "$.disks[0]", "tag"),
    "no partitions": (_set("disks.0.partitions", []), "$.disks[0].partitions", "at least 1"),
    "too many partitions": (
        lambda d: d["disks"][0].update(partitions=d["disks"][0]["partitions"] * 65), "$.disks[0].partitions", "at most 128"
    ),
    "too many gaps": (_set("disks.1.gaps", MBR["gaps"] * 257), "$.disks[1].gaps", "at most 256"),
    "an address that is none": (_set(_P + ".content", "x"), "$.disks[0].partitions[0].content", "is not an address"),
    "neither content nor blank": (_drop(_P + ".content"), "$.disks[0].partitions[0]", "either content or a blank"),
    "content and blank": (
        _set(_P + ".blank", {"size": 512, "filesystem": "none"}), "$.disks[0].partitions[0]", "either content or a blank"
    ),
    "content of half a sector": (
        _set("disks.2.partition.content", str(Address.of(b"x" * 100))), "$.disks[2].partition", "multiple of 512 bytes, not 100"
    ),
    "a gap of half a sector": (
        _set("disks.1.gaps.0.content", str(Address.of(b"x" * 100))), "$.disks[1].gaps[0]", "100 is not a multiple of 512"
    ),
    "a blank of no bytes": (_set("disks.0.partitions.1.blank.size", 0), "$.disks[0].partitions[1].blank.size", "greater than 0"),
    "a blank between sectors": (
        _set("disks.0.partitions.1.blank.size", 8 * MIB + 1), "$.disks[0].partitions[1].blank.size", "multiple of 512"
    ),
    "a blank of more than 64 TiB": (
        _set("disks.0.partitions.1.blank.size", 1 << 47), "$.disks[0].partitions[1].blank.size", "less than or equal"
    ),
    "a blank of a filesystem that nobody makes": (
        _set("disks.0.partitions.1.blank.filesystem", "ntfs"), "$.disks[0].partitions[1].blank.filesystem", "'ext4'"
    ),
    "a blank too small for its filesystem": (
        _set("disks.0.partitions.1.blank.filesystem", "xfs"), "$.disks[0].partitions[1].blank", "has at least"
    ),
    "a blank whose label is too long": (
        _set("disks.0.partitions.1.blank.label", "l" * 17), "$.disks[0].partitions[1].blank.label", "at most 16"
    ),
    "a label that its filesystem cannot hold": (
        _all(_set("disks.0.partitions.1.blank.label", "l" * 16), _set("disks.0.partitions.1.blank.filesystem", "swap")),
        "$.disks[0].partitions[1].blank", "has at most 15",
    ),
    "a label of vfat in small letters": (
        _set("disks.0.partitions.1.blank.filesystem", "vfat"), "$.disks[0].partitions[1].blank", "in upper case"
    ),
    "a label of zeros": (
        _set("disks.0.partitions.1.blank.filesystem", "none"), "$.disks[0].partitions[1].blank", "has at most 0"
    ),
    "a label with an escape sequence": (_set(_P + ".label", "\x1b[2J"), "$.disks[0].partitions[0].label", "pattern"),
    "a label with an 8-bit escape": (_set(_P + ".label", "\x9b2J"), "$.disks[0].partitions[0].label", "pattern"),
    "a label that fits no table": (_set(_P + ".label", "l" * 37), "$.disks[0].partitions[0].label", "at most 36 UTF-16 units"),
    "a label that is too long in UTF-16": (_set(_P + ".label", "💾" * 19), "$.disks[0].partitions[0].label", "at most 36"),
    "a type that is a typing error": (_set(_P + ".type", "root-x86_64"), "$.disks[0].partitions[0].type", "not a valid partition type"),
    "a type by the GUID of a name": (
        _set(_P + ".type", "4f68bce3-e8cd-4db1-96e7-fbcaf984b709"), "$.disks[0].partitions[0].type", "write 'root-x86-64'"
    ),
    "an MBR type on a GPT disk": (_set(_P + ".type", "mbr-83"), "$.disks[0]", "partition 1 of a GPT disk has a GPT type"),
    "an MBR UUID on a GPT disk": (_set(_P + ".uuid", "12345678-01"), "$.disks[0]", "has a GPT type and UUID"),
    "a GPT type on an MBR disk": (_set("disks.1.partitions.0.type", "esp"), "$.disks[1]", "of an MBR disk has a type mbr-XX"),
    "GPT flags on an MBR disk": (_set("disks.1.partitions.0.flags", ["required"]), "$.disks[1]", "and no GPT flags"),
    "a UUID in capitals": (
        _set(_P + ".uuid", "0F3C3F0E-7D9E-4A63-8F0B-0C6D6B1F1A01"), "$.disks[0].partitions[0].uuid", "is not a valid partition UUID"
    ),
    "two partitions with one UUID": (
        _set("disks.2.partition.uuid", GPT["partitions"][0]["uuid"]), "$", "two partitions have the same UUID"
    ),
    "an unknown access": (_set(_P + ".access", "read-write"), "$.disks[0].partitions[0].access", "read-only"),
    "an unknown flag": (_set(_P + ".flags", ["bootable"]), "$.disks[0].partitions[0].flags", "not a valid partition flag"),
    "a flag by its bit that has a name": (_set(_P + ".flags", ["bit-60"]), "$.disks[0].partitions[0].flags", "not a valid partition flag"),
    "flags out of order": (
        _set(_P + ".flags", ["read-only", "required"]), "$.disks[0].partitions[0].flags", "in the order of their bits"
    ),
    "a flag twice": (_set(_P + ".flags", ["required", "required"]), "$.disks[0].partitions[0].flags", "once each"),
    "number 0": (_set(_P + ".number", 0), "$.disks[0].partitions[0].number", "greater than or equal to 1"),
    "number 129": (_set(_P + ".number", 129), "$.disks[0].partitions[0].number", "less than or equal to 128"),
    "one number twice": (_set(_P + ".number", 2), "$.disks[0]", "two partitions have the same number"),
    "an offset between sectors": (_set(_P + ".offset", MIB + 5), "$.disks[0].partitions[0].offset", "multiple of 512"),
    "a negative offset": (_set(_P + ".offset", -512), "$.disks[0].partitions[0].offset", "greater than"),
    "partitions out of order": (
        lambda d: d["disks"][0]["partitions"].reverse(), "$.disks[0]", "partitions are listed in the order of their offsets"
    ),
    "gaps out of order": (
        _set("disks.1.gaps", [{"offset": 512, "content": MBR["gaps"][0]["content"]}, *MBR["gaps"]]),
        "$.disks[1]", "gaps are listed in the order of their offsets",
    ),
    "partitions that overlap": (
        _set("disks.0.partitions.1.offset", MIB + 512), "$.disks[0]", "partition 2 begins at byte 1049088, inside partition 1"
    ),
    "a gap inside a partition": (
        _set("disks.0.gaps", [{"offset": MIB, "content": ADDRESS}]), "$.disks[0]", "begins at byte 1048576, inside"
    ),
    "a gap over the partition table": (
        _set("disks.0.gaps", [{"offset": 0, "content": MBR["gaps"][0]["content"]}]), "$.disks[0]", "inside the partition table"
    ),
    "a gap over the backup table": (
        _set("disks.0.gaps", [{"offset": 16 * MIB - 512, "content": MBR["gaps"][0]["content"]}]),
        "$.disks[0]", "after the last usable byte 16760320",
    ),
    "a partition after the end of the disk": (_set("disks.0.size", 8 * MIB), "$.disks[0]", "the usable sectors are in order and between"),
    "a partition over the backup table": (
        _set("disks.1.partitions.0.offset", 16 * MIB - 512), "$.disks[1]", "ends at byte 17825280, after the last usable byte"
    ),
    "a partition before the usable sectors": (
        _set("disks.0.first_lba", 2049), "$.disks[0]", "partition 1 lies outside the usable sectors 2049-32734"
    ),
    "usable sectors over the backup": (_set("disks.0.last_lba", 32735), "$.disks[0]", "in order and between 34 and 32734"),
    "boot code that is no base64": (_set("disks.0.boot_code", "???"), "$.disks[0].boot_code", "is not valid base64"),
    "boot code of another length": (_set("disks.0.boot_code", "AQ=="), "$.disks[0].boot_code", "boot code is 440 bytes"),
    "boot code of zeros": (_set("disks.0.boot_code", "A" * 586 + "A="), "$.disks[0].boot_code", "not all zero"),
    "a protective record of another type": (
        _set("disks.0.protective", _STANDARD[:20] + "83" + _STANDARD[22:]), "$.disks[0]", "has type EE and begins at sector 1"
    ),
    "a protective record that is standard": (_set("disks.0.protective", _STANDARD), "$.disks[0]", "leave it out"),
    "an MBR disk without its first sector": (_set("disks.1.gaps", []), "$.disks[1]", "is its first sector"),
    "a BIOS without a partition table": (
        _all(_set("boot", {"mode": "bios"}), _set("disks", [BARE])), "$", "boots from a disk with a partition table"
    ),
    "a BIOS without boot code": (_all(_set("boot", {"mode": "bios"}), _set("disks", [GPT])), "$", "runs the boot code"),
    "UEFI without its partition": (_set("boot", {"mode": "uefi"}), "$", "boots from an EFI system partition"),
    "a boot of an unknown kind": (_set("boot.mode", "pxe"), "$.boot", "tag 'pxe'"),
    "a kernel for a BIOS": (_all(_drop("boot.cmdline"), _set("boot.mode", "bios")), "$.boot.kernel", "is not known here"),
    "a direct boot without kernel": (_drop("boot.kernel"), "$.boot.kernel", "is missing"),
    "a command line with a newline": (_set("boot.cmdline", "a\nb"), "$.boot.cmdline", "pattern"),
    "a command line without end": (_set("boot.cmdline", "a" * 2049), "$.boot.cmdline", "at most 2048"),
    "no memory": (_set("needs.memory", 0), "$.needs.memory", "greater than or equal to 16777216"),
    "no cores": (_set("needs.cores", 0), "$.needs.cores", "greater than or equal to 1"),
    "an unknown contextualization": (_set("contextualization", "ec2"), "$.contextualization", "'nocloud' or 'none'"),
    "a link without a target": (_set("provenance.0.href", ""), "$.provenance[0].href", "at least 1"),
    "too many links": (_set("provenance", MANIFEST["provenance"] * 65), "$.provenance", "at most 64"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_a_malformed_manifest_is_refused_with_its_place_and_reason(name: str) -> None:
    change, path, reason = REFUSALS[name]
    document = _document()
    Manifest.parse(canonical(document))
    change(document)
    with pytest.raises(DocumentError) as refused:
        Manifest.parse(canonical(document))
    assert f"manifest: {path}: " in str(refused.value)
    assert reason in str(refused.value)
    assert "\n" not in str(refused.value)


@settings(deadline=None, max_examples=50)
@given(gpt_disks())
def test_every_disk_comes_back_from_its_canonical_form(disk: GptDisk) -> None:
    made = factories.manifest([Address.of(b"kernel")], disks=[json.loads(canonical(disk))])
    assert Manifest.parse(made.canonical()) == made
    assert made.disks == (disk,)


def test_the_largest_manifest_fits() -> None:
    """128 partitions on each of 16 disks: the limit on bytes is no limit on images."""
    disks = []
    for number in range(16):
        disk = copy.deepcopy(GPT)
        disk["partitions"] = [
            GPT["partitions"][0]
            | {
                "number": index + 1,
                "offset": MIB + index * 65536,
                "label": "💾" * 18,
                "uuid": f"00000000-0000-4000-{8000 + number}-{index:012x}",
            }
            for index in range(128)
        ]
        disks.append(disk)
    manifest = validate(Manifest, _document() | {"disks": disks}, "manifest")
    assert len(manifest.canonical()) < MAX_MANIFEST
    assert Manifest.parse(manifest.canonical()) == manifest
