"""Small files that become large, and names that are paths: neither gets further than the import's door."""

import os
from pathlib import Path

import pytest

from catalog.builder.disk_import import ImportOptions, import_disk
from catalog.errors import DiskRefused
from catalog.hepix.image_list import ImageList, ListedImage, NamedEndorser
from catalog.hepix.importer import image_identity
from signer.errors import DocumentError
from tests.support.catalog.disk_images import LINUX, MIB, gpt_disk, identity, kept_whole, put, qcow2, run, table
from tests.support.grid_ca import utc_now

TRICKS = ["../../../../etc/cron.d/x", "/etc/passwd", "..", "a/b", "$(id)", "-rf", "%s%n", "json:{}"]


def bomb(directory: Path) -> Path:
    """A compressed qcow2, a hundredth of the size of what it becomes."""
    disk = table(directory / "raw", 256 * MIB, f"label: gpt\nstart=2048, size=520192, type={LINUX}\n")
    for mib in range(1, 255):
        put(disk, mib * MIB, b"A" * MIB)
    made = qcow2(disk, directory / "bomb", "-c")
    assert made.stat().st_size * 100 < disk.stat().st_size
    disk.unlink()
    return made


def test_a_decompression_bomb_is_measured_before_it_is_unpacked(tmp_path: Path) -> None:
    made = bomb(tmp_path)
    before = set(tmp_path.iterdir())
    with pytest.raises(DiskRefused, match="more than"):
        import_disk(made, "qcow2", identity(), tmp_path / "image", ImportOptions(max_size=128 * MIB))
    assert set(tmp_path.iterdir()) == before


def test_a_disk_of_holes_takes_no_room(tmp_path: Path) -> None:
    disk = table(tmp_path / "disk", 16 << 30, f"label: gpt\nstart=2048, type={LINUX}\n")
    made = import_disk(disk, "raw", identity(), tmp_path / "image", kept_whole(tmp_path)).bundle
    used = sum(path.stat().st_blocks * 512 for path in made.root.rglob("*") if path.is_file())
    assert sum(part.size for part in made.manifest.partitions()) > 15 << 30
    assert used < 16 * MIB


@pytest.mark.parametrize("label", TRICKS[:-1])  # sgdisk takes a colon for its own
def test_a_label_is_never_a_file_name(tmp_path: Path, label: str) -> None:
    disk = gpt_disk(tmp_path / "disk")
    run("sgdisk", f"--change-name=2:{label}", disk)
    made = import_disk(disk, "raw", identity(), tmp_path / "image", kept_whole(tmp_path)).bundle
    assert label[:36] in [part.label for part in made.manifest.partitions()]
    names = {path.name for path in made.root.rglob("*") if path.is_file()} - {"manifest.json"}
    assert names == {str(address) for address in made.manifest.contents()}


@pytest.mark.parametrize("text", TRICKS)
def test_what_a_list_calls_an_image_is_made_a_name_or_refused(text: str) -> None:
    listed = ListedImage.model_construct(
        identifier="00000001-0000-4000-8000-000000000000", title=text, description=text, version=text, uri=text,
        size=1, sha512="ab" * 64, architecture="x86_64", os=text, os_version=text, memory=None, cores=None,
    )  # fmt: skip
    found = ImageList.model_construct(
        identifier="00000002-0000-4000-8000-000000000000", title=text, description=text, source=text, uri=text,
        version=text, created=utc_now(), expires=utc_now(), images=(listed,),
        endorser=NamedEndorser.model_construct(dn=text, ca=text, email=text, creator=text),
    )  # fmt: skip
    try:
        made = image_identity(found, listed, "site")
    except DocumentError:
        return
    assert not {os.sep, "$", "%", ":"} & {*made.name, *made.version}
    assert made.name[0].isalnum()
