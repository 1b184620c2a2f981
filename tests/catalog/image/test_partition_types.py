"""Kinds, flags and the protective record."""

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.image.partition_types import (
    FLAG_BITS,
    TYPE_NAMES,
    bits_from_flags,
    check_type,
    flags_from_bits,
    standard_protective,
    type_guid,
    type_name,
)


@pytest.mark.parametrize("name", TYPE_NAMES)
def test_a_kind_has_one_way_to_be_written(name: str) -> None:
    assert type_name(TYPE_NAMES[name].upper()) == name
    assert type_guid(name) == TYPE_NAMES[name]
    assert check_type(name) == name
    with pytest.raises(ValueError, match=f"has a name; write '{name}'"):
        check_type(TYPE_NAMES[name])


def test_no_two_names_have_one_guid() -> None:
    assert len(set(TYPE_NAMES.values())) == len(TYPE_NAMES)


def test_a_kind_without_a_name_is_its_guid() -> None:
    guid = "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7"
    assert type_name(guid.upper()) == type_guid(guid) == check_type(guid) == guid
    assert check_type("mbr-8e") == "mbr-8e"


@pytest.mark.parametrize(
    "kind", ["", "root", "ESP", "mbr-8", "mbr-8E", "mbr-100", "ebd0a0a2b9e5443387c068b6b72699c7", "esp\n"]
)
def test_no_other_kind_is_known(kind: str) -> None:
    with pytest.raises(ValueError, match="is not a valid partition type; use a Discoverable Partitions name"):
        check_type(kind)


@given(st.integers(0, 2**64 - 1))
def test_every_attribute_word_has_names(bits: int) -> None:
    flags = flags_from_bits(bits)
    assert bits_from_flags(flags) == bits
    assert [FLAG_BITS[flag] for flag in flags] == sorted(FLAG_BITS[flag] for flag in flags)


def test_the_flags_are_those_of_the_specifications() -> None:
    assert sorted(FLAG_BITS.values()) == list(range(64))
    assert bits_from_flags(("required", "legacy-bios-bootable")) == 5
    assert bits_from_flags(("grow-fs", "read-only", "no-auto")) == 1 << 59 | 1 << 60 | 1 << 63


@pytest.mark.parametrize(
    "sectors", [2048, 4096, 100000, 131072, 1 << 20, 16450559, 16450560, 16450561, 1 << 24, 1 << 32, (1 << 32) + 9]
)
def test_the_protective_record_is_the_one_that_sgdisk_makes(tmp_path: Path, sectors: int) -> None:
    path = tmp_path / "disk"
    with path.open("wb") as file:
        file.truncate(sectors * 512)
    subprocess.run(["sgdisk", "--clear", str(path)], check=True, stdout=subprocess.DEVNULL)
    with path.open("rb") as file:
        assert file.read(512)[440:462] == standard_protective(sectors)
