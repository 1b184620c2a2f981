"""Staging through the swarm: what is here is copied, the rest comes from peers and the origin, whoever of them is alive."""

import random
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from catalog.content.indexing import HINT_BLOCK, index_file
from catalog.image.address import LEAF, Address
from catalog.image.ranges import ByteRange
from catalog.swarm.tracker import Endpoint
from stager.cache.cache import Cache
from stager.errors import SourceUnavailable
from stager.fetch.resume import read_boot_id
from stager.staging import Stager
from stager.swarm.sharing import CacheSharing
from stager.swarm.swarm import Swarm, SwarmOptions
from tests.support.stager.cache_invariants import check_invariants
from tests.support.stager.caches import PACE
from tests.support.stager.fakes import MIB, Clock, Hinting

RNG = random.Random(31)
OLD = RNG.randbytes(4 * MIB)
WHOLE = 18 * MIB
# A part of the old one with a block edited in every piece; then new pieces, some with zero leaves inside; then zeros.
EDITED = b"".join(
    RNG.randbytes(HINT_BLOCK) + OLD[at + HINT_BLOCK : at + (64 << 10)] for at in range(0, len(OLD), 64 << 10)
)
FRESH = b"".join(bytes(LEAF) if at % 16 == 5 else RNG.randbytes(LEAF) for at in range(WHOLE // LEAF))
NEW = EDITED + FRESH + bytes(MIB) + b"end"
ZEROS = FRESH.count(bytes(LEAF)) * LEAF


class Origin(Hinting):
    """An origin that may have gone: then it gives its accelerators and nothing else."""

    gone = False

    def read(self, address: Address, ranges: Sequence[ByteRange]) -> Iterator[bytes]:
        if self.gone:
            raise SourceUnavailable("the origin has gone")
        yield from super().read(address, ranges)


class Node:
    """A cache, a stager and a swarm on loopback."""

    def __init__(self, root: Path, origin: Origin, stack: ExitStack) -> None:
        boot = read_boot_id()
        self.cache = stack.enter_context(Cache(root, 1 << 30, Clock(), grace=100))
        self.swarm = stack.enter_context(
            Swarm(None, SwarmOptions(listen="127.0.0.1:0", name=f"-PA0100-{root.name:-<12}"), boot=boot)
        )
        sharing = CacheSharing(self.cache, self.swarm, None, boot=boot, rng=random.Random(1))
        self.sharing = stack.enter_context(sharing)
        self.stager = Stager(self.cache, origin, PACE, self.sharing)

    def knows(self, other: "Node", address: Address) -> bool:
        """Tell the swarm of another node's place, as a tracker would."""
        for member in self.swarm.torrents:
            if member.address == address:
                self.swarm.add_peers(member, {Endpoint("127.0.0.1", other.swarm.port)})
                return True
        return False


@contextmanager
def introducing(first: Node, second: Node, address: Address) -> Iterator[None]:
    """While the block runs, both hear of each other as soon as they take part."""
    ending = threading.Event()

    def work() -> None:
        while not (ending.is_set() or (first.knows(second, address) and second.knows(first, address))):
            time.sleep(0.02)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join()


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory) -> Origin:
    """Both versions, measured once."""
    found = {}
    for name, content in (("old", OLD), ("new", NEW)):
        path = tmp_path_factory.mktemp("contents") / name
        path.write_bytes(content)
        found[index_file(path).address] = (content, index_file(path))
    return Origin({a: c for a, (c, _) in found.items()}, {a: m for a, (_, m) in found.items()})


@pytest.fixture
def origin(contents: Origin) -> Origin:
    """One that nobody has asked yet."""
    contents.gone = False
    contents.reads.clear()
    return contents


@pytest.fixture
def nodes(tmp_path: Path, origin: Origin) -> Iterator[tuple[Node, Node]]:
    """The first has both versions and offers the new one; the second has the old one."""
    old, new = origin.contents
    with ExitStack() as stack:
        first, second = (Node(tmp_path / name, origin, stack) for name in ("first", "second"))
        first.stager.restage(new)
        second.stager.restage(old)
        origin.reads.clear()
        yield first, second


def test_copies_then_blocks_from_the_origin_then_pieces_from_peers(nodes: tuple[Node, Node], origin: Origin) -> None:
    _, new = origin.contents
    first, second = nodes
    second.swarm.set_limits(0, 12 * MIB)  # a peer that gives all within one look is not told from others
    with introducing(first, second, new):
        second.stager.restage(new)
    assert second.cache.path(new).read_bytes() == NEW
    (member,) = second.swarm.torrents
    assert member.complete
    # The edited blocks came from the origin; the fresh pieces from the peer, without their zero leaves.
    edited = len(EDITED) // (64 << 10) * HINT_BLOCK
    assert edited <= origin.sent() <= edited + 2 * MIB
    assert WHOLE - ZEROS - 2 * MIB <= member.from_peers <= WHOLE - ZEROS + 2 * MIB
    assert second.cache.entry(new).allocated <= len(NEW) - ZEROS
    # What the node says of where it came from is so: all of the peers' bytes are the first node's, who counts the same.
    came = second.stager.transfers.recent()[0]
    (feeder,) = came.feeders
    assert (feeder.peer, feeder.received, feeder.rate) == (first.swarm.name, member.from_peers, 0)
    assert (came.from_peers, came.from_origin) == (member.from_peers, origin.sent())
    (sender,) = first.swarm.torrents
    assert first.swarm.wait(lambda: sender.sent >= feeder.received, 10)
    here = came.from_cache + ZEROS + MIB  # copied, and never sent: what the map calls zero
    assert len(NEW) <= here + came.from_peers + came.from_origin <= len(NEW) + 2 * MIB
    check_invariants(second.cache)
    check_invariants(first.cache)


def test_without_the_origin_everything_comes_from_peers(nodes: tuple[Node, Node], origin: Origin) -> None:
    _, new = origin.contents
    first, second = nodes
    origin.gone = True
    with introducing(first, second, new):
        second.stager.restage(new)
    assert second.cache.path(new).read_bytes() == NEW
    assert origin.sent() == 0


def test_without_peers_everything_comes_from_the_origin(nodes: tuple[Node, Node], origin: Origin) -> None:
    _, new = origin.contents
    _, second = nodes
    second.stager.restage(new)
    assert second.cache.path(new).read_bytes() == NEW
    assert origin.sent() <= WHOLE - ZEROS + len(EDITED) // 16 + MIB


@pytest.mark.slow
def test_a_map_that_lies_costs_time_and_never_a_wrong_byte(nodes: tuple[Node, Node], origin: Origin) -> None:
    _, new = origin.contents
    first, second = nodes
    honest = origin.maps[new]
    origin.maps[new] = bytes(byte & 0x77 for byte in honest)
    try:
        with introducing(first, second, new):
            second.stager.restage(new)
    finally:
        origin.maps[new] = honest
    assert second.cache.path(new).read_bytes() == NEW
    check_invariants(second.cache)


def test_what_leaves_the_cache_leaves_its_swarm(nodes: tuple[Node, Node], origin: Origin) -> None:
    _, new = origin.contents
    first, _ = nodes
    assert first.sharing.contents() == 1
    path = first.cache.path(new)
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.write(b"wrong")
    assert not _check(first.cache, new)
    deadline = time.monotonic() + 60
    while first.sharing.contents():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _check(cache: Cache, address: Address) -> bool:
    from stager.errors import EntryChanged

    try:
        cache.check(address)
    except EntryChanged:
        return False
    return True


def test_a_started_node_offers_what_it_has(tmp_path: Path, origin: Origin) -> None:
    old, new = origin.contents
    with ExitStack() as stack:
        node = Node(tmp_path / "node", origin, stack)
        node.stager.restage(new)
        node.stager.restage(old)
    with ExitStack() as stack:
        node = Node(tmp_path / "node", origin, stack)
        assert node.sharing.contents() == 0
        assert node.sharing.offer_all() == 1, "the small one does not travel by swarm"
        assert node.sharing.contents() == 1
