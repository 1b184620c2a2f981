"""Images from recipes: the same in, the same out; what cannot be built is said with its place."""

import os
import random
import re
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.builder.filesystem_images import make_erofs, make_ext4
from catalog.builder.recipe import Recipe, parse_size
from catalog.builder.recipe_build import build_image
from catalog.content.indexing import index_file, verify_content
from catalog.errors import CatalogError, DiskRefused, Malformed, Misused, NotFound
from catalog.image.bundle import Bundle
from catalog.image.manifest import BareDisk, DirectBoot, GptDisk
from signer.errors import DocumentError
from tests.support.catalog.disk_images import MIB, assembled, names, run, tree

UUID = "6f1b7a5e-8c0d-4f43-9d0e-6d2f0a5f7c31"
EXAMPLE = Path(__file__).parents[3] / "examples/recipes"
MAKERS = {"erofs": make_erofs, "ext4": make_ext4}


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


@pytest.mark.parametrize("filesystem", MAKERS)
def test_same_tree_same_address(tmp_path: Path, filesystem: str) -> None:
    """Order, times, inode numbers and whoever builds do not matter; a byte, a mode or a name does."""
    make = MAKERS[filesystem]

    def address(root: Path) -> str:
        target = tmp_path / f"{root.name}.img"
        make(root, target, UUID, owner="root")
        return str(index_file(target).address)

    first = address(tree(tmp_path / "one"))
    other = tree(tmp_path / "two", random.Random(7))
    for path in other.rglob("*"):
        os.utime(path, (12345, 67890), follow_symlinks=False)
    if os.geteuid() == 0:
        os.chown(other / "d0/f2", 1000, 1001)
    assert os.listdir(other) != sorted(os.listdir(other))  # noqa: PTH208 - the raw order is the point
    assert address(other) == first
    for change in (
        lambda root: (root / "d0/f3").write_bytes(b"changed"),
        lambda root: (root / "d0/f3").chmod(0o600),
        lambda root: (root / "d0/f3").rename(root / "d0/g3"),
        lambda root: ((root / "d1/link").unlink(), (root / "d1/link").symlink_to("../d0/f1")),
    ):
        root = tree(tmp_path / f"changed{random.random()}")
        change(root)
        assert address(root) != first


def test_an_ext4_is_sound_and_holds_the_tree(tmp_path: Path) -> None:
    """e2fsck finds no fault, and every file comes out as it went in."""
    root = tree(tmp_path / "tree")
    (root / "lost+found").mkdir()
    target = tmp_path / "disk"
    make_ext4(root, target, UUID, owner="root", label="settings")
    run("e2fsck", "-fn", target)
    (tmp_path / "out").mkdir()
    run("debugfs", "-R", f"rdump / {tmp_path}/out", target)
    found = tmp_path / "out"
    for path in sorted(root.rglob("*")):
        twin = found / path.relative_to(root)
        ours, theirs = path.lstat(), twin.lstat()
        assert stat.S_IFMT(ours.st_mode) == stat.S_IFMT(theirs.st_mode), path
        if path.is_symlink():
            assert path.readlink() == twin.readlink()
        else:
            assert ours.st_mode & 0o777 == theirs.st_mode & 0o777, path
            if path.is_file():
                assert path.read_bytes() == twin.read_bytes(), path
    assert "Mode:  04755" in run("debugfs", "-R", "stat /d0/f1", target).decode()
    listing = run("debugfs", "-R", "stat /d0/f0", target).decode()
    assert "Links: 2" in listing
    assert "mtime: 0x00000001" in listing.replace("00000001:00000000", "00000001")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to others")
@pytest.mark.parametrize("filesystem", MAKERS)
def test_owners_are_kept_where_wanted(tmp_path: Path, filesystem: str) -> None:
    """`owner = "keep"` is for trees that are whole systems."""
    root = tree(tmp_path / "tree")
    os.chown(root / "d0/f2", 1000, 1001)
    for owner, wanted in (("keep", (1000, 1001)), ("root", (0, 0))):
        target = tmp_path / owner
        MAKERS[filesystem](root, target, UUID, owner=owner)
        if filesystem == "ext4":
            listing = run("debugfs", "-R", "stat /d0/f2", target).decode().split()
            assert (int(listing[listing.index("User:") + 1]), int(listing[listing.index("Group:") + 1])) == wanted
        else:
            run("fsck.erofs", "--preserve", f"--extract={tmp_path}/{owner}.out", target)
            status = (tmp_path / f"{owner}.out/d0/f2").stat()
            assert (status.st_uid, status.st_gid) == wanted


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
    ("no such tree", _swap('tree = "tree"', 'tree = "no"'), NotFound, "no: there is no such directory"),
    ("no such kernel", _swap('"vmlinuz"', '"no"'), NotFound, "no: there is no such file"),
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
    ("a size without a unit", _swap('"128MiB"', '"128"'), DocumentError, r"\$.image.needs.memory: .* such as '64MiB'"),
    ("a size that is a number", _swap('"128MiB"', "128"), DocumentError, r"\$.image.needs.memory"),
    ("a size for erofs", _swap('"erofs"', '"erofs", size = "1MiB"'), DocumentError, "leave size and label out"),
    ("erofs that is written to", _swap("read-only", "copy-on-write"), Misused, "an erofs cannot be written to"),
    ("a tree that does not fit", _too_much, Misused, "does not fit into an ext4 of 4194304 bytes"),
    ("a name with a quote", _named_with_a_quote, DiskRefused, "has a quote or a line end in its name"),
    ("a socket", _socket, DiskRefused, "is a socket"),
    ("no disk", _swap("[[disk]]\ntable", "[disko]\ntable"), DocumentError, r"\$"),
    ("UUID that is none", _swap('label = "part"', 'label = "part"\nuuid = "1"'), DocumentError, r"\.uuid"),
    (
        "flags on a bare disk",
        _swap('label = "part"', 'label = "part"\nflags = ["hidden"]'),
        DocumentError,
        "no disk UUID and no flags",
    ),
    ("a flag that is none", _odd_flag, DocumentError, "no partition flag"),
    ("two sources", _swap('tree = "tree"', 'tree = "tree", file = "x"'), DocumentError, r"\.source: .*one thing"),
    ("no source", _swap('tree = "tree", filesystem', "filesystem"), DocumentError, r"\.source: .*one thing"),
    ("a BIOS without a table", _swap('mode = "direct"\nkernel = "vmlinuz"', 'mode = "bios"'), DocumentError, "BIOS"),
    ("a kernel for a BIOS", _swap('mode = "direct"', 'mode = "bios"'), DocumentError, "belong together"),
    ("a type that is none", _swap('label = "part"', 'label = "part"\ntype = "x"'), DocumentError, "no partition type"),
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


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 1 << 32))
def test_no_recipe_breaks_the_parser(seed: int) -> None:
    """Mutated recipes are recipes or DocumentErrors."""
    noise = random.Random(seed)
    text = list(EXAMPLE.joinpath("worker.toml").read_text())
    for _ in range(noise.randrange(1, 12)):
        at = noise.randrange(len(text))
        match noise.randrange(3):
            case 0:
                text[at] = chr(noise.choice((0, 10, 34, 61, 91, 93, 0x2028, noise.randrange(32, 127))))
            case 1:
                del text[at : at + noise.randrange(40)]
            case _:
                text[at:at] = text[noise.randrange(len(text)) :][: noise.randrange(60)]
    try:
        recipe = Recipe.parse("".join(text).encode("utf-8", "replace"), "recipe")
    except DocumentError:
        return
    assert recipe.uuid(0) == recipe.uuid(0) != recipe.uuid(0, 0)


@settings(max_examples=300)
@given(st.one_of(st.text(max_size=20), st.from_regex(r"[0-9]{1,20}(B|KiB|MiB|GiB|TiB)", fullmatch=True), st.integers()))
def test_sizes(text: object) -> None:
    """A size is a positive number of bytes, or a ValueError that shows how to write one."""
    if isinstance(text, str) and re.fullmatch(r"[1-9][0-9]{0,13}(B|KiB|MiB|GiB|TiB)", text):
        try:
            assert 1 <= parse_size(text) <= 1 << 46
        except ValueError:
            assert int(re.match("[0-9]+", text)[0]) > 64  # type: ignore[index] # only what is beyond 64 TiB
    else:
        with pytest.raises(ValueError, match="64MiB"):
            parse_size(text)
