"""What would come of a cluster: all members' place together, bytes once, and the time along the order of starting. Nothing stored."""

from collections.abc import Callable
from typing import Any

import pytest

from deployer.errors import NoCapacity
from deployer.site.clusters.dry_run import dry_run_cluster
from deployer.site.model.cluster import ClusterDocument
from deployer.site.model.quota import ResourceUsage
from deployer.site.scheduling.boot_estimate import BootHistory, BootRecord, ReadinessSample
from deployer.site.scheduling.placement import NodeCapacity, Placement, PlacementRequest, place_machines
from deployer.site.schema.clusters import ClusterDryRun
from signer.documents import validate
from tests.support.site.values import GIB, IMAGE, MIB, decision, proposal

BASE, HEAD, WORK = (f"{letter * 64}-{size}" for letter, size in (("a", 100 * MIB), ("b", 10 * MIB), ("c", 20 * MIB)))
SIZES = {BASE: 100 * MIB, HEAD: 10 * MIB, WORK: 20 * MIB}
WORKER = "sha256:" + "2" * 64

STAR: dict[str, Any] = {
    "name": "star",
    "roles": {
        "head": {"image": "star/head@1.0", "provides": ["batch"]},
        "worker": {"image": "star/worker@1.0", "count": 3, "requires": ["batch"], "provides": ["work"]},
        "portal": {"image": "star/head@1.0", "requires": ["work"], "starts": "booting", "ready": "running"},
    },
}

N1, N2 = (f"00000000-0000-4000-8000-00000000000{number}" for number in (1, 2))

WARM = BootRecord(N1, 0, 10.0)
COLD = BootRecord(N1, 100 * MIB, 20.0)  # 10 MiB a second
PAST = BootHistory((WARM, COLD), (ReadinessSample(IMAGE, 30.0), ReadinessSample(WORKER, 5.0)))


def star(**changes: Any) -> ClusterDocument:
    """A cluster of a head, three workers and a portal; `worker__count=5` changes a role."""
    roles = {name: dict(role) for name, role in STAR["roles"].items()}
    top = {"name": "star"}
    for name, value in changes.items():
        role, _, member = name.partition("__")
        if member:
            roles[role][member] = value
        else:
            top[name] = value
    return validate(ClusterDocument, top | {"roles": roles}, "cluster")


def room(uuid: str, cores: int = 4, **changes: Any) -> NodeCapacity:
    """A node with room for so many cores."""
    return NodeCapacity(uuid, f"node-{uuid}", cores, 64 * GIB, 100 * GIB, **changes)


def tried(
    document: ClusterDocument,
    *rooms: NodeCapacity,
    past: BootHistory = PAST,
    refused: str = "",
    limit: Callable[[ResourceUsage, ResourceUsage, ResourceUsage], str | None] | None = None,
    chooses: Callable[..., Placement] = place_machines,
) -> ClusterDryRun:
    """A trial of that cluster on those nodes."""
    proposed = {}
    for name, role in document.roles.items():
        contents = (BASE, HEAD) if "head" in role.image else (BASE, WORK)
        proposed[name] = proposal(
            role.count,
            addresses={one: SIZES[one] for one in contents},
            image_id=IMAGE if "head" in role.image else WORKER,
            limit=limit,
            decided=decision(accepted=name != refused),
        )
    return dry_run_cluster(document, proposed, rooms, chooses, (ResourceUsage(), ResourceUsage()), past)


def test_all_members_are_placed_together() -> None:
    """Each alone would fit on one node; together they need both, and bytes that roles share come once."""
    found = tried(star(), room(N1), room(N2, 1))
    assert found.accepted
    assert found.placed
    assert {name: role.placed for name, role in found.roles.items()} == {"head": 1, "worker": 3, "portal": 1}
    used: dict[str, int] = {}
    for role in found.roles.values():
        for uuid, number in role.nodes.items():
            used[uuid] = used.get(uuid, 0) + number
    assert used == {N1: 4, N2: 1}
    images = {
        uuid: {WORK if name == "worker" else HEAD for name, role in found.roles.items() if uuid in role.nodes}
        for uuid in used
    }
    assert found.fetch == {uuid: 100 * MIB + sum(SIZES[one] for one in own) for uuid, own in images.items()}


def test_contents_that_are_there_are_not_fetched() -> None:
    found = tried(star(), room(N1, 8, cached=frozenset({BASE, HEAD})))
    assert found.fetch == {N1: 20 * MIB}


def test_time_goes_along_the_order_of_starting() -> None:
    """The head boots cold and settles; then workers fetch the rest; the portal needs them only to boot."""
    found = tried(star(), room(N1, 8))
    assert found.order == (("head",), ("worker",), ("portal",))
    head, worker, portal = (found.roles[name] for name in ("head", "worker", "portal"))
    assert (head.begins, head.ready) == (0.0, 10 + 11 + 30)  # warm boot, 110 MiB at 10 MiB/s, its image settles in 30 s
    assert (worker.begins, worker.ready) == (51.0, 51 + 10 + 2 + 5)
    assert (portal.begins, portal.ready) == (
        51.0 + 12,
        51 + 12 + 10,
    )  # nothing is left to fetch, and nothing is reported
    assert found.seconds == 73.0


@pytest.mark.parametrize(
    ("what", "past"),
    [
        ("nothing ever ran", BootHistory()),
        ("nothing was ever fetched", BootHistory((WARM,), PAST.settled)),
        ("no guest was ever ready", BootHistory(PAST.boots)),
    ],
)
def test_an_unknown_past_is_no_estimate(what: str, past: BootHistory) -> None:
    assert tried(star(), room(N1, 8), past=past).seconds is None, what


def test_what_does_not_fit_together_is_not_placed() -> None:
    found = tried(star(), room(N1, 4))
    assert not found.placed
    assert found.roles["worker"].placed == 3
    assert found.roles["portal"].placed == 0
    assert "there is capacity for 0 of 1 machine" in found.roles["portal"].problem
    assert found.seconds is None


def test_a_quorum_is_enough_and_the_rest_as_far_as_there_is_room() -> None:
    """The quorum of every role comes before anything beyond it."""
    found = tried(star(start="quorum", worker__count=5, worker__quorum=1), room(N1, 4))
    assert found.placed
    worker = found.roles["worker"]
    assert (worker.quorum, worker.count, worker.placed) == (1, 5, 2)
    assert found.roles["portal"].placed == 1


def test_quotas_hold_for_all_roles_together() -> None:
    def limit(mine: ResourceUsage, more: ResourceUsage, _together: ResourceUsage) -> str | None:
        return f"{mine.machines + more.machines} machines" if mine.machines + more.machines > 4 else None

    found = tried(star(), room(N1, 8), limit=limit)
    assert {name: role.problem for name, role in found.roles.items()} == {
        "head": "",
        "worker": "",
        "portal": "5 machines",
    }
    assert not found.placed
    assert found.accepted


def test_one_refusal_refuses_the_cluster() -> None:
    found = tried(star(), room(N1, 8), refused="worker")
    assert not found.accepted
    assert [name for name, role in found.roles.items() if not role.accepted] == ["worker"]


def test_a_proposal_s_own_way_to_nodes_goes_first() -> None:
    def never(_rooms: object, _ask: PlacementRequest) -> Placement:
        raise NoCapacity("not here")

    found = tried(star(), room(N1, 8), chooses=never)
    assert {role.problem for role in found.roles.values()} == {"not here"}
