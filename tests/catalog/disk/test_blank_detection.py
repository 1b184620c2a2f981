"""What becomes a blank, and what looks like one and does not."""

import os
import random
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.disk.blank_detection import detect_blank
from catalog.image.manifest import Blank
from tests.support.catalog.disk_images import MIB, formatted, put, run

Make = Callable[[Path], Path]


def look(path: Path) -> Blank | None:
    """What a file is recognised as."""
    with path.open("rb") as file:
        return detect_blank(lambda offset, length: os.pread(file.fileno(), length, offset), path.stat().st_size)


UNUSED: tuple[tuple[str, int, str, str, tuple[str, ...]], ...] = (
    ("swap", 16 * MIB, "swap", "sw", ("mkswap", "-q", "-L", "sw")),
    ("swap without a label", 1 << 16, "swap", "", ("mkswap", "-q")),
    ("ext4", 64 * MIB, "ext4", "scratch", ("mkfs.ext4", "-q", "-L", "scratch")),
    ("ext4 with small blocks", 2 * MIB, "ext4", "", ("mkfs.ext4", "-q", "-b", "1024")),
    ("ext4 with an orphan file", 64 * MIB, "ext4", "", ("mkfs.ext4", "-q", "-O", "orphan_file")),
    ("ext4 of 32 bits", 64 * MIB, "ext4", "", ("mkfs.ext4", "-q", "-O", "^64bit,^metadata_csum")),
    ("a large ext4", 8 << 30, "ext4", "", ("mkfs.ext4", "-q")),
    ("xfs", 300 * MIB, "xfs", "x", ("mkfs.xfs", "-q", "-L", "x")),
    ("a large xfs", 4 << 30, "xfs", "", ("mkfs.xfs", "-q")),
    ("xfs without reflink", 300 * MIB, "xfs", "", ("mkfs.xfs", "-q", "-m", "reflink=0")),
    ("FAT12", 4 * MIB, "vfat", "ESP", ("mkfs.vfat", "-F", "12", "-n", "ESP")),
    ("FAT16", 64 * MIB, "vfat", "ESP", ("mkfs.vfat", "-F", "16", "-n", "ESP")),
    ("FAT32", 600 * MIB, "vfat", "", ("mkfs.vfat", "-F", "32")),
)


@pytest.mark.parametrize(
    ("size", "filesystem", "label", "command"), [pytest.param(*row[1:], id=row[0]) for row in UNUSED]
)
def test_unused(tmp_path: Path, size: int, filesystem: str, label: str, command: tuple[str, ...]) -> None:
    """What mkfs leaves is recognised, with its label and the partition's size."""
    found = look(formatted(tmp_path / "disk", size, *command))
    assert found == Blank(size=size, filesystem=filesystem, label=label)  # type: ignore[arg-type]


def _ext4(path: Path, *options: str) -> Path:
    return formatted(path, 64 * MIB, "mkfs.ext4", "-q", *options)


def _debugged(path: Path, command: str) -> Path:
    run("debugfs", "-w", "-R", command, _ext4(path))
    return path


def _patched(path: Path, offset: int, content: bytes) -> Path:
    put(path, offset, content)
    return path


def _vfat_with_file(path: Path) -> Path:
    formatted(path, 64 * MIB, "mkfs.vfat", "-F", "16", "-n", "ESP")
    reserved, fats, length = (
        int.from_bytes(path.read_bytes()[at : at + n], "little") for at, n in ((14, 2), (16, 1), (22, 2))
    )
    put(path, (reserved + fats * length) * 512 + 32, b"FILE    TXT\x20".ljust(32, b"\0"))
    return path


def _xfs_with_file(path: Path) -> Path:
    (path.parent / "file").write_text("content")
    proto = path.parent / "proto"
    proto.write_text(f"/\n0 0\nd--755 0 0\nfile ---644 0 0 {path.parent}/file\n$\n")
    return formatted(path, 300 * MIB, "mkfs.xfs", "-q", "-p", str(proto))


def _ext4_with_tree(path: Path) -> Path:
    (path.parent / "tree").mkdir()
    (path.parent / "tree/file").write_text("content")
    return _ext4(path, "-d", str(path.parent / "tree"))


CONTENT: tuple[tuple[str, Make], ...] = (
    ("ext4 with a file", _ext4_with_tree),
    ("ext4 with a directory in it", lambda path: _debugged(path, "mkdir d")),
    ("ext4 whose root has another owner", lambda path: _ext4(path, "-E", "root_owner=1000:1000")),
    ("ext4 whose root has another mode", lambda path: _debugged(path, "sif / mode 041777")),
    ("ext4 without lost+found", lambda path: _debugged(path, "rmdir lost+found")),
    ("ext4 that was mounted", lambda path: _debugged(path, "ssv mtime 20260101")),
    ("ext4 that was mounted once", lambda path: _debugged(path, "ssv mnt_count 1")),
    ("ext4 that was not closed", lambda path: _debugged(path, "ssv state 2")),
    ("ext4 that must be recovered", lambda path: _debugged(path, "feature needs_recovery")),
    ("ext4 without a journal", lambda path: _ext4(path, "-O", "^has_journal")),
    ("ext4 that can encrypt", lambda path: _ext4(path, "-O", "encrypt")),
    ("ext4 with a label that no recipe says", lambda path: _ext4(path, "-L", "zwei Worte")),
    ("ext3", lambda path: formatted(path, 64 * MIB, "mkfs.ext3", "-q")),
    ("ext2", lambda path: formatted(path, 64 * MIB, "mkfs.ext2", "-q")),
    ("xfs with a file", _xfs_with_file),
    ("FAT with a file", _vfat_with_file),
    (
        "FAT with a cluster in use",
        lambda path: _patched(formatted(path, 64 * MIB, "mkfs.vfat", "-F", "16"), 4 * 512 + 8, b"\xff\xff"),
    ),
    (
        "swap that holds a sleeping system",
        lambda path: _patched(formatted(path, MIB, "mkswap", "-q"), 4086, b"S1SUSPEND\0"),
    ),
    (
        "swap larger than its partition",
        lambda path: _patched(formatted(path, MIB, "mkswap", "-q"), 1028, b"\xff\xff\0\0"),
    ),
    ("swap with bad pages", lambda path: _patched(formatted(path, MIB, "mkswap", "-q"), 1032, b"\x01\0\0\0")),
    ("btrfs' first bytes", lambda path: _patched(formatted(path, MIB, "mkswap", "-q"), 4086, bytes(10))),
)


@pytest.mark.parametrize("make", [pytest.param(row[1], id=row[0]) for row in CONTENT])
def test_content(tmp_path: Path, make: Make) -> None:
    """What anybody used, or what a recipe cannot make again, stays content."""
    assert look(make(tmp_path / "disk")) is None


@contextmanager
def mounted(disk: Path, place: Path) -> Iterator[Path]:
    """A filesystem as the kernel shows it."""
    place.mkdir()
    done = subprocess.run(["mount", "-o", "loop", disk, place], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"loop mounts do not work here: {done.stderr.strip()}")
    try:
        yield place
    finally:
        run("umount", place)
        place.rmdir()


@pytest.mark.parametrize(("command", "size"), [("mkfs.ext4", 64 * MIB), ("mkfs.xfs", 300 * MIB)])
def test_emptied_is_not_unused(tmp_path: Path, command: str, size: int) -> None:
    """A filesystem that somebody mounted is content, even when it is empty again."""
    disk = formatted(tmp_path / "disk", size, command, "-q")
    assert look(disk) is not None
    with mounted(disk, tmp_path / "place") as place:
        (place / "file").write_text("content")
    assert look(disk) is None
    with mounted(disk, tmp_path / "place") as place:
        (place / "file").unlink()
    assert look(disk) is None


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[bytes, int]]:
    """The first MiB of one unused filesystem of each kind."""
    found = {}
    for name, size, _, _, command in UNUSED:
        path = formatted(tmp_path_factory.mktemp("heads") / "disk", size, *command)
        with path.open("rb") as file:
            found[name] = file.read(MIB), size
        path.unlink()
    return found


@settings(max_examples=300, deadline=None)
@given(name=st.sampled_from([row[0] for row in UNUSED]), seed=st.integers(0, 1 << 32), cut=st.booleans())
def test_nothing_breaks_the_reader(heads: dict[str, tuple[bytes, int]], name: str, seed: int, cut: bool) -> None:
    """Superblocks full of nonsense are content or blanks, never an error and never an endless search."""
    noise = random.Random(seed)
    head, size = heads[name]
    data = bytearray(head)
    for _ in range(noise.randrange(1, 20)):
        at = noise.choice((noise.randrange(512), 1024 + noise.randrange(1024), noise.randrange(8192)))
        data[at] = noise.choice((0, 0xFF, noise.randrange(256)))
    if cut:
        del data[noise.randrange(len(data)) :]
    reads = 0

    def read(offset: int, length: int) -> bytes:
        nonlocal reads
        reads += 1
        assert 0 <= offset < offset + length <= size
        return bytes(data[offset : offset + length])

    found = detect_blank(read, size)
    assert found is None or found.size == size
    assert reads < 10_000
