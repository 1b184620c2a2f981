"""What was altered, lost or left behind in the cache is found at a check or when it is opened, and a cache has one owner."""

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from catalog.image.address import LEAF, Address
from stager.cache.cache import Cache
from stager.cache.entries import SAMPLE_LEAVES, CacheItem, sample_offsets
from stager.errors import (
    CacheBusy,
    CacheDegraded,
    CacheUnusable,
    EntryChanged,
    NotCached,
)
from tests.stager.cache.test_cache import BLANK, A, B, C, put
from tests.support.stager.cache_invariants import check_invariants
from tests.support.stager.fakes import MIB, Clock, FailingDisk


def rewrite(path: Path) -> None:
    path.chmod(0o600)
    path.write_bytes(B)


def flip(path: Path, offset: int = 0) -> None:
    before = path.stat()
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 1]))
    path.chmod(0o444)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    other.replace(path)


def truncate(path: Path) -> None:
    path.chmod(0o600)
    os.truncate(path, LEAF)


def link(path: Path) -> None:
    path.rename(path.parent / "moved")
    path.symlink_to(path.parent / "moved")


def become_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (rewrite, "has been written to"),
        (flip, "has other bytes"),
        (replace, "has been replaced by another file"),
        (truncate, f"has {LEAF} bytes instead of {3 * LEAF}"),
        (link, "cannot be opened"),
        (become_directory, "is not a regular file"),
        (Path.unlink, "cannot be opened"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_an_entry_that_is_not_the_verified_one_is_dropped(
    cache: Cache, harm: Callable[[Path], None], reason: str
) -> None:
    address = put(cache, A)
    cache.check(address)
    cache.acquire([address], "machine:1", 60)
    harm(cache.path(address))
    with pytest.raises(EntryChanged, match=reason):
        cache.check(address)
    assert cache.acquire([address], "machine:1", 60).missing == (address,)
    put(cache, A)
    cache.check(address, full=True)


def test_a_bit_outside_the_sample_is_found_by_the_full_check(cache: Cache) -> None:
    content = os.urandom(400 * LEAF)
    address = put(cache, content)
    unsampled = next(at for at in range(0, len(content), LEAF) if at not in sample_offsets(str(address), len(content)))
    flip(cache.path(address), unsampled)
    cache.check(address)
    with pytest.raises(EntryChanged, match="has other bytes"):
        cache.check(address, full=True)


def test_a_changed_blank_is_found(cache: Cache) -> None:
    with cache.reserve({BLANK: 0}), cache.fill(BLANK) as incoming:
        assert incoming is not None
        cache.commit(incoming, BLANK)
    cache.check(BLANK, full=True)
    entry = cache.entry(BLANK)
    unsampled = next(at for at in range(0, BLANK.size, LEAF) if at not in sample_offsets(entry.key, BLANK.size))
    flip(cache.path(BLANK), unsampled)
    cache.check(BLANK)
    with pytest.raises(EntryChanged, match="has other bytes"):
        cache.check(BLANK, full=True)


def test_samples_read_little_of_much_and_follow_from_the_key() -> None:
    offsets = sample_offsets("key", 64 << 30)
    assert offsets == sample_offsets("key", 64 << 30) != sample_offsets("other", 64 << 30)
    assert {0, (64 << 30) - LEAF} <= set(offsets)
    assert len(offsets) <= SAMPLE_LEAVES + 2
    assert sample_offsets("key", 10) == (0,)


# Recovery


def lose_row(cache: Cache, address: Address) -> None:
    with sqlite3.connect(cache.root / "ledger.db") as db:
        db.execute("DELETE FROM entries WHERE key = ?", (str(address),))
    db.close()


def test_a_file_without_a_row_is_hashed_and_adopted(cache: Cache, clock: Clock) -> None:
    address = put(cache, A)
    cache.close()
    lose_row(cache, address)
    with Cache(cache.root, cache.quota, clock) as again:
        assert again.recovered.adopted == 1
        again.check(address, full=True)
        check_invariants(again)


def test_a_file_without_a_row_and_with_other_bytes_is_removed(cache: Cache, clock: Clock) -> None:
    address = put(cache, A)
    path = cache.path(address)
    cache.close()
    lose_row(cache, address)
    flip(path)
    with Cache(cache.root, cache.quota, clock) as again:
        assert (again.recovered.adopted, again.recovered.removed) == (0, 1)
        assert not path.exists()
        check_invariants(again)


def test_a_row_without_a_file_is_dropped(cache: Cache, clock: Clock) -> None:
    address = put(cache, A)
    path = cache.path(address)
    cache.close()
    path.unlink()
    with Cache(cache.root, cache.quota, clock) as again:
        assert again.recovered.dropped == 1
        with pytest.raises(NotCached):
            again.path(address)


def test_a_lost_ledger_is_made_again_from_the_files(cache: Cache, clock: Clock) -> None:
    addresses = [put(cache, content) for content in (A, B)]
    cache.close()
    for path in cache.root.glob("ledger.db*"):
        path.unlink()
    with Cache(cache.root, cache.quota, clock) as again:
        assert again.recovered.adopted == 2
        for address in addresses:
            again.check(address, full=True)


@pytest.mark.parametrize("where", ["partitions/zz", "partitions/ab/stray", "blanks/stray", "incoming/stray", "trash/x"])
@pytest.mark.parametrize("kind", ["file", "directory", "link"])
def test_litter_is_removed(cache: Cache, clock: Clock, where: str, kind: str) -> None:
    put(cache, A)
    cache.close()
    stray = cache.root / where
    stray.parent.mkdir(exist_ok=True)
    outside = cache.root.parent / "outside"
    outside.write_text("stays")
    if kind == "file":
        stray.write_bytes(b"litter")
    elif kind == "link":
        stray.symlink_to(outside)
    elif where != "partitions/zz":
        (stray / "deeper").mkdir(parents=True)
    with Cache(cache.root, cache.quota, clock) as again:
        check_invariants(again)
        assert len(again.entries()) == 1
    assert outside.read_text() == "stays"


def test_a_content_in_another_ones_place_is_removed(cache: Cache, clock: Clock) -> None:
    address = put(cache, A)
    cache.close()
    wrong = cache.root / "partitions" / "zz"
    wrong.mkdir()
    (wrong / str(address)).write_bytes(A)
    with Cache(cache.root, cache.quota, clock) as again:
        check_invariants(again)


def test_what_lies_beside_the_caches_directories_is_left_alone(cache: Cache, clock: Clock) -> None:
    cache.close()
    (cache.root / "notes.txt").write_text("mine")
    Cache(cache.root, cache.quota, clock).close()
    assert (cache.root / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda db: db.write_bytes(b"no database at all, and long enough to be read as one" * 100), "not a database"),
        (lambda db: _set_version(db), "another version of Partita"),
    ],
    ids=["garbage", "version"],
)
def test_an_unreadable_ledger_is_refused_with_what_to_do(
    cache: Cache, clock: Clock, harm: Callable[[Path], None], message: str
) -> None:
    cache.close()
    for path in cache.root.glob("ledger.db-*"):
        path.unlink()
    harm(cache.root / "ledger.db")
    with pytest.raises(CacheUnusable, match=message):
        Cache(cache.root, cache.quota, clock)
    (cache.root / "ledger.db").unlink()
    Cache(cache.root, cache.quota, clock).close()


def _set_version(path: Path) -> None:
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 99")
    db.close()


def test_a_directory_that_cannot_be_one_is_refused(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheUnusable, match="cannot be used as a cache"):
        Cache(tmp_path / "file", MIB, clock)


# Ownership


def test_a_second_owner_is_refused_and_told_who_is_first(cache: Cache) -> None:
    again = f"""
import sys, time
from pathlib import Path
from stager.cache.cache import Cache
from stager.errors import CacheBusy
try:
    Cache(Path({str(cache.root)!r}), 1 << 30, time.time)
except CacheBusy as exc:
    sys.exit(str(exc))
"""
    done = subprocess.run([sys.executable, "-c", again], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"in use by the running process {os.getpid()}" in done.stderr


def test_one_process_cannot_open_it_twice_either(cache: Cache, clock: Clock) -> None:
    with pytest.raises(CacheBusy):
        Cache(cache.root, cache.quota, clock)


# A disk that fails


def test_after_a_failed_fsync_nothing_more_is_taken_until_it_is_opened_again(root: Path, clock: Clock) -> None:
    disk = FailingDisk(at=0)
    with Cache(root, 1 << 30, clock, disk) as cache:
        kept = put(cache, A)
        disk.at = len(disk.steps) + disk.steps.index("sync") + 1
        with pytest.raises(CacheDegraded, match="could not be made durable"):
            put(cache, B)
        with pytest.raises(CacheDegraded, match="check the disk"):
            put(cache, C)
        cache.check(kept, full=True)
        assert list((root / "incoming").iterdir()) == []
    wanted: list[CacheItem] = [Address.of(B), kept]
    with Cache(root, 1 << 30, clock) as cache:
        assert cache.acquire(wanted, "m", 60).present == (kept,)
        put(cache, B)
        check_invariants(cache)
