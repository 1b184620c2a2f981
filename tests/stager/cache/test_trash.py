"""What leaves can come back for a while; what was found wrong never does; shares hold; pins hold."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from catalog.image.address import LEAF, Address
from stager.cache.cache import Cache
from stager.cache.entries import FOREVER, PIN
from stager.cache.eviction import EvictionCandidate, choose_victims
from stager.errors import EntryChanged, InUse, NotCached, QuotaExceeded
from tests.journeys.images.test_staging_faults import abandon
from tests.support.stager.fakes import Clock

A, B, C = (random.Random(seed).randbytes(4 * LEAF) for seed in (1, 2, 3))
SIZE = 4 * LEAF
GRACE = 100.0


@pytest.fixture
def cache(root: Path, clock: Clock) -> Iterator[Cache]:
    """A cache with room for two contents and with a grace time."""
    with Cache(root, 2 * SIZE + LEAF, clock, grace=GRACE) as opened:
        yield opened


def put(cache: Cache, content: bytes, vo: str = "") -> Address:
    address = Address.of(content)
    with cache.reserve({address: len(content)}, vo), cache.fill(address) as incoming:
        assert incoming is not None
        incoming.write(content, 0)
        cache.commit(incoming, address)
    return address


def spoil(cache: Cache, address: Address) -> None:
    path = cache.path(address)
    path.chmod(0o600)
    path.write_bytes(bytes(SIZE))
    path.chmod(0o444)


def test_what_was_evicted_by_hand_comes_back_when_it_is_wanted(cache: Cache, root: Path) -> None:
    address = put(cache, A)
    assert cache.evict(str(address)) == SIZE
    assert cache.entries() == []
    assert cache.usage().trash == SIZE
    acquired = cache.acquire([address], "m", 10)
    assert acquired.present == (address,)
    assert cache.path(address).read_bytes() == A
    assert (cache.usage().trash, list((root / "trash").iterdir())) == (0, [])


def test_after_its_grace_time_it_is_gone(cache: Cache, clock: Clock, root: Path) -> None:
    address = put(cache, A)
    cache.evict(str(address))
    clock.now += GRACE - 1
    assert cache.clean_trash() == 0
    clock.now += 1
    assert cache.clean_trash() == 1
    assert list((root / "trash").iterdir()) == []
    assert cache.acquire([address], "m", 10).missing == (address,)


def test_the_trash_gives_way_before_anything_that_is_cached(cache: Cache) -> None:
    kept, evicted = put(cache, A), put(cache, B)
    cache.evict(str(evicted))
    put(cache, C)
    assert cache.usage().trash == 0
    assert cache.path(kept).read_bytes() == A


def test_trash_survives_a_restart_and_what_nobody_knows_there_does_not(cache: Cache, root: Path, clock: Clock) -> None:
    address = put(cache, A)
    cache.evict(str(address))
    (root / "trash" / "litter").write_bytes(b"x")
    abandon(cache)
    with Cache(root, cache.quota, clock, grace=GRACE) as again:
        assert [one.name for one in again.trash()] == [str(address)]
        assert [path.name for path in (root / "trash").iterdir()] == [str(address)]
        assert again.acquire([address], "m", 10).present == (address,)


def test_what_was_spoilt_in_the_trash_does_not_come_back(cache: Cache, root: Path) -> None:
    address = put(cache, A)
    cache.evict(str(address))
    path = root / "trash" / str(address)
    path.chmod(0o600)
    path.write_bytes(B)
    assert cache.acquire([address], "m", 10).missing == (address,)
    assert cache.trash() == []
    put(cache, A)
    assert cache.path(address).read_bytes() == A


def test_what_was_found_wrong_is_kept_to_be_looked_at_and_never_comes_back(cache: Cache, root: Path) -> None:
    address = put(cache, A)
    spoil(cache, address)
    with pytest.raises(EntryChanged):
        cache.check(address)
    (one,) = cache.trash()
    assert one.name == f"wrong-{address}"
    assert (root / "trash" / one.name).read_bytes() == bytes(SIZE)
    assert cache.acquire([address], "m", 10).missing == (address,)
    put(cache, A)
    assert len(cache.trash()) == 1
    cache.clean_trash(everything=True)
    assert list((root / "trash").iterdir()) == []


def test_who_listens_hears_what_leaves(cache: Cache) -> None:
    gone: list[str] = []
    cache.on_removal(gone.append)
    first, second = put(cache, A), put(cache, B)
    cache.evict(str(first))
    spoil(cache, second)
    with pytest.raises(EntryChanged):
        cache.check(second)
    assert gone == [str(first), str(second)]


def test_a_pin_holds_over_years_and_restarts(cache: Cache, root: Path, clock: Clock) -> None:
    address = put(cache, A)
    cache.acquire([address], PIN + "sha256:1", FOREVER)
    clock.now += 20 * 365 * 86400
    with pytest.raises(InUse, match="pin:sha256:1"):
        cache.evict(str(address))
    abandon(cache)
    with Cache(root, cache.quota, clock) as again:
        put(again, B)
        with pytest.raises(QuotaExceeded):
            put(again, b"x" * 2 * SIZE)
        assert again.path(address).read_bytes() == A
        again.release(PIN + "sha256:1")
        again.evict(str(address))


# Shares


def test_a_vo_keeps_its_share_when_others_need_room(root: Path, clock: Clock) -> None:
    with Cache(root, 2 * SIZE + LEAF, clock, shares={"star": SIZE}) as cache:
        star = put(cache, A, "star")
        clock.now += 1
        put(cache, B, "atlas")
        clock.now += 1
        atlas = put(cache, C, "atlas")
        assert cache.path(star).read_bytes() == A, "the oldest, and within its share"
        assert {entry.key for entry in cache.entries()} == {str(star), str(atlas)}
        with pytest.raises(QuotaExceeded, match="another VO's share"):
            put(cache, b"x" * 2 * SIZE, "atlas")
        put(cache, b"y" * 2 * SIZE, "star")
        with pytest.raises(NotCached):
            cache.path(star)


def one(key: str, size: int, used: float, *vos: str, trashed: bool = False) -> EvictionCandidate:
    return EvictionCandidate(key, size, used, vos=frozenset(vos), trashed=trashed)


SHARES = {
    "without shares the oldest goes": ([one("a", 10, 1, "x"), one("b", 10, 2, "y")], {}, "y", ("a",)),
    "within a share nothing goes for others": ([one("a", 10, 1, "x"), one("b", 10, 2, "y")], {"x": 10}, "y", ("b",)),
    "for its own need it does": ([one("a", 10, 1, "x"), one("b", 10, 2, "y")], {"x": 10}, "x", ("a",)),
    "beyond its share it does": ([one("a", 10, 1, "x"), one("b", 10, 2, "x")], {"x": 10}, "y", ("a",)),
    "but no more than that": ([one("a", 5, 1, "x"), one("b", 10, 2, "x"), one("c", 9, 3, "y")], {"x": 10}, "y", ("a", "c")),
    "what two have stays for either": ([one("a", 10, 1, "x", "y"), one("b", 10, 2, "z")], {"x": 10}, "y", ("b",)),
    "trash is nobody's": ([one("a", 10, 9, "x", trashed=True), one("b", 10, 2, "y")], {"x": 10}, "y", ("a",)),
}  # fmt: skip


@pytest.mark.parametrize(("known", "shares", "vo", "victims"), SHARES.values(), ids=SHARES.keys())
def test_shares(known: list[EvictionCandidate], shares: dict[str, int], vo: str, victims: tuple[str, ...]) -> None:
    assert choose_victims(known, 10, 100.0, shares, vo).victims == victims
