"""kill -9 of a process that stages from a real catalog, again and again, at steps spread over the whole staging.

After each kill the cache is opened as the next process would: nothing is corrupt, nothing that was acknowledged is lost,
nothing lies about; and the next process goes on from there.
"""

import random
import threading
import time
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from catalog.client.client import CatalogClient
from catalog.image.manifest import Manifest
from stager.cache.cache import Cache
from stager.cache.disk import DiskOperations
from stager.cache.entries import CacheEntry, CacheItem
from stager.cache.partial_file import PartialFile
from stager.content.piece_map import PieceMap
from stager.errors import CacheBusy
from stager.fetch.http import FetchLimits
from stager.fetch.sources import HttpSource
from stager.staging import Stager, required_items
from tests.support.forkserver import PROCESSES
from tests.support.stager.cache_invariants import check_invariants
from tests.support.stager.caches import Served

QUOTA = 256 << 20
KILLS = 30
"""In the fast suite; --slow has many more."""


class Report:
    """What the child tells its parent, from any thread: `+key` for what is acknowledged, else the step that is next."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe, self._lock = pipe, threading.Lock()

    def __call__(self, text: str) -> None:
        with self._lock:
            self._pipe.send(text)


class ReportingDisk(DiskOperations):
    """A disk that tells each step before it is done."""

    def __init__(self, report: Report) -> None:
        self._report = report

    def create(self, path: Path, size: int) -> int:
        self._report("create")
        return super().create(path, size)

    def allocate(self, descriptor: int, offset: int, length: int) -> None:
        self._report("allocate")
        super().allocate(descriptor, offset, length)

    def write(self, descriptor: int, data: bytes | memoryview, offset: int) -> None:
        self._report("write")
        super().write(descriptor, data, offset)

    def seal(self, descriptor: int) -> None:
        self._report("seal")
        super().seal(descriptor)

    def sync(self, descriptor: int) -> None:
        self._report("sync")
        super().sync(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        self._report("rename")
        super().rename(source, target)

    def sync_directory(self, path: Path) -> None:
        self._report("sync_directory")
        super().sync_directory(path)


class ReportingCache(Cache):
    """A cache that tells what it has acknowledged."""

    report: Report

    def commit(self, incoming: PartialFile, thing: CacheItem, guide: PieceMap | None = None) -> CacheEntry:
        entry = super().commit(incoming, thing, guide)
        self.report(f"+{entry.key}")
        return entry


def child(root: Path, url: str, manifest: bytes, pipe: Connection) -> None:
    """Stage an image, telling every step."""
    report = Report(pipe)
    with CatalogClient(url) as client, ReportingCache(root, QUOTA, time.time, ReportingDisk(report)) as cache:
        cache.report = report
        Stager(cache, HttpSource(client), FetchLimits(2, 256 << 10)).stage(Manifest.parse(manifest), "machine:1", 3600)


def run(root: Path, served: Served, kill_after: int | None, pause: float = 0.0) -> list[str]:
    """Stage in a child and kill it `pause` seconds after it told its n-th step; returns all that it told."""
    ours, theirs = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=child, args=(root, served.url, served.bundle.manifest.canonical(), theirs))
    process.start()
    theirs.close()
    told: list[str] = []
    try:
        while True:
            assert ours.poll(60), "the child told nothing for a minute"
            told.append(ours.recv())
            if len(told) == kill_after:
                time.sleep(pause)
                process.kill()
    except EOFError:
        process.join(60)
        assert process.exitcode in (0, -9)
    finally:
        process.kill()
        process.join(60)
        process.close()
        ours.close()
    return told


def opened(root: Path) -> Cache:
    """The cache of a killed process: a child that it forked holds the lock until it has executed its program."""
    until = time.monotonic() + 30
    while True:
        try:
            return Cache(root, QUOTA, time.time)
        except CacheBusy:
            assert time.monotonic() < until, "the lock of a killed process is still held after 30 s"
            time.sleep(0.01)


def loop(root: Path, served: Served, kills: int, seed: int) -> Counter[str]:
    """Kill until `kills` hit a staging that was under way; returns how often what happened, and at which step."""
    chance = random.Random(seed)
    whole = run(root, served, None)
    assert {"create", "allocate", "write", "seal", "sync", "rename", "sync_directory"} <= set(whole)
    found: Counter[str] = Counter()
    everything = set(required_items(served.bundle.manifest))
    while found["kills"] < kills:
        with Cache(root, QUOTA, time.time) as cache:
            left = set(cache.acquire(everything, "machine:1", 3600).missing)
            if not left or chance.random() < 0.1:
                cache.release("machine:1")
                for entry in cache.entries():
                    cache.evict(entry.key)
        # Writes are most steps by far; half of the kills aim at all the others.
        at = chance.randrange(1, 40) if chance.random() < 0.5 else chance.randrange(1, len(whole))
        told = run(root, served, at, chance.random() * 0.004)
        with opened(root) as cache:
            check_invariants(cache)
            present = {entry.key for entry in cache.entries()}
            assert {text[1:] for text in told if text[0] == "+"} <= present, "acknowledged and lost"
            found["resumable"] += cache.recovered.resumable
            found["adopted"] += cache.recovered.adopted
            found["acknowledged"] += sum(text[0] == "+" for text in told)
        if len(told) >= at:
            found["kills"] += 1
            found[f"in {told[-1] if told[-1][0] != '+' else 'between'}"] += 1
        else:
            found["finished before"] += 1
    with CatalogClient(served.url) as client, Cache(root, QUOTA, time.time) as cache:
        Stager(cache, HttpSource(client)).stage(served.bundle.manifest, "machine:1", 3600)
        for address in served.bundle.manifest.contents():
            assert cache.path(address).read_bytes() == served.bundle.content(address).read_bytes()
        check_invariants(cache)
        assert list((root / "incoming").iterdir()) == []
    return found


def test_killed_stagings_lose_nothing_and_corrupt_nothing(
    tmp_path: Path, served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    found = loop(tmp_path / "cache", served, KILLS, seed=1)
    assert found["resumable"] >= KILLS // 4, "too few kills hit a transfer"
    assert found["acknowledged"] > 0
    with capsys.disabled():
        print(f"\n  {dict(found)}")  # noqa: T201 - the counts are part of the result


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_many_killed_stagings_lose_nothing_and_corrupt_nothing(
    tmp_path: Path, served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    found = loop(tmp_path / "cache", served, 500, seed=2)
    with capsys.disabled():
        print(f"\n  {dict(found)}")  # noqa: T201 - the counts are part of the result
