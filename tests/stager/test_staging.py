"""Staging from a source that cuts, lies and corrupts; and from a real catalog."""

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from catalog.client.client import CatalogClient
from catalog.errors import BlankFailed
from catalog.image.address import LEAF, Address, piece_length
from catalog.image.manifest import Blank, Manifest
from catalog.image.reference import Reference
from stager.cache.cache import Cache
from stager.errors import ContentCorrupt, NotCached, QuotaExceeded, SourceLacks, SourceUnavailable, StagerError
from stager.fetch.http import CORRUPT_TRIES, FetchLimits
from stager.fetch.sources import RETRIES, ContentSource, HttpSource
from stager.staging import ItemState, Stager, required_items, total_size
from tests.support.stager.cache_invariants import check_invariants
from tests.support.stager.caches import PACE, Served, without_blanks
from tests.support.stager.fakes import MIB, Clock, MemorySource, Unguided, no_sleep

Image = tuple[Manifest, MemorySource]
PIECE = piece_length(4 * MIB)


def largest(manifest: Manifest) -> Address:
    return max(manifest.contents(), key=lambda address: address.size)


def check_staged(cache: Cache, manifest: Manifest, source: MemorySource) -> None:
    for address in manifest.contents():
        assert cache.path(address).read_bytes() == source.contents[address]
    check_invariants(cache)


def data_bytes(source: MemorySource) -> int:
    return sum(
        len(content[at : at + LEAF])
        for content in source.contents.values()
        for at in range(0, len(content), LEAF)
        if any(content[at : at + LEAF])
    )


def test_an_image_is_staged_and_staging_it_again_moves_nothing(cache: Cache, image: Image) -> None:
    manifest, source = image
    stager = Stager(cache, source, PACE)
    first = stager.stage(manifest, "machine:1", 60)
    check_staged(cache, manifest, source)
    assert (first.from_cache, first.resumed, first.made) == (0, 0, 1)
    assert first.from_network == data_bytes(source)
    asked = len(source.reads)
    second = stager.stage(manifest, "machine:2", 60)
    assert (second.from_cache, second.from_network, second.made) == (data_bytes(source), 0, 0)
    assert len(source.reads) == asked
    assert second.held == first.held
    assert {held.state for held in second.held.values()} == {ItemState.VERIFIED}
    assert set(cache.holders()) == {"machine:1", "machine:2"}
    assert len(cache.leases()) == 2 * len(required_items(manifest))


def test_paths_are_those_of_the_cache_and_only_of_the_image(cache: Cache, image: Image) -> None:
    manifest, source = image
    staged = Stager(cache, source, PACE).stage(manifest, "m", 60)
    for address in manifest.contents():
        assert staged.path(address) == cache.path(address)
    (blank,) = (thing for thing in required_items(manifest) if isinstance(thing, Blank))
    assert staged.blank(blank) == cache.path(blank)
    assert staged.blank(blank).stat().st_size == blank.size
    with pytest.raises(NotCached, match="not part of the staged image"):
        staged.path(Address.of(b"another"))


def test_zeros_are_neither_sent_nor_stored(cache: Cache, image: Image) -> None:
    manifest, source = image
    Stager(cache, source, PACE).stage(manifest, "m", 60)
    address = largest(manifest)
    assert cache.path(address).stat().st_blocks * 512 < address.size * 0.8, "every fourth MiB is a hole"
    for one, start, end in source.reads:
        assert any(source.contents[one][start:end])


@pytest.mark.parametrize("twice", [False, True], ids=["cold", "warm"])
def test_progress_adds_up(cache: Cache, image: Image, twice: bool) -> None:
    manifest, source = image
    stager = Stager(cache, source, PACE)
    if twice:
        stager.stage(manifest, "m", 60)
    steps: list[int] = []
    stager.stage(manifest, "m", 60, steps.append)
    assert sum(steps) == total_size(manifest)
    assert all(step >= 0 for step in steps)


# What a source may do


def wrong_everywhere(source: MemorySource, address: Address) -> None:
    source.maps[address] = bytes(len(source.maps[address]))
    source.layers[address] = bytes(len(source.layers[address]))


SURVIVED: list[tuple[str, Callable[[MemorySource, Address], None]]] = [
    ("cuts every answer after 100 KB", lambda s, _: setattr(s, "cuts", 40) or setattr(s, "cut_after", 100_000)),
    ("cuts some answers at once", lambda s, _: setattr(s, "cuts", RETRIES.attempts - 1)),
    ("cuts inside a leaf", lambda s, _: setattr(s, "cuts", 9) or setattr(s, "cut_after", LEAF * 5 + 7)),
    ("sends single odd chunks", lambda s, _: setattr(s, "chunk", 33_333)),
    ("sends more than was asked for", lambda s, _: setattr(s, "overlong", True)),
    ("corrupts a byte once", lambda s, _: s.corrupt.update({12_345: 1})),
    ("corrupts a piece as often as is borne", lambda s, _: s.corrupt.update({MIB + 1: CORRUPT_TRIES})),
    ("corrupts the very last byte", lambda s, a: s.corrupt.update({a.size - 1: 1})),
    ("claims zeros where data is", lambda s, a: s.maps.update({a: bytes(len(s.maps[a]))})),
    ("claims data where zeros are", lambda s, a: s.maps.update({a: b"\xff" * len(s.maps[a])})),
    ("hides the end of each piece", lambda s, a: s.maps.update({a: b"\x88" * len(s.maps[a])})),
    ("has a map of another size", lambda s, a: s.maps.update({a: b"\1"})),
    ("has no map", lambda s, a: s.maps.pop(a)),
    ("has another content's layer", lambda s, a: s.layers.update({a: b"\7" * len(s.layers[a])})),
    ("has no layer", lambda s, a: s.layers.pop(a)),
    ("has no layer and a map that claims zeros", wrong_everywhere),
]


@pytest.mark.parametrize(("what", "lie"), SURVIVED, ids=[what for what, _ in SURVIVED])
def test_staging_survives_a_source_that(
    cache: Cache, image: Image, what: str, lie: Callable[[MemorySource, Address], None]
) -> None:
    manifest, source = image
    lie(source, largest(manifest))
    steps: list[int] = []
    Stager(cache, source, PACE).stage(manifest, "m", 60, steps.append)
    check_staged(cache, manifest, source)
    assert sum(steps) == total_size(manifest), what


def without_layer_and_wrong(source: MemorySource, address: Address) -> None:
    source.layers.pop(address)
    source.contents[address] = b"x" + source.contents[address][1:]


REFUSED: list[tuple[str, Callable[[MemorySource, Address], None], type[StagerError], str]] = [
    ("corrupts a piece for ever", lambda s, _: s.corrupt.update({PIECE + 5: 99}), ContentCorrupt, "piece 1 .* 4 times"),
    ("has other content", without_layer_and_wrong, ContentCorrupt, "does not match its address"),
    ("cuts for ever", lambda s, _: setattr(s, "cuts", 10_000), SourceUnavailable, "partial data of .* kept"),
    ("lacks the content", lambda s, a: s.contents.pop(a), SourceLacks, "is not here"),
]


@pytest.mark.parametrize(("what", "lie", "error", "message"), REFUSED, ids=[row[0] for row in REFUSED])
def test_staging_fails_clearly_from_a_source_that(
    cache: Cache,
    image: Image,
    what: str,
    lie: Callable[[MemorySource, Address], None],
    error: type[StagerError],
    message: str,
) -> None:
    manifest, source = image
    address = largest(manifest)
    honest = dict(source.contents)
    lie(source, address)
    stager = Stager(cache, source, PACE)
    with pytest.raises(error, match=message) as raised:
        stager.stage(manifest, "machine:1", 60)
    assert what != "corrupts a piece for ever" or str(address) in str(raised.value)
    assert cache.leases() == [], "what failed holds nothing"
    check_invariants(cache)
    with pytest.raises(NotCached):
        cache.path(address)
    # An honest source brings the rest.
    source.contents, source.corrupt, source.cuts = honest, {}, 0
    stager.stage(manifest, "machine:1", 60)
    check_staged(cache, manifest, source)


def test_a_source_that_only_reads_is_enough(cache: Cache, image: Image) -> None:
    manifest, source = image
    lowest: ContentSource = Unguided(source)
    Stager(cache, lowest, PACE).stage(manifest, "m", 60)
    check_staged(cache, manifest, source)


# Interruptions


def interrupt(cache: Cache, address: Address, written: Mapping[int, bytes]) -> None:
    """A staging that ends after it has written something."""
    with cache.reserve({address: address.size}), cache.fill(address) as incoming:
        assert incoming is not None
        for offset, data in written.items():
            incoming.write(data, offset)


def test_a_cut_staging_goes_on_from_what_is_verified(root: Path, clock: Clock, image: Image) -> None:
    manifest, source = image
    manifest = without_blanks(manifest)
    _, *rest = manifest.contents()
    last = rest[-1]
    gone_after = len(source.contents[last]) // 2

    class Breaking(MemorySource):
        def read_range(self, address: Address, start: int, end: int) -> Iterator[bytes]:
            if address == last and end > gone_after:
                raise SourceUnavailable("the catalog has gone")
            yield from super().read_range(address, start, end)

    breaking = Breaking(source.contents, {})
    breaking.maps, breaking.layers = source.maps, source.layers
    with Cache(root, 1 << 30, clock) as cache, pytest.raises(SourceUnavailable, match="kept"):
        Stager(cache, breaking, FetchLimits(1, PIECE, no_sleep)).stage(manifest, "m", 60)
    with Cache(root, 1 << 30, clock) as cache:
        staged = Stager(cache, source, PACE).stage(manifest, "m", 60)
        check_staged(cache, manifest, source)
        assert staged.resumed > 0
        assert staged.from_cache + staged.from_network + staged.resumed == data_bytes(source)


def test_what_an_interrupted_staging_left_is_proved_and_not_asked_for_again(
    root: Path, clock: Clock, image: Image
) -> None:
    manifest, source = image
    manifest = without_blanks(manifest)
    address = largest(manifest)
    content = source.contents[address]
    with Cache(root, 1 << 30, clock) as cache:
        interrupt(cache, address, {0: content[:MIB], MIB: b"half a piece" + content[MIB + 12 : MIB + LEAF]})
    with Cache(root, 1 << 30, clock) as cache:
        assert cache.recovered.resumable == 1
        staged = Stager(cache, source, PACE).stage(manifest, "m", 60)
        assert staged.resumed == MIB
        assert staged.from_network == data_bytes(source) - MIB
        check_staged(cache, manifest, source)


def test_garbage_left_where_zeros_belong_is_found(root: Path, clock: Clock, image: Image) -> None:
    manifest, source = image
    manifest = without_blanks(manifest)
    address = largest(manifest)
    hole = 3 * MIB  # every fourth MiB is a hole
    assert not any(source.contents[address][hole : hole + PIECE])
    with Cache(root, 1 << 30, clock) as cache:
        interrupt(cache, address, {hole: b"garbage"})
        Stager(cache, source, PACE).stage(manifest, "m", 60)
        check_staged(cache, manifest, source)


# Together


def test_two_stagings_at_once_fetch_once(cache: Cache, image: Image) -> None:
    manifest, source = image
    source.gate = threading.Event()
    stager = Stager(cache, source, PACE)
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(stager.stage, manifest, f"machine:{number}", 60) for number in range(4)]
        source.gate.set()
        results = [job.result(30) for job in jobs]
    assert sum(one.from_network for one in results) == data_bytes(source)
    assert sum(one.made for one in results) == 1
    assert {one.from_network + one.from_cache for one in results} == {data_bytes(source)}
    check_staged(cache, manifest, source)
    assert len(cache.holders()) == 4


def test_when_the_first_of_two_fails_the_second_goes_on(cache: Cache, image: Image) -> None:
    manifest, source = image
    manifest = without_blanks(manifest)
    failing = MemorySource(source.contents, {})
    failing.cuts, failing.gate = 10_000, threading.Event()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(Stager(cache, failing, PACE).stage, manifest, "first", 60)
        while not cache.usage().reserved:
            pass
        second = pool.submit(Stager(cache, source, PACE).stage, manifest, "second", 60)
        failing.gate.set()
        with pytest.raises(SourceUnavailable):
            first.result(30)
        second.result(30)
    assert set(cache.holders()) == {"second"}
    check_staged(cache, manifest, source)


# Room


def test_an_image_that_does_not_fit_writes_nothing(root: Path, clock: Clock, image: Image) -> None:
    manifest, source = image
    with Cache(root, 4 * MIB, clock) as cache:
        with pytest.raises(QuotaExceeded):
            Stager(cache, source, PACE).stage(manifest, "m", 60)
        assert source.reads == []
        assert cache.leases() == []
        assert cache.entries() == []
        check_invariants(cache)


def test_an_image_gives_way_to_the_next_but_not_while_it_is_leased(root: Path, clock: Clock, image: Image) -> None:
    manifest, source = image
    manifest = without_blanks(manifest)
    other = Address.of(b"another" * MIB)
    with Cache(root, 9 * MIB, clock) as cache:
        Stager(cache, source, PACE).stage(manifest, "m", 60)
        with pytest.raises(QuotaExceeded, match="leased"), cache.reserve({other: 7 * MIB}):
            raise AssertionError("reserved over what is leased")
        clock.now += 61
        with cache.reserve({other: 7 * MIB}):
            assert len(cache.entries()) < 3
        check_invariants(cache)


def test_a_blank_that_cannot_be_made_leaves_nothing(
    cache: Cache, image: Image, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    manifest, source = image
    monkeypatch.setattr("catalog.image.blanks.SYSTEM_PATH", "")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BlankFailed, match="is not installed"):
        Stager(cache, source, PACE).stage(manifest, "m", 60)
    assert list((cache.root / "incoming").iterdir()) == []
    assert cache.leases() == []
    check_invariants(cache)


# The real thing


def test_a_real_catalog_is_staged_from(cache: Cache, served: Served) -> None:
    with CatalogClient(served.url) as client:
        image_id = client.resolve(Reference.parse("star/worker@1.0"))
        manifest = client.manifest(image_id)
        staged = Stager(cache, HttpSource(client), PACE).stage(manifest, "m", 60)
    assert manifest == served.bundle.manifest
    for address in manifest.contents():
        assert staged.path(address).read_bytes() == served.bundle.content(address).read_bytes()
    assert staged.from_network == sum(cache.entry(address).data_bytes for address in manifest.contents())
    check_invariants(cache)


def test_a_real_catalog_that_lacks_the_content_says_so(cache: Cache, served: Served) -> None:
    absent = Address.of(b"nobody published this")
    with CatalogClient(served.url) as client:
        with pytest.raises(SourceLacks, match=str(absent)):
            list(HttpSource(client).read(absent, [(0, absent.size)]))
        with pytest.raises(SourceLacks):
            HttpSource(client).accelerator(absent, "map")


def test_no_catalog_at_all_is_told_with_its_url(cache: Cache, image: Image) -> None:
    manifest, _ = image
    with CatalogClient("http://127.0.0.1:1", sleep=no_sleep) as client:
        stager = Stager(cache, HttpSource(client), PACE)
        with pytest.raises(SourceUnavailable, match=r"http://127\.0\.0\.1:1"):
            stager.stage(manifest, "m", 60)
    assert cache.leases() == []
