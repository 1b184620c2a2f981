"""A fault, or the death of the process, at every single step of a staging; then recovery, then the invariants.

`at` counts up until a staging runs through without reaching the step that would fail: so every step was hit.
"""

import errno
import json
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from catalog.content.indexing import index_file
from catalog.image.address import LEAF
from catalog.image.manifest import Manifest
from signer.documents import validate
from stager.cache.cache import Cache
from stager.errors import CacheDegraded, DiskFull, StagerError
from stager.fetch.http import FetchLimits
from stager.staging import Stager
from tests.support import factories
from tests.support.stager.cache_invariants import check_invariants
from tests.support.stager.fakes import MIB, Clock, Died, FailingDisk, Hinting, MemorySource, no_sleep

Image = tuple[Manifest, MemorySource]
ONE_BY_ONE = FetchLimits(connections=1, part_bytes=128 << 10, sleep=no_sleep)
QUOTA = 1 * MIB + 16 * 1024
"""Room for one of the two images and most of the other: staging the second evicts, and copies from what is left."""


@pytest.fixture
def images(tmp_path: Path) -> tuple[Image, Image]:
    """Two small images that do not fit into the cache together; one has a blank."""
    scratch = {
        "label": "swap",
        "type": "swap",
        "uuid": "00000000-0000-4000-8000-ffffffffffff",
        "access": "copy-on-write",
        "blank": {"size": 64 << 10, "filesystem": "swap"},
    }
    found = []
    for number in (1, 2):
        contents, measured = {}, {}
        for index, leaves in enumerate((4, 30)):
            path = tmp_path / f"content{number}{index}"
            # Most leaves of the second image are the first one's: they are copied.
            bytes_of, older = random.Random(number * 10 + index), random.Random(10 + index)
            sorts = [(older.randbytes(LEAF), bytes_of.randbytes(LEAF)) for _ in range(leaves)]
            path.write_bytes(
                b"".join(bytes(LEAF) if at % 7 == 5 else sort[at % 3 == 1] for at, sort in enumerate(sorts))
            )
            one = index_file(path)
            contents[one.address], measured[one.address] = path.read_bytes(), one
        manifest = factories.manifest(list(contents), name=f"worker{number}")
        document = json.loads(manifest.canonical())
        document["disks"][-1]["partition"] = scratch
        found.append((validate(Manifest, document, "manifest"), Hinting(contents, measured)))
    return found[0], found[1]


def abandon(cache: Cache) -> None:
    """What the kernel does when a process dies: descriptors and locks go, nothing else is done."""
    cache._index._db.close()
    os.close(cache._owned)
    cache._owned = -1


def story(cache: Cache, images: tuple[Image, Image], clock: Clock, acknowledged: list[Manifest]) -> None:
    """Stage, use and release one image, stage another over it."""
    for number, (manifest, source) in enumerate(images):
        Stager(cache, source, ONE_BY_ONE).stage(manifest, f"machine:{number}", 60)
        acknowledged[:] = [manifest]
        clock.now += 50
        cache.acquire([max(manifest.contents(), key=lambda address: address.size)], f"machine:{number}", 1)
        clock.now += 50


def sweep(
    root: Path,
    images: tuple[Image, Image],
    disk_at: Callable[[int], FailingDisk],
    after: Callable[[BaseException], None],
) -> int:
    """Run the story with a failing disk for every step that it has; returns how many those are."""
    at = 0
    while True:
        at += 1
        clock, disk = Clock(), disk_at(at)
        where, acknowledged = root / str(at), list[Manifest]()
        cache = None
        try:
            cache = Cache(where, QUOTA, clock, disk)
            story(cache, images, clock, acknowledged)
        except (StagerError, Died) as exc:
            after(exc)
        if cache is not None:
            if isinstance(disk, FailingDisk) and disk.death and disk.fired:
                abandon(cache)
            else:
                check_invariants_while_running(cache)
                cache.close()
        with Cache(where, QUOTA, clock) as again:
            check_invariants(again)
            leased = {lease.key for lease in again.leases()}
            for manifest in acknowledged:
                present = again.acquire(manifest.contents(), "check", 0).present
                for address in manifest.contents():
                    assert address in present or str(address) not in leased, "acknowledged, leased and lost"
            # Whatever happened, the image can be staged now.
            manifest, source = images[1]
            Stager(again, source, ONE_BY_ONE).stage(manifest, "again", 60)
            check_invariants(again)
        if not disk.fired:
            assert {
                "create",
                "allocate",
                "copy",
                "write",
                "seal",
                "sync",
                "rename",
                "put",
                "sync_directory",
                "remove",
            } <= set(disk.steps)
            return at - 1


def check_invariants_while_running(cache: Cache) -> None:
    """A process that goes on after an error has nothing half done in its cache either (trash may wait for a start)."""
    for entry in cache.entries():
        cache.check(entry.key, full=True)
    usage = cache.usage()
    assert usage.allocated + usage.reserved <= usage.quota


def test_death_at_every_step_loses_and_corrupts_nothing(
    fast_root: Path, images: tuple[Image, Image], capsys: pytest.CaptureFixture[str]
) -> None:
    steps = sweep(fast_root, images, lambda at: FailingDisk(at, death=True), lambda _: None)
    assert steps > 40
    with capsys.disabled():
        print(f"\n  killed at each of {steps} steps of staging")  # noqa: T201 - the count is part of the result


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC], ids=errno.errorcode.get)
def test_an_error_at_every_step_is_clear_and_leaves_nothing_wrong(
    fast_root: Path, images: tuple[Image, Image], number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = []

    def after(exc: BaseException) -> None:
        assert isinstance(exc, StagerError)
        assert len(str(exc)) > 40
        seen.append(type(exc))

    steps = sweep(fast_root, images, lambda at: FailingDisk(at, number=number), after)
    assert steps > 40
    assert CacheDegraded in seen
    if number == errno.ENOSPC:
        assert DiskFull in seen
    with capsys.disabled():
        print(f"\n  {errno.errorcode[number]} at each of {steps} steps of staging")  # noqa: T201 - as above
