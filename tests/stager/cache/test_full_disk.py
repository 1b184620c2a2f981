"""A filesystem that is really full, and a process that may not write larger files."""

import multiprocessing
import os
import resource
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from catalog.errors import BlankFailed
from catalog.image.manifest import Manifest
from stager.cache.cache import Cache
from stager.cache.quota import RESERVE
from stager.errors import DiskFull
from stager.fetch.sources import ContentSource
from stager.staging import Stager
from tests.support.stager.cache_invariants import check_invariants
from tests.support.stager.caches import PACE, without_blanks
from tests.support.stager.fakes import MIB, Clock, MemorySource

Image = tuple[Manifest, MemorySource]


@pytest.fixture(params=["tmpfs", "ext4"])
def small(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A filesystem of 24 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a filesystem needs root")
    where = tmp_path / "small"
    where.mkdir()
    if request.param == "tmpfs":
        command = ["mount", "-t", "tmpfs", "-o", "size=24m", "none", str(where)]
    else:
        disk = tmp_path / "disk"
        with disk.open("wb") as file:
            file.truncate(24 * MIB)
        subprocess.run(["/usr/sbin/mkfs.ext4", "-q", "-O", "^has_journal", str(disk)], check=True)
        command = ["mount", "-o", "loop", str(disk), str(where)]
    subprocess.run(command, check=True)
    try:
        yield where
    finally:
        subprocess.run(["umount", "--lazy", str(where)], check=True)


def fill_but(where: Path, left: int) -> Path:
    """Take all but `left` bytes of a filesystem."""
    ballast = where / "ballast"
    found = os.statvfs(where)
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, found.f_bavail * found.f_frsize - left)
    return ballast


def test_too_little_room_is_found_before_anything_is_written(small: Path, clock: Clock, image: Image) -> None:
    manifest, source = image
    manifest = without_blanks(manifest)
    with Cache(small / "cache", 16 * MIB, clock) as cache:
        ballast = fill_but(small, RESERVE + 2 * MIB)
        with pytest.raises(DiskFull, match="bytes are needed; the filesystem has"):
            Stager(cache, source, PACE).stage(manifest, "m", 60)
        assert source.reads == []
        assert list((cache.root / "incoming").iterdir()) == []
        check_invariants(cache)
        ballast.unlink()
        Stager(cache, source, PACE).stage(manifest, "m", 60)
        check_invariants(cache)


def test_room_that_others_take_meanwhile_ends_in_a_clear_error_and_nothing_left(
    small: Path, clock: Clock, image: Image
) -> None:
    manifest, source = image
    manifest = without_blanks(manifest)
    source.gate = threading.Event()
    source.maps.clear()  # without maps and layers nothing is set aside at once: the writes themselves must fail
    source.layers.clear()
    with Cache(small / "cache", 16 * MIB, clock) as cache:
        failures: list[BaseException] = []

        def stage() -> None:
            try:
                Stager(cache, source, PACE).stage(manifest, "m", 60)
            except DiskFull as exc:
                failures.append(exc)

        thread = threading.Thread(target=stage)
        thread.start()
        while not cache.usage().reserved:
            pass
        ballast = fill_but(small, MIB // 2)
        source.gate.set()
        thread.join(60)
        (failure,) = failures
        assert "the disk is full" in str(failure)
        assert list((cache.root / "incoming").iterdir()) == []
        assert cache.leases() == []
        check_invariants(cache)
        ballast.unlink()
        Stager(cache, source, PACE).stage(manifest, "m", 60)
        check_invariants(cache)


def test_idle_entries_give_way_to_a_full_disk_below_the_quota(small: Path, clock: Clock, image: Image) -> None:
    manifest, source = image
    manifest = without_blanks(manifest)
    with Cache(small / "cache", 16 * MIB, clock) as cache:
        Stager(cache, source, PACE).stage(manifest, "m", 60)
        clock.now += 61
        (large, *_) = sorted(manifest.contents(), key=lambda address: -address.size)
        fill_but(small, RESERVE)
        with cache.reserve({large.__class__.of(b"another"): 2 * MIB}):
            assert len(cache.entries()) < len(manifest.contents())
        check_invariants(cache)


def stage_with_limit(root: Path, image: Image, answer: "multiprocessing.connection.Connection") -> None:
    """In a child: no file may become larger than 2 MiB."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * MIB, 2 * MIB))
    try:
        with Cache(root, 16 * MIB, Clock()) as cache:
            Stager(cache, image[1], PACE).stage(image[0], "m", 60)
    except (DiskFull, BlankFailed) as exc:
        answer.send(str(exc))
    else:
        answer.send("staged")


def test_a_process_that_may_not_write_large_files_says_so(root: Path, clock: Clock, image: Image) -> None:
    manifest, source = image
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    plain = MemorySource(source.contents, {})
    plain.__dict__.pop("_lock")
    child = context.Process(target=stage_with_limit, args=(root, (without_blanks(manifest), Picklable(plain)), theirs))
    child.start()
    try:
        assert ours.poll(60)
        assert "the disk is full" in ours.recv()
    finally:
        child.join(30)
        child.close()
    with Cache(root, 16 * MIB, clock) as cache:
        check_invariants(cache)


class Picklable(ContentSource):
    """A source that can be handed to another process."""

    def __init__(self, source: MemorySource) -> None:
        self.contents = source.contents

    def read(self, address, ranges):  # type: ignore[no-untyped-def]
        for start, end in ranges:
            yield self.contents[address][start:end]
