"""The plan of a disk: every byte accounted for, once, in order; the descriptor says exactly that."""

from pathlib import Path

import pytest

from catalog.disk.layout import disk_extents
from catalog.image.manifest import Manifest
from deployer.errors import AssemblyFailed
from deployer.hypervisor.vmdk_descriptor import MAX_DESCRIPTOR, MAX_EXTENT_PATH, build_descriptor, disk_serials
from signer.documents import validate
from tests.catalog.disk.test_layout import gpt

MIB = 1 << 20


def test_a_descriptor_is_what_the_format_says() -> None:
    text = build_descriptor([(512, Path("/cache/a b")), (1024, Path("/cache/ü"))]).decode()
    assert text == (
        "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\n"
        'createType="twoGbMaxExtentFlat"\n'
        'RW 1 FLAT "/cache/a b" 0\n'
        'RW 2 FLAT "/cache/ü" 0\n'
    )


@pytest.mark.parametrize(
    "path",
    [
        'a quote ends the name: /x" 0\nRW 1 FLAT "/etc/passwd',
        '/with"quote',
        "/with\nline",
        "/with\rreturn",
        "/with\x00zero",
        "/with\\backslash",
        "relative/path",
        "nbd://host/export",
        "/" + "x" * MAX_EXTENT_PATH,
        "/" + "ü" * (MAX_EXTENT_PATH // 2),
    ],
)
def test_a_path_that_the_format_cannot_carry_is_refused(path: str) -> None:
    with pytest.raises(AssemblyFailed, match="cannot be used in a disk descriptor"):
        build_descriptor([(512, Path(path))])


def test_more_than_qemu_reads_of_a_descriptor_is_refused() -> None:
    path = Path("/" + "x" * (MAX_EXTENT_PATH - 1))
    with pytest.raises(AssemblyFailed, match=r"shorter node\.directory"):
        build_descriptor([(512, path)] * (MAX_DESCRIPTOR // MAX_EXTENT_PATH))


def test_a_disk_of_all_partitions_that_there_can_be_has_a_descriptor() -> None:
    disk = gpt([(1, 1)] * 128)
    path = Path("/" + "x" * (MAX_EXTENT_PATH - 1))
    assert len(build_descriptor([(extent.length, path) for extent in disk_extents(disk)])) < MAX_DESCRIPTOR


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["star", "data"], ("star", "data")),
        (["star", "star"], ("star", "disk1")),
        (["", "with space"], ("disk0", "disk1")),
        (["seed", "x" * 21], ("disk0", "disk1")),
        (["disk1", "b"], ("disk0", "b")),
    ],
)
def test_serials_are_labels_where_they_fit_and_are_never_doubled(labels: list[str], expected: tuple[str, ...]) -> None:
    disks = [
        {
            "table": "none",
            "partition": {
                "label": label,
                "type": "linux-generic",
                "uuid": f"00000000-0000-4000-8000-{number:012x}",
                "access": "read-only",
                "content": f"{number:064x}-512",
            },
        }
        for number, label in enumerate(labels, 1)
    ]
    manifest = validate(
        Manifest,
        {
            "type": "urn:partita:image:v1",
            "vo": "star",
            "name": "x",
            "version": "1",
            "architecture": "x86_64",
            "os": {"id": "none", "version": "1"},
            "disks": disks,
            "boot": {"mode": "direct", "kernel": f"{9:064x}-512"},
            "needs": {"memory": 16 * MIB, "cores": 1},
            "contextualization": "none",
        },
        "manifest",
    )
    assert disk_serials(manifest.disks) == expected
