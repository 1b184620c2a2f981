"""Blanks are real filesystems, the same every time, and nearly nothing on the disk."""

import os
import subprocess
from pathlib import Path

import pytest

from catalog.errors import BlankFailed
from catalog.image.blanks import blank_digest, filesystem_uuid, make_blank, reserved_size
from catalog.image.manifest import Blank
from stager.cache.entries import blank_key

MIB = 1 << 20
RECIPES = [
    Blank(size=64 * MIB, filesystem="ext4", label="scratch"),
    Blank(size=MIB, filesystem="ext4"),
    Blank(size=8 << 30, filesystem="ext4", label="sixteen-chars-ok"),
    Blank(size=300 * MIB, filesystem="xfs", label="data"),
    Blank(size=MIB, filesystem="vfat", label="BOOT"),
    Blank(size=200 * MIB, filesystem="vfat"),
    Blank(size=64 * MIB, filesystem="swap", label="swap0"),
    Blank(size=40 << 10, filesystem="swap"),
    Blank(size=512, filesystem="none"),
    Blank(size=4 << 30, filesystem="none"),
]
CHECKS = {
    "ext4": ["e2fsck", "-f", "-n"],
    "xfs": ["xfs_repair", "-n"],
    "vfat": ["fsck.vfat", "-n"],
    "swap": ["swaplabel"],
}


def made(path: Path, blank: Blank) -> Path:
    with path.open("wb") as file:
        file.truncate(blank.size)
    make_blank(blank, path)
    return path


def tool(*command: str) -> str:
    environment = os.environ | {"PATH": os.environ["PATH"] + ":/usr/sbin:/sbin", "LC_ALL": "C"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return blank_digest(file.fileno())


@pytest.mark.parametrize("blank", RECIPES, ids=lambda blank: f"{blank.filesystem}-{blank.size}")
def test_a_blank_is_what_its_recipe_says(tmp_path: Path, blank: Blank) -> None:
    path = made(tmp_path / "first", blank)
    assert path.stat().st_size == blank.size
    assert path.stat().st_blocks * 512 <= reserved_size(blank)
    if blank.filesystem == "none":
        assert path.stat().st_blocks == 0
        return
    tool(*CHECKS[blank.filesystem], str(path))
    found = dict(
        line.split("=", 1) for line in tool("blkid", "-p", "-o", "export", str(path)).splitlines() if "=" in line
    )
    assert found["TYPE"] == blank.filesystem
    assert found.get("LABEL", "") == blank.label
    own = str(filesystem_uuid(blank))
    assert found["UUID"] == (f"{own[:4]}-{own[4:8]}".upper() if blank.filesystem == "vfat" else own)


@pytest.mark.parametrize("blank", RECIPES, ids=lambda blank: f"{blank.filesystem}-{blank.size}")
def test_equal_recipes_give_equal_bytes(tmp_path: Path, blank: Blank) -> None:
    first, second = made(tmp_path / "first", blank), made(tmp_path / "second", blank)
    assert digest(first) == digest(second)
    if blank.size <= 300 * MIB:  # the digest's own claim, byte for byte
        subprocess.run(["cmp", str(first), str(second)], check=True)


def test_other_recipes_give_other_keys_and_identities() -> None:
    assert (
        len({blank_key(blank) for blank in RECIPES})
        == len({filesystem_uuid(blank) for blank in RECIPES})
        == len(RECIPES)
    )


def test_the_digest_depends_on_bytes_and_size_and_not_on_holes(tmp_path: Path) -> None:
    sparse, dense, longer, other = (tmp_path / name for name in ("sparse", "dense", "longer", "other"))
    for path, size in ((sparse, MIB), (longer, 2 * MIB), (other, MIB)):
        with path.open("wb") as file:
            file.truncate(size)
            file.seek(5000)
            file.write(b"x" if path != other else b"y")
    dense.write_bytes(sparse.read_bytes())
    assert digest(sparse) == digest(dense)
    assert len({digest(sparse), digest(longer), digest(other)}) == 3


def test_a_missing_tool_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("catalog.image.blanks.SYSTEM_PATH", "")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BlankFailed, match=r"mkfs\.ext4 is not installed"):
        made(tmp_path / "blank", RECIPES[0])


def test_what_a_tool_refuses_is_told(tmp_path: Path) -> None:
    (tmp_path / "short").write_bytes(b"")
    with pytest.raises(BlankFailed, match=r"mkfs\.xfs failed with exit code"):
        make_blank(RECIPES[3], tmp_path / "short")
