"""What a site admits and remembers, on SQLite and on PostgreSQL: the same answers, nothing lost, nothing sold twice."""

import threading
from collections.abc import Callable
from datetime import timedelta

import pytest

from catalog.errors import Conflict
from deployer.errors import NoCapacity, OverQuota
from deployer.machine.state import MachineState
from deployer.protocol.deployment_request import DeploymentRequest
from deployer.site.db.engine import SiteDatabase
from deployer.site.db.events import last_event, list_events
from deployer.site.db.machines import (
    desired_state,
    find_deployment,
    get_deployment,
    list_deployments,
    list_machines,
    machines_of,
    usage_of,
)
from deployer.site.db.nodes import revision_of
from deployer.site.lifecycle.verb_rules import Verb, apply_verb
from deployer.site.model.quota import Quota, QuotaLimits, QuotaShare, ResourceUsage
from deployer.site.model.records import NodeState
from deployer.site.scheduling.node_capacity import Overcommit
from deployer.site.scheduling.placement import place_machines
from deployer.site.store.admission import admit_request, find_ordered, place_now
from deployer.site.store.changes import add_node, change_machine, set_node_state
from deployer.site.store.reports import store_report
from deployer.site.store.store import SiteStore
from tests.support.site.values import (
    ALICE,
    BOB,
    CAROL,
    CONTENT,
    GIB,
    MIB,
    NOW,
    Clock,
    World,
    capable,
    observed,
    proposal,
    together,
    uuids,
)
from tests.support.site.values import world as make_world

# Admission


def test_an_admitted_request_is_remembered_whole(world: World) -> None:
    """Deployment, machines, story and what the node hears."""
    uuid = world.join("n1")
    deployment, machines, new = world.admit(count=2, user_data="I2Nsb3VkLWNvbmZpZwo=")
    assert new
    assert (deployment.owner, deployment.created, deployment.expires) == (ALICE, NOW, NOW + timedelta(hours=1))
    assert deployment.placement
    assert [one.number for one in machines] == [1, 2]
    assert {one.node for one in machines} == {uuid}
    assert [one.hostname for one in machines] == [f"worker-{one.uuid[:8]}" for one in machines]
    assert world.store.read(get_deployment, deployment.uuid) == deployment
    assert world.store.read(machines_of, deployment.uuid) == machines
    assert world.store.read(find_deployment, deployment.uuid[:8]) == deployment
    assert world.told() == ["joined", "admitted", "pending", "pending"]
    desired = world.store.read(desired_state, uuid)
    assert desired.revision == world.store.read(revision_of, uuid) == 1
    assert {one.uuid for one in desired.machines} == {one.uuid for one in machines}
    assert desired.machines[0].user_data == "I2Nsb3VkLWNvbmZpZwo="


@pytest.mark.parametrize(
    ("request_", "names"),
    [
        ({"count": 1, "hostname": "head"}, ["head"]),
        ({"count": 2, "hostname": "node"}, ["node-1", "node-2"]),
        ({"count": 2, "hostnames": ("ce", "wn")}, ["ce", "wn"]),
    ],
)
def test_machines_are_called_as_asked(world: World, request_: dict[str, object], names: list[str]) -> None:
    """One name, a number after it, or a name each."""
    world.join("n1")
    assert [one.hostname for one in world.admit(**request_)[1]] == names


def test_the_same_key_has_the_same_answer(world: World) -> None:
    """Whatever has changed since; for its owner, and for that request alone."""
    node = world.join("n1", cores=2)
    deployment, machines, new = world.admit(key="k1", count=2)
    assert new
    world.store.write(set_node_state, node, NodeState.DRAINING, "")
    again = world.admit(key="k1", count=2)
    assert again == (deployment, machines, False)
    assert world.store.read(find_ordered, ALICE, "k1", deployment.request) == (deployment, machines)
    assert world.store.read(find_ordered, BOB, "k1", deployment.request) is None
    with pytest.raises(Conflict, match="was used for another request"):
        world.admit(key="k1", count=1)
    with pytest.raises(Conflict, match="was used for another request"):
        world.store.read(find_ordered, ALICE, "k1", DeploymentRequest(image="star/other"))
    with pytest.raises(Conflict, match="was used for another request"):
        world.admit(key="k1", count=2, cluster=deployment.uuid)
    with pytest.raises(NoCapacity):
        world.admit(BOB, key="k1", count=2)
    assert len(world.store.read(list_deployments)[0]) == 1


def test_the_same_key_many_times_at_once_is_one_deployment(world: World) -> None:
    """A client that lost its patience."""
    world.join("n1")
    answers = list[tuple[str, bool]]()

    def run() -> None:
        deployment, _, new = world.admit(key="k1", count=2)
        answers.append((deployment.uuid, new))

    together(run, 8)
    assert len({uuid for uuid, _ in answers}) == 1
    assert sum(new for _, new in answers) == 1
    assert len(world.store.read(list_machines)[0]) == 2


def test_room_is_never_promised_twice(world: World) -> None:
    """Not to one after the other; it comes back when a machine has ended, and is gone on its node."""
    node = world.join("n1", cores=3, memory=8 * GIB)
    machines = world.admit(count=3)[1]
    with pytest.raises(NoCapacity):
        world.admit()
    one = machines[0]
    world.store.write(change_machine, one.uuid, lambda it: apply_verb(it, Verb.DESTROY, "", NOW))
    with pytest.raises(NoCapacity):
        world.admit()
    others = [observed(other, MachineState.RUNNING) for other in machines[1:]]
    assert world.report(node, observed(one, MachineState.ENDED), *others)[0] == ("ended", "destroyed on request")
    assert world.machine().node == node


def test_a_machine_that_failed_on_its_node_gives_its_room_back(world: World) -> None:
    """Nothing of it is left there."""
    node = world.join("n1", cores=1)
    world.report(node, observed(world.machine(), MachineState.FAILED, reason="no such kernel"))
    assert world.machine().node == node


def test_a_request_that_is_refused_leaves_nothing(world: World) -> None:
    """No machine, no event, no key."""
    world.join("n1", cores=2)
    before = world.store.read(last_event)
    with pytest.raises(NoCapacity):
        world.admit(key="k1", count=3)
    assert world.store.read(last_event) == before
    assert world.store.read(list_machines) == ((), None)
    assert world.admit(key="k1", count=2)[2]


def test_a_request_may_take_what_there_is(world: World) -> None:
    """Fewer machines than it asked for."""
    world.join("n1", cores=2)
    assert len(world.admit(count=5, whole=False)[1]) == 2


def test_overcommit_and_what_a_node_runs_beside(database: SiteDatabase) -> None:
    """Twice the cores; memory as it is, less what others take."""
    world = make_world(database, Overcommit(cores=2.0))
    node = world.store.write(add_node, "n1", {}).uuid
    report = capable(cores=2, memory=8 * GIB)
    taken = report.capacity.model_copy(update={"taken_cores": 1, "taken_memory": 6 * GIB})
    world.store.write(store_report, node, report.model_copy(update={"capacity": taken}))
    assert len(world.admit(count=5, memory=512 * MIB, whole=False)[1]) == 3
    with pytest.raises(NoCapacity):
        world.admit(cores=0, memory=GIB)


def test_the_policys_limit_on_one_node_holds(world: World) -> None:
    """However much room it has: the rest goes to others, or is refused."""
    first, second = world.join("n1", cores=16), world.join("n2", cores=16)
    machines = world.admit(count=3, most=2)[1]
    assert sorted(machine.node or "" for machine in machines) == sorted([first, first, second])
    with pytest.raises(NoCapacity):
        world.admit(count=2, most=2)
    assert world.machine(most=2).node == second


def test_quotas_count_what_is_held_now(world: World) -> None:
    """Of the owner, and of the VO; what has ended does not count."""
    node = world.join("n1", cores=100)
    each = _allowance(2)
    quota = Quota((QuotaShare("star", each, _allowance(3)),))
    mine = world.admit(count=2, limit=quota.check)[1]
    with pytest.raises(OverQuota, match="2 machines at a time; 2 taken, 1 more"):
        world.admit(limit=quota.check)
    world.admit(BOB, limit=quota.check)
    with pytest.raises(OverQuota, match="the whole VO 3 machines"):
        world.admit(BOB, limit=quota.check)
    world.admit(CAROL, limit=quota.check)
    assert world.store.read(usage_of, owner=ALICE) == ResourceUsage(2, 2, 2 * GIB)
    assert world.store.read(usage_of, vo="star") == ResourceUsage(3, 3, 3 * GIB)
    assert world.store.read(usage_of) == ResourceUsage(4, 4, 4 * GIB)
    world.report(node, observed(mine[0], MachineState.FAILED), complete=False)
    assert world.machine(limit=quota.check).state is MachineState.PENDING


def test_a_partial_request_is_weighed_by_what_it_would_get(world: World) -> None:
    """Three of five have room, and two are allowed."""
    world.join("n1", cores=3)
    each = _allowance(2)
    with pytest.raises(OverQuota, match="3 more asked for"):
        world.admit(count=5, whole=False, limit=Quota((QuotaShare("star", each),)).check)
    assert world.store.read(list_machines) == ((), None)


def test_nodes_that_hold_the_contents_are_preferred(world: World) -> None:
    """Of what nodes cache, what the image has is looked at."""
    world.join("n1", cached=("other",))
    holder = world.join("n2", cached=(CONTENT, "other"))
    assert world.machine().node == holder
    assert world.store.read(place_now, world.store.overcommit, proposal().placement_request, place_machines).fetch == {
        holder: 0
    }


@pytest.mark.timeout(120)
@pytest.mark.parametrize("requests", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_simultaneous_requests_never_oversell(make_database: Callable[[], SiteDatabase], requests: int) -> None:
    """Each is admitted or clearly refused; two services on one database sell the same room once."""
    stores = [SiteStore(make_database(), Clock(), uuids(seed)) for seed in range(2)]
    first = World(stores[0], Clock())
    nodes = {first.join(f"n{number}", cores=8, memory=64 * GIB, disk=64 * GIB): 8 for number in range(requests // 20)}
    answers = list[str]()
    turn, lock = iter(range(requests)), threading.Lock()

    def run() -> None:
        while True:
            with lock:
                number = next(turn, None)
            if number is None:
                return
            try:
                wanted = proposal(1 + number % 3, cores=1 + number % 2)
                stores[number % 2].write(
                    admit_request, (ALICE, BOB, CAROL)[number % 3], f"k{number}", wanted, place_machines
                )
                answers.append("admitted")
            except NoCapacity as exc:
                answers.append(str(exc)[: len("there is capacity for 0 of")])

    together(run, 32)
    assert len(answers) == requests
    assert "admitted" in answers
    assert (
        {"there is capacity for 0 of"}
        <= set(answers) - {"admitted"}
        <= {f"there is capacity for {n} of" for n in range(3)}
    )
    sold = dict.fromkeys(nodes, 0)
    after = None
    while True:
        page, after = first.store.read(list_machines, limit=1000, after=after)
        for machine in page:
            assert machine.node is not None
            sold[machine.node] += machine.max_cores
        if after is None:
            break
    assert all(sold[node] <= has for node, has in nodes.items())
    assert sum(sold.values()) >= sum(nodes.values()) - len(nodes), "room was refused that was there"
    events = first.store.read(list_events, limit=100_000)
    assert [event.number for event in events] == list(range(1, len(events) + 1))


def _allowance(machines: int) -> QuotaLimits:
    return QuotaLimits.model_validate({"machines": machines, "cores": 9, "memory": "9GiB", "lifetime": "2h"})
