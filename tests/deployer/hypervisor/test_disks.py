"""Assembled disks, read back through QEMU's own tools."""

import json
import subprocess
from pathlib import Path

import pytest

from catalog.disk.gpt import write_gpt
from catalog.image.bundle import Bundle
from catalog.image.manifest import BareDisk, GptDisk, Manifest
from deployer.errors import AssemblyFailed
from deployer.hypervisor.disks import AssembledDisks, assemble_disks, find_firmware
from deployer.machine.spec import BiosBoot, Descriptor, KernelBoot, Overlay, RawFile, UefiBoot
from signer.documents import canonical, parse, validate
from tests.support import factories
from tests.support.node.boot_sector_guest import boot_sector_image
from tests.support.node.bundle_contents import BundleContents

MIB = 1 << 20


@pytest.fixture
def image(tmp_path: Path) -> Bundle:
    """A GPT disk with gap, contents and a blank; a bare content; a bare blank."""
    return boot_sector_image(tmp_path / "image")


def put_together(image: Bundle, tmp_path: Path, name: str = "machine") -> AssembledDisks:
    """Assemble in a directory of its own."""
    directory = tmp_path / name
    directory.mkdir()
    return assemble_disks(image.manifest, BundleContents(image, tmp_path / "blanks"), directory)


def read_through_qemu(path: Path, format_: str, tmp_path: Path) -> bytes:
    """The bytes that a guest would see."""
    flat = tmp_path / "flat"
    subprocess.run(["qemu-img", "convert", "-f", format_, "-O", "raw", path, flat], check=True)
    return flat.read_bytes()


def expected_disk(image: Bundle, tmp_path: Path) -> bytes:
    """The GPT disk, put together byte by byte."""
    disk = image.manifest.disks[0]
    assert isinstance(disk, GptDisk)
    contents = BundleContents(image, tmp_path / "blanks")
    whole = bytearray(disk.size)
    head, tail = write_gpt(disk)
    whole[: len(head)] = head
    whole[-len(tail) :] = tail
    for gap in disk.gaps:
        whole[gap.offset : gap.offset + gap.content.size] = contents.path(gap.content).read_bytes()
    for part in disk.partitions:
        source = contents.path(part.content) if part.content else contents.blank(part.blank)  # type: ignore[arg-type]
        whole[part.offset : part.offset + part.size] = source.read_bytes()
    return bytes(whole)


def test_an_assembled_disk_is_the_image_byte_for_byte(image: Bundle, tmp_path: Path) -> None:
    made = put_together(image, tmp_path)
    overlay = made.disks[0].source
    assert isinstance(overlay, Overlay)
    assert isinstance(overlay.base, Descriptor)
    expected = expected_disk(image, tmp_path)
    assert read_through_qemu(overlay.base.path, "vmdk", tmp_path) == expected
    assert read_through_qemu(overlay.path, "qcow2", tmp_path) == expected


def test_the_table_of_an_assembled_disk_is_right_for_other_tools(image: Bundle, tmp_path: Path) -> None:
    made = put_together(image, tmp_path)
    (tmp_path / "disk").write_bytes(read_through_qemu(made.disks[0].source.path, "qcow2", tmp_path))
    found = subprocess.run(["sgdisk", "-v", tmp_path / "disk"], capture_output=True, text=True, check=True)
    assert "No problems found" in found.stdout


def test_bare_disks_are_the_cache_files_or_overlays_of_them(image: Bundle, tmp_path: Path) -> None:
    made = put_together(image, tmp_path)
    contents = BundleContents(image, tmp_path / "blanks")
    data, scratch = image.manifest.disks[1], image.manifest.disks[2]
    assert isinstance(data, BareDisk)
    assert isinstance(scratch, BareDisk)
    assert data.partition.content is not None
    assert scratch.partition.blank is not None
    assert made.disks[1].source == RawFile(path=contents.path(data.partition.content))
    assert made.disks[1].read_only
    assert made.disks[2].source == Overlay(
        path=tmp_path / "machine" / "disk2.qcow2", base=RawFile(path=contents.blank(scratch.partition.blank))
    )
    assert [disk.serial for disk in made.disks] == ["disk0", "data", "scratch"]
    assert isinstance(made.boot, BiosBoot)


def test_no_content_is_written(image: Bundle, tmp_path: Path) -> None:
    made = put_together(image, tmp_path)
    written = sum(path.stat().st_blocks * 512 for path in (tmp_path / "machine").iterdir())
    assert made.written == written
    # Table, descriptor, and two empty overlays of 200 KiB.
    assert written < 600 << 10


def test_writes_of_one_machine_reach_neither_the_image_nor_another(image: Bundle, tmp_path: Path) -> None:
    first, second = put_together(image, tmp_path, "first"), put_together(image, tmp_path, "second")
    expected = expected_disk(image, tmp_path)
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -P 7 0 16M", first.disks[0].source.path], check=True)
    assert read_through_qemu(first.disks[0].source.path, "qcow2", tmp_path)[: 16 * MIB] == b"\7" * (16 * MIB)
    assert read_through_qemu(second.disks[0].source.path, "qcow2", tmp_path) == expected


def test_overlays_are_sound_and_name_their_base_and_its_format(image: Bundle, tmp_path: Path) -> None:
    made = put_together(image, tmp_path)
    for disk in made.disks:
        if isinstance(disk.source, Overlay):
            command = ["qemu-img", "info", "--output=json", "-f", "qcow2", disk.source.path]
            info = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
            assert info["backing-filename"] == str(disk.source.base.path)
            assert info["backing-filename-format"] == disk.source.base.kind
            subprocess.run(["qemu-img", "check", "-q", "-f", "qcow2", disk.source.path], check=True)


def test_a_part_that_is_shorter_than_the_image_says_is_refused(image: Bundle, tmp_path: Path) -> None:
    blob = next(iter(image.manifest.contents()))
    with image.content(blob).open("r+b") as file:
        file.truncate(blob.size - 512)
    with pytest.raises(AssemblyFailed, match=r"has 4193792 bytes and the image says 4194304"):
        put_together(image, tmp_path)


def test_a_full_disk_is_one_sentence(image: Bundle, tmp_path: Path) -> None:
    directory = tmp_path / "gone"
    with pytest.raises(AssemblyFailed, match="No such file"):
        assemble_disks(image.manifest, BundleContents(image, tmp_path / "blanks"), directory)


def test_a_kernel_boots_from_where_it_is_cached(tmp_path: Path) -> None:
    image = factories.bundle(tmp_path / "image", partitions=1, size=MIB)
    made = put_together(image, tmp_path)
    kernel = image.manifest.contents()[-1]
    assert made.boot == KernelBoot(kernel=image.content(kernel), cmdline="console=ttyS0")


def test_uefi_boots_with_variables_of_the_machine_itself(image: Bundle, tmp_path: Path) -> None:
    document = json.loads(canonical(image.manifest))
    document["boot"] = {"mode": "uefi"}
    document["disks"][0]["partitions"][0]["type"] = "esp"
    uefi = Bundle(image.root, validate(Manifest, document, "manifest"))
    made = put_together(uefi, tmp_path)
    assert isinstance(made.boot, UefiBoot)
    assert (made.boot.loader, made.boot.template) == find_firmware("x86_64")
    assert made.boot.variables.parent == tmp_path / "machine"


def test_an_assembly_is_a_document(image: Bundle, tmp_path: Path) -> None:
    for disk in put_together(image, tmp_path).disks:
        assert parse(type(disk), canonical(disk), "disk") == disk
