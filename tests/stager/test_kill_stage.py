"""kill -9 of a process that stages from a real catalog, again and again, at instants spread over the whole staging.

After each kill the cache is opened as the next process would: nothing is corrupt, nothing that was acknowledged is lost,
nothing lies about; and the next process goes on.
"""

import multiprocessing
import random
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from catalog.client import CatalogClient
from catalog.manifest import Blank, Manifest
from stager.cache import Cache
from stager.entries import Entry, Wanted
from stager.fetching import Pace
from stager.filling import Incoming
from stager.pieces import Guide
from stager.sources import HttpSource
from stager.staging import Stager
from tests.stager.conftest import Served
from tests.stager.invariants import check_invariants

QUOTA = 256 << 20
KILLS = 25
"""In the fast suite; --slow has many more."""

MODULES = ["catalog.client", "stager.staging", "tests.stager.test_kill_stage"]


class Reporting(Cache):
    """A cache that tells its parent what it has acknowledged, once it has."""

    report: Connection

    def commit(self, incoming: Incoming, thing: Wanted, guide: Guide | None = None) -> Entry:
        entry = super().commit(incoming, thing, guide)
        self.report.send(entry.key)
        return entry


def child(root: Path, url: str, manifest: bytes, report: Connection) -> None:
    """Stage an image; send the keys of what was committed, then `done`."""
    with CatalogClient(url) as client, Reporting(root, QUOTA, time.time) as cache:
        cache.report = report
        report.send("open")
        Stager(cache, HttpSource(client), Pace(2, 256 << 10)).stage(Manifest.parse(manifest), "machine:1", 3600)
    report.send("done")


def loop(root: Path, served: Served, kills: int, seed: int) -> dict[str, int]:
    """Kill until `kills` hit a staging that was under way; returns counts of what happened."""
    instants = random.Random(seed)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(MODULES)
    manifest = served.bundle.manifest
    found = {"killed": 0, "finished": 0, "resumable": 0, "adopted": 0, "kept": 0}
    longest = 0.5
    while found["killed"] < kills:
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=child, args=(root, served.url, manifest.canonical(), theirs))
        process.start()
        theirs.close()
        said: list[str] = []
        try:
            assert ours.poll(30)
            said.append(ours.recv())
            started = time.monotonic()
            # Quadratic: a staging that goes on where others were killed is short.
            process.join(instants.random() ** 2 * longest)
            process.kill()
        finally:
            process.join(30)
        while ours.poll():
            try:
                said.append(ours.recv())
            except EOFError:
                break
        ours.close()
        process.close()
        acknowledged = {key for key in said if key not in {"open", "done"}}
        with Cache(root, QUOTA, time.time) as cache:
            check_invariants(cache)
            present = {entry.key for entry in cache.entries()}
            assert acknowledged <= present, "acknowledged and lost"
            found["resumable"] += cache.recovered.resumable
            found["adopted"] += cache.recovered.adopted
            found["kept"] += len(present)
            if "done" in said:
                found["finished"] += 1
                longest = max(0.05, min(longest, (time.monotonic() - started) * 1.2))
                check_whole(cache, served)
            else:
                found["killed"] += 1
            if "done" in said or instants.random() < 0.15:  # start over
                cache.release("machine:1")
                for entry in cache.entries():
                    cache.evict_key(entry.key)
    with CatalogClient(served.url) as client, Cache(root, QUOTA, time.time) as cache:
        Stager(cache, HttpSource(client)).stage(manifest, "machine:1", 3600)
        check_whole(cache, served)
        check_invariants(cache)
        assert list((root / "incoming").iterdir()) == []
    return found


def check_whole(cache: Cache, served: Served) -> None:
    for address in served.bundle.manifest.blobs():
        assert cache.path(address).read_bytes() == served.bundle.blob(address).read_bytes()
    assert any(isinstance(part.blank, Blank) and cache.path(part.blank) for part in served.bundle.manifest.partitions())


def test_killed_stagings_lose_nothing_and_corrupt_nothing(
    tmp_path: Path, served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    found = loop(tmp_path / "cache", served, KILLS, seed=1)
    assert found["resumable"] > 0, "no kill hit a transfer"
    with capsys.disabled():
        print(f"\n  {found}")  # noqa: T201 - the counts are part of the result


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_many_killed_stagings_lose_nothing_and_corrupt_nothing(
    tmp_path: Path, served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    found = loop(tmp_path / "cache", served, 500, seed=2)
    with capsys.disabled():
        print(f"\n  {found}")  # noqa: T201 - the counts are part of the result
