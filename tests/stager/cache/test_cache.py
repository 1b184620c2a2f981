"""The cache by itself: leases, room, checks, recovery, ownership."""

from pathlib import Path

import pytest

from catalog.image.address import LEAF, Address
from catalog.image.manifest import Blank
from stager.cache.cache import Cache
from stager.cache.entries import cache_key
from stager.errors import (
    CacheUnusable,
    ContentCorrupt,
    InUse,
    NotCached,
    QuotaExceeded,
)
from tests.support.stager.cache_invariants import check_invariants
from tests.support.stager.fakes import MIB, Clock

A, B, C, D = (name * 3 * LEAF for name in (b"a", b"b", b"c", b"d"))
BLANK = Blank(size=MIB, filesystem="none")


def put(cache: Cache, content: bytes, address: Address | None = None) -> Address:
    """Stage bytes, under their address or another."""
    address = address or Address.of(content)
    with cache.reserve({address: len(content)}), cache.fill(address) as incoming:
        if incoming is not None:
            incoming.write(content, 0)
            cache.commit(incoming, address)
    return address


def reopened(cache: Cache, clock: Clock) -> Cache:
    cache.close()
    return Cache(cache.root, cache.quota, clock)


def test_what_was_committed_is_there_read_only_and_stays(cache: Cache, clock: Clock) -> None:
    address = put(cache, A)
    assert cache.path(address).read_bytes() == A
    assert cache.path(address).is_absolute()
    cache.check(address, full=True)
    with reopened(cache, clock) as again:
        assert again.path(address).read_bytes() == A
        assert (again.recovered.adopted, again.recovered.dropped, again.recovered.removed) == (0, 0, 0)
        check_invariants(again)


def test_other_bytes_never_get_the_name(cache: Cache) -> None:
    address = Address.of(A)
    with pytest.raises(ContentCorrupt, match=str(address)):
        put(cache, B, address)
    with pytest.raises(NotCached):
        cache.path(address)
    assert list((cache.root / "incoming").iterdir()) == []
    check_invariants(cache)


# Leases


def test_acquiring_leases_what_is_there_and_what_is_not(cache: Cache) -> None:
    there = put(cache, A)
    missing = Address.of(B)
    acquired = cache.acquire([there, missing, there, BLANK], "machine:1", 60)
    assert acquired.present == (there,)
    assert acquired.missing == (missing, BLANK)
    assert acquired.fresh == (there, missing, BLANK)
    assert {lease.key for lease in cache.leases()} == {cache_key(one) for one in (there, missing, BLANK)}
    assert cache.acquire([there], "machine:1", 60).fresh == ()
    assert cache.acquire([there], "machine:2", 60).fresh == (there,)


def test_a_lease_is_never_shortened_by_asking_again_and_set_by_renewing(cache: Cache, clock: Clock) -> None:
    address = put(cache, A)
    cache.acquire([address], "m", 100)
    cache.acquire([address], "m", 10)
    assert cache.holders() == {"m": clock.now + 100}
    assert cache.renew("m", 5) == 1
    assert cache.holders() == {"m": clock.now + 5}
    clock.now += 5
    assert cache.holders() == {}


def test_releasing_ends_all_leases_or_some(cache: Cache) -> None:
    one, two = put(cache, A), put(cache, B)
    cache.acquire([one, two], "m", 60)
    assert cache.release("m", [one]) == 1
    assert [lease.key for lease in cache.leases()] == [str(two)]
    assert cache.release("m") == 1
    assert cache.release("m") == 0
    assert cache.renew("m", 60) == 0


def test_leases_outlive_the_process_and_ended_ones_do_not(cache: Cache, clock: Clock) -> None:
    address = put(cache, A)
    cache.acquire([address], "short", 10)
    cache.acquire([address], "long", 1000)
    clock.now += 11
    with reopened(cache, clock) as again:
        assert again.recovered.expired == 1
        assert set(again.holders()) == {"long"}


def test_what_is_leased_cannot_be_evicted(cache: Cache, clock: Clock) -> None:
    address = put(cache, A)
    cache.acquire([address], "machine:1", 10)
    with pytest.raises(InUse, match="machine:1"):
        cache.evict(str(address))
    clock.now += 11
    assert cache.evict(str(address)) >= len(A)
    with pytest.raises(NotCached):
        cache.evict(str(address))
    check_invariants(cache)


def test_what_is_being_staged_cannot_be_evicted(cache: Cache) -> None:
    address = put(cache, A)
    with cache.reserve({address: 0}), pytest.raises(InUse, match="in progress"):
        cache.evict(str(address))
    cache.evict(str(address))


def test_a_file_that_somebody_removed_is_missing(cache: Cache) -> None:
    address = put(cache, A)
    cache.path(address).unlink()
    assert cache.acquire([address], "m", 60).missing == (address,)
    assert put(cache, A) == address
    check_invariants(cache)


# Room


def test_the_least_recently_used_gives_way(root: Path, clock: Clock) -> None:
    # Each takes 48 KiB and is written with exactly so much reserved: three fit.
    with Cache(root, 160 << 10, clock) as cache:
        addresses = []
        for content in (A, B, C):
            clock.now += 1
            addresses.append(put(cache, content))
        clock.now += 1
        cache.acquire([addresses[0]], "m", 0)  # used again; the lease ends at once
        clock.now += 1
        put(cache, D)
        with pytest.raises(NotCached):
            cache.path(addresses[1])
        for address in (addresses[0], addresses[2], Address.of(D)):
            assert cache.path(address).exists()
        check_invariants(cache)


def test_what_does_not_fit_evicts_nothing_and_says_why(tmp_path: Path, clock: Clock) -> None:
    with Cache(tmp_path / "cache", 1 << 20, clock) as cache:
        free, held = put(cache, A), put(cache, B)
        cache.acquire([held], "machine:1", 60)
        message = r"quota of 1048576 bytes \d+ are leased, .*node\.cache_quota"
        with pytest.raises(QuotaExceeded, match=message), cache.reserve({Address.of(C): 1 << 20}):
            raise AssertionError("nothing was reserved")
        assert cache.path(free).exists()
        assert cache.usage().reserved == 0
        check_invariants(cache)


def test_a_reservation_counts_before_a_byte_is_written(tmp_path: Path, clock: Clock) -> None:
    with Cache(tmp_path / "cache", 1 << 20, clock) as cache:
        with cache.reserve({Address.of(A): 600 << 10}):
            assert cache.usage().reserved == 600 << 10
            with pytest.raises(QuotaExceeded), cache.reserve({Address.of(B): 600 << 10}):
                raise AssertionError("promised twice")
            with cache.reserve({Address.of(A): 600 << 10}):  # the same thing: the same bytes
                assert cache.usage().reserved == 600 << 10
            with pytest.raises(QuotaExceeded):
                cache.grow(Address.of(A), 600 << 10)
            cache.grow(Address.of(A), 100 << 10)
            assert cache.usage().reserved == 700 << 10
        assert cache.usage().reserved == 0


def test_what_was_interrupted_keeps_its_room_until_others_need_it(tmp_path: Path, clock: Clock) -> None:
    with Cache(tmp_path / "cache", 256 << 10, clock) as cache:
        address = Address.of(A)
        with cache.reserve({address: len(A)}), cache.fill(address) as incoming:
            assert incoming is not None
            incoming.write(A[: 2 * LEAF], 0)
        assert cache.usage().reserved == 2 * LEAF
        assert (cache.root / "incoming" / str(address)).exists()
        with cache.reserve({Address.of(B): 240 << 10}):
            assert not (cache.root / "incoming" / str(address)).exists()
        check_invariants(cache)


def test_a_quota_above_the_filesystem_is_refused(tmp_path: Path, clock: Clock) -> None:
    with pytest.raises(CacheUnusable, match=r"larger than its filesystem of \d+ bytes"):
        Cache(tmp_path / "cache", 1 << 60, clock)
    Cache(tmp_path / "cache", 1 << 20, clock).close()  # and the refusal left no lock


# Checks
