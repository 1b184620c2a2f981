"""Slow re-reading: the oldest first, from where it stopped, at its rate; what is wrong goes, and comes again."""

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from catalog.image.address import LEAF, Address
from catalog.image.blanks import make_blank, reserved_size
from catalog.image.manifest import Blank
from stager import scrubber as scrubbing
from stager.cache.cache import Cache
from stager.fetch.rate_limit import RateLimit
from stager.scrubber import Scrubber, choose_next
from tests.stager.cache.test_trash import put
from tests.support.stager.fakes import Clock

DAY = 86400.0
CONTENT = random.Random(5).randbytes(20 * 4 * LEAF) + bytes(8 * LEAF) + b"end"


@pytest.fixture
def cache(root: Path, clock: Clock) -> Iterator[Cache]:
    """With a grace time."""
    with Cache(root, 1 << 30, clock, grace=1000) as opened:
        yield opened


class Job:
    """A scrubber and what it did."""

    def __init__(self, cache: Cache, clock: Clock) -> None:
        self.read: list[int] = []
        self.again: list[Address] = []
        self.scrubber = Scrubber(cache, self.again.append, self.read.append, DAY, clock)


def flip(path: Path, at: int) -> None:
    """One bit, with nothing else of the file changed; where no sample is taken."""
    times = path.stat()
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 1]))
    path.chmod(0o444)
    import os

    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_the_oldest_check_comes_first_and_nothing_before_its_time(cache: Cache, clock: Clock) -> None:
    first = put(cache, b"a" * LEAF)
    clock.now += 10
    second = put(cache, b"b" * LEAF)
    assert choose_next(cache.entries(), clock.now, DAY) is None
    clock.now += DAY
    job = Job(cache, clock)
    due = choose_next(cache.entries(), clock.now, DAY)
    assert due is not None
    assert due.key == str(first)
    assert job.scrubber.step()
    due = choose_next(cache.entries(), clock.now, DAY)
    assert due is not None
    assert due.key == str(second)
    assert job.scrubber.step()
    assert not job.scrubber.step()
    assert cache.entry(first).verified_at == clock.now


def test_zeros_are_not_read(cache: Cache, clock: Clock) -> None:
    address = put(cache, CONTENT)
    job = Job(cache, clock)
    assert job.scrubber.scrub(cache.entry(address))
    assert sum(job.read) <= address.size


def test_it_goes_on_where_it_was_left(cache: Cache, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrubbing, "STEP", 4 * LEAF)
    monkeypatch.setattr(scrubbing, "READ_SIZE", 4 * LEAF)
    address = put(cache, CONTENT)
    clock.now += DAY
    job = Job(cache, clock)

    class Enough(Exception):
        pass

    def enough(count: int) -> None:
        if sum(job.read) >= 6 * 4 * LEAF:
            raise Enough
        job.read.append(count)

    scrubber = Scrubber(cache, job.again.append, enough, DAY, clock)
    with pytest.raises(Enough):
        scrubber.scrub(cache.entry(address))
    assert cache.scrubbed(str(address)) == 6 * 4 * LEAF
    assert cache.entry(address).verified_at < clock.now
    before = sum(job.read)
    assert job.scrubber.step()
    assert sum(job.read) - before <= address.size - before
    assert cache.entry(address).verified_at == clock.now
    assert cache.scrubbed(str(address)) == 0


@pytest.mark.parametrize("layer", [True, False], ids=["with its layer", "without"])
def test_a_flipped_bit_is_found_and_what_is_needed_comes_again(cache: Cache, clock: Clock, layer: bool) -> None:
    address = put(cache, CONTENT)
    if not layer:
        (cache.root / "beside" / f"{address}.layer").unlink()
    flip(cache.path(address), 10 * 4 * LEAF + 7)
    cache.acquire([address], "machine:1", 100)
    job = Job(cache, clock)
    assert not job.scrubber.scrub(cache.entry(address))
    assert job.again == [address]
    assert cache.entries() == []
    assert [one.name for one in cache.trash()] == [f"wrong-{address}"]
    assert cache.acquire([address], "machine:1", 100).missing == (address,)


def test_what_nobody_holds_is_not_fetched_again(cache: Cache, clock: Clock) -> None:
    address = put(cache, CONTENT)
    flip(cache.path(address), 5)
    job = Job(cache, clock)
    assert not job.scrubber.scrub(cache.entry(address))
    assert job.again == []


def test_a_hole_where_data_belongs_is_found(cache: Cache, clock: Clock) -> None:
    address = put(cache, CONTENT)
    path = cache.path(address)
    path.chmod(0o600)
    path.write_bytes(b"")
    with path.open("r+b") as file:
        file.truncate(address.size)
    job = Job(cache, clock)
    assert not job.scrubber.scrub(cache.entry(address))


def test_blanks_are_checked_too(cache: Cache, clock: Clock) -> None:
    blank = Blank(size=1 << 20, filesystem="swap", label="")
    with cache.reserve({blank: reserved_size(blank)}), cache.fill(blank) as incoming:
        assert incoming is not None
        make_blank(blank, incoming.path)
        cache.commit(incoming, blank)
    clock.now += DAY
    job = Job(cache, clock)
    assert job.scrubber.step()
    assert cache.entry(blank).verified_at == clock.now


def test_an_entry_that_left_meanwhile_is_no_fault(cache: Cache, clock: Clock) -> None:
    address = put(cache, CONTENT)
    entry = cache.entry(address)
    cache.evict(str(address))
    assert Job(cache, clock).scrubber.scrub(entry)


def test_the_thread_works_and_ends(cache: Cache, clock: Clock) -> None:
    address = put(cache, CONTENT)
    clock.now += DAY
    with Job(cache, clock).scrubber:
        deadline = time.monotonic() + 60
        while cache.entry(address).verified_at < clock.now:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_throttle_lets_through_its_rate_and_a_burst() -> None:
    clock, slept = Clock(0.0), list[float]()

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        clock.now += seconds

    throttle = RateLimit(1000, clock, sleep)
    for _ in range(100):
        throttle(100)
    assert clock.now == pytest.approx(10.0, abs=0.3)
    clock.now += 100  # idle time is not saved up
    before = clock.now
    for _ in range(10):
        throttle(100)
    assert clock.now - before >= 0.7
    RateLimit(0, clock, sleep)(1 << 40)
    assert clock.now - before < 1.1
