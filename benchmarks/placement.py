"""Placement of 1000 machines on 1000 nodes that hold more or less of the image, packed and spread, with every reason told.

The target is absolute, 1 s. The peer is the plain loop that one would write first: for each machine, look at each node,
take the best that has room; it explains nothing.
"""

import random
import statistics
import time
from pathlib import Path
from typing import Any, Literal

from deployer.machine.shape import MachineShape
from deployer.protocol.deployment_request import PlacementOptions
from deployer.site.scheduling.placement import NodeCapacity, PlacementRequest, place_machines

NODES, MACHINES, CONTENTS, HELD = 1000, 1000, 30, 200
RUNS, PEER_RUNS = 9, 3
TARGET_S = 1.0
GIB = 1 << 30
SHAPE = MachineShape(memory=4 * GIB, max_memory=4 * GIB, cores=2, max_cores=2)


def run(_workdir: Path) -> dict[str, Any]:
    """A row for each strategy: the median of ours against the median of the peer's."""
    rooms = _rooms()
    return {"rows": [_row(rooms, strategy) for strategy in ("pack", "spread")]}


def _row(rooms: list[NodeCapacity], strategy: Literal["pack", "spread"]) -> dict[str, Any]:
    addresses = {f"{number:064x}-{GIB}": GIB for number in range(CONTENTS)}
    ask = PlacementRequest(MACHINES, SHAPE, 20 * GIB, "x86_64", addresses, PlacementOptions(strategy=strategy))
    ours, theirs, cpu = [], [], []
    for _ in range(RUNS):
        began, worked = time.perf_counter(), time.thread_time()
        placed = place_machines(rooms, ask)
        ours.append(time.perf_counter() - began)
        cpu.append(time.thread_time() - worked)
        assert len(placed.nodes) == MACHINES
    for _ in range(PEER_RUNS):
        began = time.perf_counter()
        assert len(_greedy(rooms, ask)) == MACHINES
        theirs.append(time.perf_counter() - began)
    mine, peer = statistics.median(ours), statistics.median(theirs)
    return {
        "name": f"{MACHINES} machines on {NODES} nodes, {strategy}",
        "ours": mine * 1000,
        "peer": peer * 1000,
        "unit": "ms",
        "ratio": mine / peer,
        "bound": TARGET_S / peer,
        "target": f"<= {TARGET_S:.0f} s",
        "met": mine <= TARGET_S,
        "cpu_s": statistics.median(cpu),
    }


def _rooms() -> list[NodeCapacity]:
    """Nodes of several sizes, in four halls, each with 200 contents of which some are the image's."""
    chance = random.Random(1)  # noqa: S311 - the same nodes each time
    return [
        NodeCapacity(
            f"{number:08x}-0000-4000-8000-000000000000",
            f"node{number:04}",
            chance.choice((8, 16, 64)),
            chance.choice((32, 64, 256)) * GIB,
            1000 * GIB,
            labels={"site": f"hall{number % 4}"},
            cached=frozenset(f"{chance.randrange(20 * HELD):064x}-{GIB}" for _ in range(HELD)),
        )
        for number in range(NODES)
    ]


def _greedy(rooms: list[NodeCapacity], ask: PlacementRequest) -> list[str]:
    """The plain loop: the same preference, decided anew for each machine."""
    left = {room.uuid: [room.cores, room.memory, room.disk] for room in rooms}
    held = {room.uuid: sum(size for it, size in ask.addresses.items() if it in room.cached) for room in rooms}
    chosen = list[str]()
    spread = ask.options.strategy == "spread"
    given = dict.fromkeys(left, 0)
    wanted = (ask.shape.max_cores, ask.shape.max_memory, ask.disk)
    for _ in range(ask.count):
        best: tuple[int, int, int, str, str] | None = None
        for room in rooms:
            fits = min(free // amount for free, amount in zip(left[room.uuid], wanted, strict=True))
            if not fits:
                continue
            key = (
                given[room.uuid] if spread else 0,
                -held[room.uuid],
                -fits if spread else fits,
                room.name,
                room.uuid,
            )
            if best is None or key < best:
                best = key
        assert best is not None
        uuid = best[-1]
        chosen.append(uuid)
        given[uuid] += 1
        for index, amount in enumerate(wanted):
            left[uuid][index] -= amount
    return chosen
