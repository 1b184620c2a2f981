"""Which disks are refused, and with which reason; that nothing is left behind; and what is given back byte for byte."""

import random
from pathlib import Path

import pytest

from catalog.builder.disk_import import import_disk
from catalog.disk.inspector import DiskFormat, inspect_disk
from catalog.errors import CatalogError, DiskRefused
from tests.support.catalog import hostile_formats, hostile_partition_tables
from tests.support.catalog.disk_images import (
    MIB,
    SECTOR,
    Scenario,
    assembled,
    formatted,
    gpt_disk,
    gpt_qcow2,
    identity,
    kept_whole,
    mbr_disk,
    names,
    partitions,
    put,
    put_file,
    qcow2,
    run,
    table,
)

BAD = [*hostile_formats.bad.rows, *hostile_partition_tables.bad.rows]


@pytest.mark.parametrize(
    ("named", "scenario", "error", "reason"),
    [pytest.param(*row[1:], id=row[0]) for row in BAD],
)
def test_refused(tmp_path: Path, named: DiskFormat, scenario: Scenario, error: type[CatalogError], reason: str) -> None:
    """Each bad disk is refused for its own reason, and nothing stays where the image would have been."""
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    with pytest.raises(error, match=reason):
        import_disk(scenario(here), named, identity(), there / "image", kept_whole(tmp_path))
    assert names(there) == []


def test_the_corpus_is_large_enough() -> None:
    """The issue asks for 30 and more."""
    assert len(BAD) >= 50


def _mixed(here: Path) -> Path:
    """Swap and unused filesystems, on a disk that also has data."""
    disk = table(
        here / "disk",
        80 * MIB,
        "label: gpt\nsize=8MiB, name=data\nsize=16MiB, name=swap\nsize=16MiB, name=ext4\nsize=16MiB, name=vfat\n",
    )
    places = [part["start"] * SECTOR for part in partitions(disk)]
    put(disk, places[0], random.Random(5).randbytes(200_000))
    put_file(disk, places[1], formatted(here / "s", 16 * MIB, "mkswap", "-q"))
    put_file(disk, places[2], formatted(here / "e", 16 * MIB, "mke2fs", "-q", "-t", "ext4"))
    put_file(disk, places[3], formatted(here / "v", 16 * MIB, "mkfs.vfat"))
    return disk


def _v2(here: Path) -> Path:
    return gpt_qcow2(here, "-o", "compat=0.10")


def _odd_name(here: Path) -> Path:
    return gpt_disk(here / 'json:{"file.filename":"x"}')


GOOD: list[tuple[str, DiskFormat, Scenario]] = [
    ("raw with a GPT", "raw", lambda here: gpt_disk(here / "disk")),
    ("raw with a GPT and no boot code", "raw", lambda here: gpt_disk(here / "disk", boot=False)),
    ("raw with an MBR and logical partitions", "raw", lambda here: mbr_disk(here / "disk")),
    ("raw with swap and unused filesystems", "raw", _mixed),
    ("raw under a name that is an address to qemu", "raw", _odd_name),
    ("qcow2 version 3", "qcow2", gpt_qcow2),
    ("qcow2 version 2", "qcow2", _v2),
    ("qcow2 with compressed clusters", "qcow2", lambda here: gpt_qcow2(here, "-c")),
    ("qcow2 with zstd", "qcow2", lambda here: gpt_qcow2(here, "-c", "-o", "compression_type=zstd")),
    ("qcow2 with an MBR", "qcow2", lambda here: qcow2(mbr_disk(here / "raw"), here / "disk")),
]


@pytest.mark.parametrize(("named", "scenario"), [pytest.param(*row[1:], id=row[0]) for row in GOOD])
def test_accepted_and_given_back_byte_for_byte(tmp_path: Path, named: DiskFormat, scenario: Scenario) -> None:
    """Each good disk is imported, and its image assembles to the very disk."""
    disk = scenario(tmp_path)
    before = disk.read_bytes()
    made = import_disk(disk, named, identity(), tmp_path / "image", kept_whole(tmp_path))
    raw = tmp_path / "back"
    run("qemu-img", "convert", "-f", named, "-O", "raw", disk.absolute(), raw)
    assert assembled(made.bundle) == raw.read_bytes()
    assert disk.read_bytes() == before


def test_the_size_cap_is_an_option(tmp_path: Path) -> None:
    """A site's publisher may demand less."""
    with pytest.raises(DiskRefused, match=r"has 32.0 MiB, more than the 16.0 MiB allowed; see --max-size"):
        inspect_disk(gpt_disk(tmp_path / "disk"), "raw", max_size=16 * MIB)


def test_a_report_from_a_child_is_not_believed_blindly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the inspector prints is read strictly: here it is another program that prints nonsense."""
    liar = tmp_path / "liar.py"
    liar.write_text('print(\'{"size": 1, "size": 2}\')')
    monkeypatch.setattr("catalog.disk.inspector_child.__file__", str(liar))
    with pytest.raises(DiskRefused, match="is not valid"):
        inspect_disk(gpt_disk(tmp_path / "disk"), "raw")
