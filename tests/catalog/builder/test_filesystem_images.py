"""Filesystems made from trees: the same tree gives the same bytes, sound and with its owners."""

import os
import random
import stat
from pathlib import Path

import pytest

from catalog.builder.filesystem_images import make_erofs, make_ext4
from catalog.content.indexing import index_file
from tests.support.catalog.disk_images import run, tree

UUID = "6f1b7a5e-8c0d-4f43-9d0e-6d2f0a5f7c31"


MAKERS = {"erofs": make_erofs, "ext4": make_ext4}


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
