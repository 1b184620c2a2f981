"""docs/formats.md: what it says of addresses, manifests and partition tables is so."""

import hashlib
import re
import subprocess
from pathlib import Path

import pytest

from catalog.content.indexing import index_file
from catalog.disk.gpt import write_gpt
from catalog.image.address import piece_length
from catalog.image.manifest import GptDisk, Manifest
from catalog.image.partition_types import FLAG_BITS

TEXT = (Path(__file__).parents[3] / "docs" / "formats.md").read_text()


def _section(title: str) -> str:
    found = re.search(rf"^## {title}$(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert found, title
    return found[1]


def _rows(section: str, header: str) -> list[list[str]]:
    """The cells, in backticks, of the table with that header."""
    body = section.split(header + "\n", 1)[1].split("\n\n", 1)[0]
    rows = [re.findall(r"`((?:[^`])+)`", line) for line in body.splitlines()[1:]]
    return [[cell.replace("\\|", "|") for cell in row] for row in rows]


CONTENTS = _rows(_section("Accelerators of a content"), "| content | address | map | layer | hints |")


@pytest.mark.parametrize("row", CONTENTS, ids=lambda row: row[0])
def test_content_has_the_address_that_the_page_says(tmp_path: Path, row: list[str]) -> None:
    command, address, data_map, layer, hints = row
    path = tmp_path / "content"
    path.write_bytes(subprocess.run(["bash", "-c", command], capture_output=True, check=True).stdout)
    found = index_file(path)
    assert str(found.address) == address
    assert found.data_map.hex() == data_map
    assert hashlib.sha256(found.layer).hexdigest()[:16] == layer
    assert hashlib.sha256(found.hints).hexdigest()[:16] == hints
    if command == "printf a":
        assert f"The only hint of the first is `{found.hints.hex()}`" in TEXT
    if command == "yes | head -c 200000":
        assert f"`{found.layer[-32:].hex()}`" in TEXT


def test_the_page_has_vectors() -> None:
    assert len(CONTENTS) == 6


def test_piece_lengths_are_those_of_the_page() -> None:
    rows = _rows(_section("Piece length"), "| size | piece length |")
    assert len(rows) == 6
    assert all(piece_length(int(size)) == int(length) for size, length in rows)


def _manifest() -> Manifest:
    return Manifest.parse(_section("Manifest").split("```json\n")[1].split("\n```")[0].encode())


def test_the_manifest_has_the_id_that_the_page_says() -> None:
    assert f"`{_manifest().image_id}`" in _section("Manifest")


def test_the_partition_table_is_that_of_the_page() -> None:
    disk = _manifest().disks[0]
    assert isinstance(disk, GptDisk)
    head, tail = write_gpt(disk)
    section = _section("Partition table")
    shown = section.split("```\n")[1].split()
    assert shown == [head[512:604].hex(), head[1024:1152].hex(), tail[-512:-420].hex()]
    for part in (head, tail):
        assert f"`{hashlib.sha256(part).hexdigest()}`" in section


def test_every_member_of_a_manifest_is_described() -> None:
    section = _section("Manifest")
    for member in Manifest.model_fields:
        assert f"`{member}" in section, member
    for flag, bit in FLAG_BITS.items():
        if not flag.startswith("bit-"):
            assert f"`{flag}` ({bit})" in section
