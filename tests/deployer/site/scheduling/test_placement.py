"""Where machines run: never more than fits, what is wished, the best node first, the same answer every time, and why."""

import random
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployer.errors import NoCapacity
from deployer.protocol.deployment_request import PlacementOptions
from deployer.site.scheduling.placement import (
    MAX_NODES_EXPLAINED,
    NodeCapacity,
    Placement,
    PlacementRequest,
    place_machines,
)
from tests.support.site.values import properties

GIB = 1 << 30
BASE, DATA = "base", "data"
CONTENTS = {BASE: 3 * GIB, DATA: GIB}


def node(name: str, cores: int = 8, memory: int = 16, disk: int = 100, **values: Any) -> NodeCapacity:
    """A node with so many cores and GiB free."""
    return NodeCapacity(f"uuid-{name}", name, cores, memory * GIB, disk * GIB, **values)


def ask(count: int = 1, cores: int = 1, memory: int = 2, disk: int = 10, **wishes: Any) -> PlacementRequest:
    """Machines of one core and 2 GiB."""
    return PlacementRequest(
        count, properties(cores, memory * GIB).shape, disk * GIB, "x86_64", CONTENTS, PlacementOptions(**wishes)
    )


def names(placed: Placement) -> dict[str, int]:
    """How many machines each node got."""
    return dict(Counter(uuid.removeprefix("uuid-") for uuid in placed.nodes))


def told(placed: Placement, name: str) -> str:
    """What is said of a node."""
    return next(sentence for sentence in placed.sentences if sentence.startswith(f"{name} "))


CASES = [
    ("the node that holds the contents", [node("a"), node("b", cached=frozenset({BASE, DATA}))], ask(), {"b": 1}),
    (
        "the node that holds most bytes, not most contents",
        [node("a", cached=frozenset({DATA, "x", "y"})), node("b", cached=frozenset({BASE}))],
        ask(),
        {"b": 1},
    ),
    (
        "holding the contents counts more than being full",
        [node("a", cores=1), node("b", cached=frozenset({DATA}))],
        ask(),
        {"b": 1},
    ),
    (
        "the node whose neighbours hold the contents",
        [
            node("a", labels={"site": "hall1"}),
            node("b", labels={"site": "hall2"}),
            node("c", cores=0, labels={"site": "hall2"}, cached=frozenset({BASE})),
        ],
        ask(),
        {"b": 1},
    ),
    (
        "two neighbours that hold different parts hold both together",
        [
            node("a", labels={"site": "hall1"}),
            node("b", labels={"site": "hall2"}),
            node("c", cores=0, labels={"site": "hall1"}, cached=frozenset({BASE})),
            node("d", cores=0, labels={"site": "hall2"}, cached=frozenset({BASE})),
            node("e", cores=0, labels={"site": "hall2"}, cached=frozenset({DATA})),
        ],
        ask(),
        {"b": 1},
    ),
    ("packed: the fullest that fits", [node("a"), node("b", cores=2), node("c", cores=0)], ask(), {"b": 1}),
    ("packed: one node is filled before the next", [node("a", cores=3), node("b", cores=2)], ask(4), {"b": 2, "a": 2}),
    ("spread: the emptiest", [node("a"), node("b", cores=2)], ask(strategy="spread"), {"a": 1}),
    (
        "spread: over all nodes evenly",
        [node("a"), node("b"), node("c")],
        ask(7, strategy="spread"),
        {"a": 3, "b": 2, "c": 2},
    ),
    (
        "spread: a small node gets what it has room for",
        [node("a"), node("b", cores=1)],
        ask(5, strategy="spread"),
        {"a": 4, "b": 1},
    ),
    ("what runs out first bounds a node", [node("a", memory=5), node("b", disk=15)], ask(3), {"b": 1, "a": 2}),
    ("equal nodes by name", [node("b"), node("a")], ask(), {"a": 1}),
    ("labels", [node("a"), node("b", labels={"gpu": "yes"})], ask(labels={"gpu": "yes"}), {"b": 1}),
    ("architecture", [node("a", architecture="aarch64"), node("b")], ask(), {"b": 1}),
    ("readiness", [node("a", ready=False), node("b")], ask(), {"b": 1}),
    ("part of it where that is wished", [node("a", cores=2)], ask(3, whole=False), {"a": 2}),
    ("at home unless asked", [node("pool", kind="ec2", architecture=""), node("a")], ask(), {"a": 1}),
    ("on EC2 where asked", [node("pool", kind="ec2", architecture=""), node("a")], ask(where="ec2"), {"pool": 1}),
    (
        "at home first, the rest on EC2",
        [node("pool", cores=1000, memory=2000, disk=20000, kind="ec2", architecture=""), node("a", cores=2)],
        ask(5, where="local-then-ec2"),
        {"a": 2, "pool": 3},
    ),
    (
        "at home before EC2 even if EC2 has the contents",
        [node("pool", kind="ec2", architecture="", cached=frozenset(CONTENTS)), node("a")],
        ask(2, where="local-then-ec2"),
        {"a": 2},
    ),
]


@pytest.mark.parametrize(("rooms", "wanted", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_the_best_node_is_taken(
    rooms: Sequence[NodeCapacity], wanted: PlacementRequest, expected: dict[str, int]
) -> None:
    """Each rule of preference, alone."""
    assert names(place_machines(rooms, wanted)) == expected


def test_bytes_to_fetch_are_those_that_a_node_lacks() -> None:
    """Per node, once, however many machines it gets."""
    found = place_machines([node("a", cores=2, cached=frozenset({BASE})), node("b")], ask(4))
    assert found.fetch == {"uuid-a": GIB, "uuid-b": 4 * GIB}


REFUSED = [
    ("no node", [], ask(), "no node has joined"),
    ("too small", [node("a", cores=4), node("b", cores=6)], ask(cores=8), "nearest is b with 6 cores, 16.0 GiB memory"),
    (
        "all or none",
        [node("a", cores=2)],
        ask(3),
        "capacity for 2 of 3 machines of 1 core, 2.0 GiB memory and 10.0 GiB",
    ),
    ("no label", [node("a"), node("b", labels={"gpu": "no"})], ask(labels={"gpu": "yes"}), r"2 nodes \(the label gpu"),
    ("none ready", [node("a", ready=False)], ask(), r"1 node \(not taking machines\)"),
    ("other architecture", [node("a", architecture="aarch64")], ask(), r"1 node \(the image is for x86_64\)"),
    ("only EC2", [node("pool", kind="ec2")], ask(), r"on the site's own nodes; left out: 1 node"),
    ("no EC2", [node("a")], ask(where="ec2"), r"on EC2; left out: 1 node \(the request is for EC2\)"),
    ("overdrawn", [node("a", cores=-3)], ask(), "nearest is a with 0 cores"),
    ("none of it fits", [node("a", cores=0)], ask(2, whole=False), "capacity for 0 of 2 machines"),
]


@pytest.mark.parametrize(("rooms", "wanted", "says"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_a_refusal_says_what_is_lacking(rooms: Sequence[NodeCapacity], wanted: PlacementRequest, says: str) -> None:
    """And names what would help."""
    with pytest.raises(NoCapacity, match=says):
        place_machines(rooms, wanted)


def test_every_node_is_explained() -> None:
    """Those that were chosen, and each of the others."""
    rooms = [
        node("cached", cores=1, cached=frozenset({BASE})),
        node("draining", ready=False, problem="it is draining"),
        node("empty"),
        node("foreign", architecture="aarch64"),
        node("full", cores=0, memory=1),
        node("mislabelled", labels={"rack": "2"}),
        node("spare"),
    ]
    found = place_machines(rooms, ask(2))
    assert told(found, "cached") == (
        "cached gets 1 machine: it holds 3.0 GiB of 4.0 GiB of the contents; "
        "among its like it is the fullest that fits, with capacity for 1 machine."
    )
    assert "it holds no contents and fetches 4.0 GiB" in told(found, "empty")
    assert told(found, "draining") == "draining is left out: it is draining."
    assert told(found, "foreign") == "foreign is left out: it runs aarch64, and the image is for x86_64."
    assert told(found, "full") == (
        "full is left out: it has 0 of 1 cores free and it has 1.0 GiB of 2.0 GiB memory free."
    )
    assert told(found, "spare") == "spare is left out: it has capacity for 8 machines, and others come first."
    wanted = place_machines(rooms, ask(1, labels={"rack": "2"}))
    assert told(wanted, "empty") == "empty is left out: the label rack is not set there, and the request is for 2."


def test_the_way_to_ec2_is_explained() -> None:
    """Which machines go there, and why."""
    pool = node("pool", cores=100, memory=200, disk=2000, kind="ec2", architecture="")
    some = place_machines([pool, node("a", cores=2)], ask(3, where="local-then-ec2"))
    assert "The site's own nodes have capacity for 2 of 3 machines; the rest goes to EC2." in some.sentences
    none = place_machines([pool, node("a")], ask(3, where="local-then-ec2"))
    assert "The site's own nodes have capacity for all machines; none goes to EC2." in none.sentences
    with pytest.raises(NoCapacity, match=re.escape("here or on EC2")):
        place_machines([node("pool", cores=1, kind="ec2", architecture="")], ask(3, where="local-then-ec2"))


def test_a_long_story_is_summed_up() -> None:
    """A thousand nodes are not told of one by one, and none is missing from the sums."""
    rooms = [node(f"n{number:04}", cores=number % 2) for number in range(1000)]
    found = place_machines(rooms, ask(450))
    assert len(found.sentences) < MAX_NODES_EXPLAINED + 10
    assert any(re.match(r"410 more nodes get 410 machines", sentence) for sentence in found.sentences)
    assert any("500 nodes left out (too little cores)" in sentence for sentence in found.sentences)
    assert any("50 nodes left out (others come first)" in sentence for sentence in found.sentences)


_AMOUNTS = st.integers(-2, 9)
ROOMS = st.lists(
    st.builds(
        lambda index, cores, memory, disk, cached, site, ready, kind: node(
            f"n{index}",
            cores,
            memory,
            disk,
            cached=cached,
            labels={"site": site} if site else {},
            ready=ready,
            kind=kind,
            architecture="" if kind == "ec2" else "x86_64",
        ),
        st.integers(0, 10**6),
        _AMOUNTS,
        _AMOUNTS,
        _AMOUNTS,
        st.frozensets(st.sampled_from([BASE, DATA, "other"])),
        st.sampled_from(["", "hall1", "hall2"]),
        st.booleans() | st.just(True),
        st.sampled_from(["libvirt", "libvirt", "libvirt", "ec2"]),
    ),
    max_size=12,
    unique_by=lambda room: room.uuid,
)
ASKS = st.builds(
    lambda count, cores, memory, disk, strategy, whole, where: ask(
        count, cores, memory, disk, strategy=strategy, whole=whole, where=where
    ),
    st.integers(1, 20),
    st.integers(1, 3),
    st.integers(0, 3),
    st.integers(0, 3),
    st.sampled_from(["pack", "spread"]),
    st.booleans(),
    st.sampled_from(["local", "ec2", "local-then-ec2"]),
)


def _room_for(room: NodeCapacity, wanted: PlacementRequest) -> int:
    """How many machines fit, counted one by one."""
    cores, memory, disk, count = room.cores, room.memory, room.disk, 0
    kinds = {"local": {"libvirt"}, "ec2": {"ec2"}, "local-then-ec2": {"libvirt", "ec2"}}[wanted.options.where]
    if not room.ready or room.kind not in kinds:
        return 0
    while (
        count < wanted.count
        and cores >= wanted.shape.max_cores
        and (not wanted.shape.max_memory or memory >= wanted.shape.max_memory)
        and (not wanted.disk or disk >= wanted.disk)
    ):
        cores, memory = cores - wanted.shape.max_cores, memory - wanted.shape.max_memory
        disk, count = disk - wanted.disk, count + 1
    return count


@settings(max_examples=300, deadline=None)
@given(ROOMS, ASKS)
def test_never_more_than_a_node_has_and_never_less_than_there_is(
    rooms: list[NodeCapacity], wanted: PlacementRequest
) -> None:
    """Held against counting by hand: who is refused had no room, who is placed is within every node's room."""
    possible = min(wanted.count, sum(_room_for(room, wanted) for room in rooms))
    try:
        found = place_machines(rooms, wanted)
    except NoCapacity:
        assert possible < (wanted.count if wanted.options.whole else 1)
        return
    assert len(found.nodes) == possible
    if wanted.options.whole:
        assert len(found.nodes) == wanted.count
    by_uuid = {room.uuid: room for room in rooms}
    for uuid, number in Counter(found.nodes).items():
        assert number <= _room_for(by_uuid[uuid], wanted)
    assert set(found.fetch) == set(found.nodes)


@settings(max_examples=100, deadline=None)
@given(ROOMS, ASKS, st.randoms(use_true_random=False))
def test_the_order_of_nodes_changes_nothing(
    rooms: list[NodeCapacity], wanted: PlacementRequest, by: random.Random
) -> None:
    """The same nodes in another order: the same answer, or the same refusal, to the letter."""

    def answer(pool: list[NodeCapacity]) -> object:
        try:
            return place_machines(pool, wanted)
        except NoCapacity as refused:
            return str(refused)

    shuffled = list(rooms)
    by.shuffle(shuffled)
    assert answer(shuffled) == answer(rooms)


@settings(max_examples=100, deadline=None)
@given(ROOMS, ASKS)
def test_whoever_holds_the_contents_wins(rooms: list[NodeCapacity], wanted: PlacementRequest) -> None:
    """Add a node that holds all contents: it is among the chosen, and a packed request fills it first."""
    full = node("zz-holder", 4, 8, 40, cached=frozenset(CONTENTS))
    others = [room for room in rooms if not set(CONTENTS) <= room.cached]
    wanted = PlacementRequest(
        1, properties(1, 0).shape, 0, "x86_64", CONTENTS, wanted.options.model_copy(update={"where": "local"})
    )
    assert place_machines([*others, full], wanted).nodes == (full.uuid,)


@settings(max_examples=100, deadline=None)
@given(ROOMS, ASKS)
def test_every_node_is_told_of(rooms: list[NodeCapacity], wanted: PlacementRequest) -> None:
    """A story of few nodes names each of them."""
    try:
        found = place_machines(rooms, wanted)
    except NoCapacity:
        return
    assert {room.name for room in rooms} <= {sentence.split()[0] for sentence in found.sentences}
