"""New contents filled from cached ones: only what is nowhere here comes over the network, whatever hints say."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from catalog.client.client import CatalogClient
from catalog.content.indexing import HINT_BLOCK, ContentIndex, index_file
from catalog.image.address import LEAF, Address
from catalog.image.bundle import Bundle
from catalog.image.manifest import Manifest
from stager.cache import sidecars
from stager.cache.cache import Cache
from stager.fetch.sources import HttpSource
from stager.staging import Stager
from tests.support import factories
from tests.support.stager.cache_invariants import check_invariants
from tests.support.stager.caches import PACE
from tests.support.stager.catalog_process import catalog
from tests.support.stager.fakes import MIB, Hinting, MemorySource

BLOCK = HINT_BLOCK


def hinting(*contents: bytes, tmp: Path) -> Hinting:
    """A source of these contents."""
    measured: dict[Address, ContentIndex] = {}
    for number, content in enumerate(contents):
        path = tmp / f"hinted{number}"
        path.write_bytes(content)
        one = index_file(path)
        measured[one.address] = one
    return Hinting(dict(zip(measured, contents, strict=True)), measured)


def blocks(seed: int, count: int) -> list[bytes]:
    rng = random.Random(seed)
    return [rng.randbytes(BLOCK) for _ in range(count)]


def one(cache: Cache, source: MemorySource, address: Address) -> None:
    """Stage one content."""
    Stager(cache, source, PACE).restage(address)
    assert cache.path(address).read_bytes() == source.contents[address]


OLD = blocks(1, 512)
NEW = blocks(2, 64)

UPDATES: dict[str, tuple[list[bytes], int]] = {
    "one block edited in place": ([*OLD[:100], NEW[0], *OLD[101:]], 1),
    "a block in every leaf edited": ([NEW[at // 8] if at % 8 == 3 else block for at, block in enumerate(OLD)], 64),
    "everything moved by one block": ([NEW[0], *OLD[:-1]], 1),
    "two halves changed places": (OLD[256:] + OLD[:256], 0),
    "longer": (OLD + NEW, 64),
    "shorter": (OLD[:300], 0),
    "blocks turned to zeros": ([bytes(BLOCK) if at % 5 == 0 else block for at, block in enumerate(OLD)], 0),
    "zeros filled in": ([*OLD[:-4], *NEW[:4]], 4),
    "shuffled block by block": (random.Random(3).sample(OLD, len(OLD)), 0),
    "all new": (blocks(4, 128), 128),
    "a short last block": ([*OLD, b"end"], 0),
}


@pytest.mark.parametrize(("new", "lacks"), UPDATES.values(), ids=UPDATES.keys())
def test_only_missing_blocks_are_asked_for(cache: Cache, tmp_path: Path, new: list[bytes], lacks: int) -> None:
    old, fresh = b"".join(OLD), b"".join(new)
    source = hinting(old, fresh, tmp=tmp_path)
    first, second = source.contents
    one(cache, source, first)
    source.reads.clear()
    one(cache, source, second)
    assert source.sent() == lacks * BLOCK + len(fresh) % BLOCK
    check_invariants(cache)


def flipped(source: Hinting, address: Address) -> None:
    source.stored[address] = bytes(byte ^ 1 for byte in source.stored[address])


def shifted(source: Hinting, address: Address) -> None:
    source.stored[address] = source.stored[address][8:] + source.stored[address][:8]


def all_zero(source: Hinting, address: Address) -> None:
    source.stored[address] = bytes(len(source.stored[address]))


def cut(source: Hinting, address: Address) -> None:
    source.stored[address] = source.stored[address][:-1]


def also_no_map(source: Hinting, address: Address) -> None:
    shifted(source, address)
    source.maps.pop(address)


LIES = [flipped, shifted, all_zero, cut, also_no_map]


@pytest.mark.parametrize("lie", LIES)
def test_lying_hints_cost_time_and_never_a_wrong_byte(
    cache: Cache, tmp_path: Path, lie: Callable[[Hinting, Address], None]
) -> None:
    source = hinting(b"".join(OLD), b"".join([*OLD[:77], NEW[0], *OLD[78:]]), tmp=tmp_path)
    first, second = source.contents
    one(cache, source, first)
    lie(source, second)
    source.reads.clear()
    one(cache, source, second)
    assert source.sent() <= 2 * second.size
    check_invariants(cache)


def spoilt_hints(cache: Cache, address: Address) -> None:
    path = cache.root / "beside" / f"{address}.hints"
    path.write_bytes(random.Random(9).randbytes(path.stat().st_size))


def no_hints(cache: Cache, address: Address) -> None:
    (cache.root / "beside" / f"{address}.hints").unlink()


def spoilt_content(cache: Cache, address: Address) -> None:
    path = cache.path(address)
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(200 * BLOCK)
        file.write(bytes(50 * BLOCK))
    path.chmod(0o444)


def no_content(cache: Cache, address: Address) -> None:
    cache.path(address).unlink()


@pytest.mark.parametrize("spoil", [spoilt_hints, no_hints, spoilt_content, no_content])
def test_a_spoilt_donor_spoils_nothing(cache: Cache, tmp_path: Path, spoil: Callable[[Cache, Address], None]) -> None:
    source = hinting(b"".join(OLD), b"".join([*OLD[:77], NEW[0], *OLD[78:]]), tmp=tmp_path)
    first, second = source.contents
    one(cache, source, first)
    spoil(cache, first)
    one(cache, source, second)


def test_zero_leaves_between_data_in_one_piece_are_not_sent(cache: Cache, tmp_path: Path) -> None:
    leaves = [block * 4 if at % 3 else bytes(LEAF) for at, block in enumerate(blocks(5, 96))]
    source = hinting(b"".join(leaves), tmp=tmp_path)
    (address,) = source.contents
    one(cache, source, address)
    assert source.sent() == sum(len(leaf) for leaf in leaves if any(leaf))
    assert cache.entry(address).allocated <= 70 * LEAF


def test_an_empty_cache_asks_for_no_hints(cache: Cache, tmp_path: Path) -> None:
    source = hinting(b"".join(OLD), tmp=tmp_path)
    (address,) = source.contents
    one(cache, source, address)
    assert source.asked_for_hints == 0


def test_layers_and_hints_are_kept_beside_and_leave_with_the_content(cache: Cache, tmp_path: Path) -> None:
    source = hinting(b"".join(OLD), tmp=tmp_path)
    (address,) = source.contents
    one(cache, source, address)
    assert sidecars.read_layer(cache.root, address) == source.layers[address]
    assert (cache.root / "beside" / f"{address}.hints").read_bytes() == source.stored[address]
    (cache.root / "beside" / f"{address}.layer").write_bytes(b"\0" * len(source.layers[address] or b""))
    assert sidecars.read_layer(cache.root, address) is None, "a layer that does not prove itself"
    cache.evict(str(address))
    assert list((cache.root / "beside").iterdir()) == []


def test_an_update_from_a_real_catalog_moves_what_changed(cache: Cache, tmp_path: Path) -> None:
    old = factories.bundle(tmp_path / "old", partitions=1, size=6 * MIB)
    manifest = old.manifest
    big = max(manifest.contents(), key=lambda address: address.size)
    content = bytearray(old.content(big).read_bytes())
    rng = random.Random(11)
    data = [at for at in range(0, len(content), BLOCK) if any(content[at : at + BLOCK])]
    edited = sorted(rng.sample(data, 100))
    for at in edited:
        content[at : at + BLOCK] = rng.randbytes(BLOCK)
    changed = tmp_path / "changed"
    changed.write_bytes(content)
    address = index_file(changed).address
    new = factories.bundle(tmp_path / "new", partitions=1, size=6 * MIB)
    changed.rename(new.root / "blobs" / str(address))
    document = manifest.canonical().replace(str(big).encode(), str(address).encode()).replace(b'"1.0"', b'"1.1"')
    (new.root / "blobs" / str(big)).unlink()
    update = Bundle.create(new.root, Manifest.parse(document))
    with catalog(tmp_path / "s", [old, update]) as url, CatalogClient(url) as client:
        stager = Stager(cache, HttpSource(client), PACE)
        stager.stage(manifest, "m", 60)
        staged = stager.stage(update.manifest, "m", 60)
    assert cache.path(address).read_bytes() == bytes(content)
    assert staged.from_network == 100 * BLOCK
    assert staged.copied + staged.from_network >= len(data) * BLOCK
