"""Images from recipes: the same in, the same out; what cannot be built is said with its place."""

import os
import random
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from catalog.builder.recipe_build import build_image
from catalog.content.indexing import verify_content
from catalog.errors import CatalogError, DiskRefused, Malformed, Misused, NotFound
from catalog.image.bundle import Bundle
from catalog.image.manifest import BareDisk, DirectBoot, GptDisk
from signer.errors import DocumentError
from tests.support.catalog.disk_images import MIB, assembled, names, run

UUID = "6f1b7a5e-8c0d-4f43-9d0e-6d2f0a5f7c31"
EXAMPLE = Path(__file__).parents[3] / "examples/recipes"


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """The example recipe with a kernel and an initramfs beside it."""
    here = tmp_path / "recipe"
    shutil.copytree(EXAMPLE, here)
    (here / "vmlinuz").write_bytes(random.Random(1).randbytes(100_000))
    (here / "initrd.img").write_bytes(random.Random(2).randbytes(100_000))
    return here / "worker.toml"


def test_the_example(example: Path, tmp_path: Path) -> None:
    """Builds as its comments say."""
    made = build_image(example, tmp_path / "image")
    manifest = made.bundle.manifest
    assert manifest.title == "star/worker@2026.11"
    assert manifest.needs.memory == 256 * MIB
    assert isinstance(manifest.boot, DirectBoot)
    assert manifest.boot.cmdline == "console=ttyS0 quiet"
    application, disk = manifest.disks
    assert isinstance(application, BareDisk)
    assert application.partition.access == "read-only"
    assert isinstance(disk, GptDisk)
    written, scratch, swap = disk.partitions
    assert written.size == 16 * MIB
    assert [part.offset % MIB for part in disk.partitions] == [0, 0, 0]
    assert scratch.blank is not None
    assert (scratch.blank.filesystem, scratch.blank.label, scratch.blank.size) == ("ext4", "scratch", 64 * MIB)
    assert swap.type == "swap"
    for address in manifest.contents():
        verify_content(made.bundle.content(address), address)
    assert made.findings == ()
    assert Bundle.open(tmp_path / "image").manifest.image_id == manifest.image_id


def test_the_table_is_one_that_others_accept(example: Path, tmp_path: Path) -> None:
    """Head, partitions and tail make a disk that sgdisk finds no fault with."""
    made = build_image(example, tmp_path / "image")
    (tmp_path / "disk").write_bytes(assembled(made.bundle, 1))
    assert b"No problems found" in run("sgdisk", "-v", tmp_path / "disk")


def test_same_recipe_same_image(example: Path, tmp_path: Path) -> None:
    """On another day, in another directory, made in another order; a new version keeps the UUIDs."""
    first = build_image(example, tmp_path / "a").bundle.manifest
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(example.parent, elsewhere, copy_function=shutil.copyfile)
    (elsewhere / "application/bin/reconstruct").chmod(0o755)
    for path in elsewhere.rglob("*"):
        os.utime(path, (1, 1))
    assert build_image(elsewhere / "worker.toml", tmp_path / "b").bundle.manifest.image_id == first.image_id
    (elsewhere / "worker.toml").write_text(example.read_text().replace("2026.11", "2026.12"))
    newer = build_image(elsewhere / "worker.toml", tmp_path / "c").bundle.manifest
    assert newer.image_id != first.image_id
    assert [part.uuid for part in newer.partitions()] == [part.uuid for part in first.partitions()]


RECIPE = """
[image]
vo = "star"
name = "worker"
version = "1"
os = { id = "debian", version = "12" }
needs = { memory = "128MiB" }
[boot]
mode = "direct"
kernel = "vmlinuz"
[[disk]]
table = "none"
[[disk.partition]]
label = "part"
access = "read-only"
source = { tree = "tree", filesystem = "erofs" }
"""


def _plain(here: Path) -> None:
    (here / "tree").mkdir()
    (here / "tree/file").write_text("content")
    (here / "vmlinuz").write_bytes(b"kernel")


def _swap(old: str, new: str) -> Callable[[Path], str]:
    def scenario(_here: Path) -> str:
        assert old in RECIPE
        return RECIPE.replace(old, new)

    return scenario


def _named_with_a_quote(here: Path) -> str:
    (here / 'tree/a"b').touch()
    return RECIPE.replace('filesystem = "erofs"', 'filesystem = "ext4"')


def _odd_file(here: Path) -> str:
    (here / "odd").write_bytes(b"123")
    return RECIPE.replace('tree = "tree", filesystem = "erofs"', 'file = "odd"')


def _empty_file(here: Path) -> str:
    (here / "vmlinuz").write_bytes(b"")
    return RECIPE


def _socket(here: Path) -> str:
    os.mknod(here / "tree/socket", 0o600 | stat.S_IFSOCK)
    return RECIPE.replace('filesystem = "erofs"', 'filesystem = "ext4"')


def _odd_flag(_here: Path) -> str:
    return RECIPE.replace('table = "none"', 'table = "gpt"').replace('label = "part"', 'label = "part"\nflags = ["x"]')


def _too_much(here: Path) -> str:
    (here / "tree/large").write_bytes(random.Random(1).randbytes(8 * MIB))
    return RECIPE.replace('filesystem = "erofs"', 'filesystem = "ext4", size = "4MiB"')


WRONG: tuple[tuple[str, Callable[[Path], str], type[Exception], str], ...] = (
    ("no such tree", _swap('tree = "tree"', 'tree = "no"'), NotFound, "no: no such directory"),
    ("no such kernel", _swap('"vmlinuz"', '"no"'), NotFound, "no: no such file"),
    (
        "no such file",
        _swap('tree = "tree", filesystem = "erofs"', 'file = "no"'),
        NotFound,
        r"partition 1 \(part\) of disk 0: .*no",
    ),
    ("a file that is no partition", _odd_file, Malformed, "3 bytes, not a multiple of 512"),
    ("an empty kernel", _empty_file, Malformed, "empty"),
    (
        "an unknown member",
        _swap('mode = "direct"', 'mode = "direct"\nspeed = 1'),
        DocumentError,
        r"\$.boot.speed: is not known",
    ),
    ("an unknown filesystem", _swap('"erofs"', '"ntfs"'), DocumentError, r"\$.disk\[0\].partition\[0\].source"),
    ("a size without a unit", _swap('"128MiB"', '"128"'), DocumentError, r"\$.image.needs.memory: .* such as '512MiB'"),
    ("a size that is a number", _swap('"128MiB"', "128"), DocumentError, r"\$.image.needs.memory"),
    ("a size for erofs", _swap('"erofs"', '"erofs", size = "1MiB"'), DocumentError, "leave size and label out"),
    ("erofs that is written to", _swap("read-only", "copy-on-write"), Misused, "an erofs is read-only"),
    ("a tree that does not fit", _too_much, Misused, "does not fit into an ext4 of 4194304 bytes"),
    ("a name with a quote", _named_with_a_quote, DiskRefused, "has a quote or line break in its name"),
    ("a socket", _socket, DiskRefused, "is a socket"),
    ("no disk", _swap("[[disk]]\ntable", "[disko]\ntable"), DocumentError, r"\$"),
    ("UUID that is none", _swap('label = "part"', 'label = "part"\nuuid = "1"'), DocumentError, r"\.uuid"),
    (
        "flags on a bare disk",
        _swap('label = "part"', 'label = "part"\nflags = ["hidden"]'),
        DocumentError,
        "neither disk UUID nor flags",
    ),
    ("a flag that is none", _odd_flag, DocumentError, "not a valid partition flag"),
    (
        "two sources",
        _swap('tree = "tree"', 'tree = "tree", file = "x"'),
        DocumentError,
        r"\.source: a partition has one source",
    ),
    (
        "no source",
        _swap('tree = "tree", filesystem', "filesystem"),
        DocumentError,
        r"\.source: a partition has one source",
    ),
    ("a BIOS without a table", _swap('mode = "direct"\nkernel = "vmlinuz"', 'mode = "bios"'), DocumentError, "BIOS"),
    ("a kernel for a BIOS", _swap('mode = "direct"', 'mode = "bios"'), DocumentError, "belong together"),
    (
        "a type that is none",
        _swap('label = "part"', 'label = "part"\ntype = "x"'),
        DocumentError,
        "not a valid partition type",
    ),
    (
        "a blank too small",
        _swap('tree = "tree", filesystem = "erofs"', 'blank = "xfs", size = "1MiB"'),
        DocumentError,
        "at least",
    ),
    ("not TOML", lambda _: "][", DocumentError, "is not TOML"),
    ("an old name", _swap('name = "worker"', 'name = "Worker 1"'), DocumentError, r"\$.image.name"),
)


@pytest.mark.parametrize(("scenario", "error", "reason"), [pytest.param(*row[1:], id=row[0]) for row in WRONG])
def test_recipes_that_cannot_be_built(
    tmp_path: Path, scenario: Callable[[Path], str], error: type[CatalogError], reason: str
) -> None:
    """Each is refused with its place, and nothing is left."""
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    _plain(here)
    (here / "recipe.toml").write_text(scenario(here))
    with pytest.raises(error, match=reason):
        build_image(here / "recipe.toml", there / "image")
    assert names(there) == []


def test_the_plain_recipe_builds(tmp_path: Path) -> None:
    """What the table above breaks is whole by itself; and a recipe that is not there is said to be."""
    _plain(tmp_path)
    (tmp_path / "recipe.toml").write_text(RECIPE)
    build_image(tmp_path / "recipe.toml", tmp_path / "image")
    with pytest.raises(NotFound, match="cannot be read"):
        build_image(tmp_path / "no.toml", tmp_path / "other")


def test_a_tree_is_linted(tmp_path: Path) -> None:
    """What should not be published is seen before it is."""
    _plain(tmp_path)
    (tmp_path / "tree/etc/ssh").mkdir(parents=True)
    (tmp_path / "tree/etc/ssh/ssh_host_ed25519_key").write_text("key")
    (tmp_path / "recipe.toml").write_text(RECIPE)
    (finding,) = build_image(tmp_path / "recipe.toml", tmp_path / "image").findings
    assert (finding.rule, finding.path) == ("host-key", "/etc/ssh/ssh_host_ed25519_key")
