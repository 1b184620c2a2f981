"""What a site remembers, on SQLite and on PostgreSQL: the same answers, nothing lost, nothing sold twice."""

import threading
from collections.abc import Callable
from datetime import timedelta

import pytest

from deployer.errors import (
    ClusterNotFound,
    Conflict,
    DeploymentNotFound,
    JoinRefused,
    MachineNotFound,
    Misused,
    NodeNotFound,
    NoRoom,
    OverQuota,
)
from deployer.machine import State
from deployer.site.allowances import Allowance, Quota, Share, Usage
from deployer.site.database import SiteDatabase
from deployer.site.desired import Want
from deployer.site.lifecycle import Verb, act
from deployer.site.placement import place
from deployer.site.records import Filter, NodeState, SiteMachine
from deployer.site.request import DeploymentRequest
from deployer.site.rooms import Overcommit
from deployer.site.store import SiteStore
from tests.site.values import (
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
from tests.site.values import world as make_world

OTHER = "sha256:" + "3" * 64
NOBODY = "00000000-0000-4000-8000-00000000dead"


@pytest.fixture
def world(database: SiteDatabase) -> World:
    """A store with an empty database."""
    return make_world(database)


def test_a_node_joins_and_reports(world: World) -> None:
    """It is remembered as it said it is."""
    uuid = world.store.add_node("n1", {"rack": "7"}).uuid
    fresh = world.store.node(uuid)
    assert (fresh.state, fresh.reported, fresh.labels, fresh.joined) == (NodeState.READY, None, {"rack": "7"}, NOW)
    world.clock.advance(seconds=5)
    world.store.absorb(uuid, capable(labels={"rack": "8"}, cached=(CONTENT,), accelerator="kvm"))
    known = world.store.node(uuid)
    assert (known.labels, known.cached, known.accelerator) == ({"rack": "8"}, frozenset({CONTENT}), "kvm")
    assert known.reported == NOW + timedelta(seconds=5)
    assert known.capacity.cores == 4
    assert world.store.nodes() == (known,)
    assert world.store.nodes(contents=False) == (known.model_copy(update={"cached": frozenset()}),)


def test_what_a_node_caches_comes_and_goes(world: World) -> None:
    """Only what is another is written."""
    uuid = world.join("n1", cached=("a", "b", "c"))
    other = world.join("n2", cached=("b",))
    world.store.absorb(uuid, capable(cached=("b", "d")))
    assert world.store.node(uuid).cached == {"b", "d"}
    assert world.store.node(other).cached == {"b"}
    world.store.absorb(uuid, capable())
    assert world.store.node(uuid).cached == frozenset()


def test_two_nodes_do_not_have_one_name(world: World) -> None:
    """Until the first has left; whoever reads its story still finds it."""
    first = world.join("n1")
    with pytest.raises(Conflict, match="has a node n1"):
        world.store.add_node("n1", {})
    world.store.set_node_state(first, NodeState.LEFT, "scrapped")
    second = world.store.add_node("n1", {}).uuid
    assert world.store.find_node("n1").uuid == second
    assert world.store.node(first).name == f"n1 ({first[:8]})"


def test_nodes_are_found_by_name_and_by_the_beginning_of_their_uuid(world: World) -> None:
    """Where that is enough."""
    uuid = world.join("n1")
    world.join("n2")
    assert world.store.find_node("n1").uuid == uuid
    assert world.store.find_node(uuid).uuid == uuid
    assert world.store.find_node(uuid[:6]).uuid == uuid
    for text in ("n3", uuid[:3], "zzzz", "%", ""):
        with pytest.raises(NodeNotFound):
            world.store.find_node(text)
    for call in (world.store.node, world.store.revision, world.store.desired):
        with pytest.raises(NodeNotFound):
            call(NOBODY)
    with pytest.raises(NodeNotFound):
        world.store.absorb(NOBODY, capable())


def test_a_draining_node_gets_no_more_machines(world: World) -> None:
    """Those that it has stay; it hears of it; and it can be used again."""
    uuid = world.join("n1")
    machine = world.machine()
    before = world.store.revision(uuid)
    assert world.store.set_node_state(uuid, NodeState.DRAINING, "new disks").draining
    assert world.store.desired(uuid).draining
    assert world.store.revision(uuid) == before + 1
    with pytest.raises(NoRoom, match="not taking machines"):
        world.admit()
    assert world.store.machine(machine.uuid) == machine
    assert world.store.set_node_state(uuid, NodeState.DRAINING, "again").state is NodeState.DRAINING
    assert world.told()[-1:] == ["draining"]
    world.store.set_node_state(uuid, NodeState.READY, "done")
    assert world.machine().node == uuid


def test_a_lost_node_that_was_draining_comes_back_draining(world: World) -> None:
    """And what is said of it meanwhile is remembered."""
    uuid = world.join("n1")
    world.store.set_node_state(uuid, NodeState.LOST, "silent")
    assert world.store.set_node_state(uuid, NodeState.DRAINING, "repair").state is NodeState.LOST
    assert world.report(uuid) == [("draining", "it reports again")]
    assert world.store.node(uuid).state is NodeState.DRAINING
    world.store.set_node_state(uuid, NodeState.LOST, "silent")
    assert world.store.set_node_state(uuid, NodeState.READY, "repaired").draining is False
    assert world.report(uuid) == [("ready", "it reports again")]


def test_a_node_that_left_is_gone_for_good(world: World) -> None:
    """Its machines are over, and it has to join again."""
    uuid = world.join("n1")
    one, two = world.machine(), world.machine()
    world.store.change_machine(two.uuid, lambda it: it.model_copy(update={"want": Want.ENDED}), "destroying", "")
    world.store.set_node_state(uuid, NodeState.LEFT, "scrapped")
    assert world.store.machine(one.uuid).state is State.FAILED
    assert world.store.machine(two.uuid).state is State.ENDED
    assert world.store.desired(uuid).machines == ()
    with pytest.raises(JoinRefused, match="has left"):
        world.store.absorb(uuid, capable())
    with pytest.raises(JoinRefused, match="has left"):
        world.store.set_node_state(uuid, NodeState.READY, "")
    with pytest.raises(NoRoom):
        world.admit()


def test_a_join_token_is_good_once(world: World) -> None:
    """Not for a second node, not too late, not when nobody made it."""
    store = world.store
    store.new_join_token("d" * 64, NOW + timedelta(hours=1), "n1")
    store.new_join_token("e" * 64, NOW + timedelta(hours=1))
    assert store.redeem_join_token("d" * 64, NOW) == "n1"
    refusals = set()
    for digest, now in (("d" * 64, NOW), ("e" * 64, NOW + timedelta(hours=1)), ("f" * 64, NOW)):
        with pytest.raises(JoinRefused) as refused:
            store.redeem_join_token(digest, now)
        refusals.add(str(refused.value))
    assert len(refusals) == 1
    assert store.redeem_join_token("e" * 64, NOW + timedelta(minutes=59)) == ""


def test_one_of_many_that_show_a_token_at_once_gets_in(world: World) -> None:
    """The others are refused."""
    world.store.new_join_token("d" * 64, NOW + timedelta(hours=1))
    answers = list[str]()

    def run() -> None:
        try:
            world.store.redeem_join_token("d" * 64, NOW)
            answers.append("in")
        except JoinRefused:
            answers.append("refused")

    together(run, 8)
    assert sorted(answers) == ["in", *["refused"] * 7]


def test_a_problem_of_a_node_is_told_once_and_keeps_machines_away(world: World) -> None:
    """Until it is over."""
    uuid = world.join("n1")
    assert world.report(uuid, problem="libvirt does not answer") == [("problem", "libvirt does not answer")]
    assert world.report(uuid, problem="libvirt does not answer") == []
    with pytest.raises(NoRoom):
        world.admit()
    assert world.report(uuid) == [("well", "")]
    assert world.machine().node == uuid


# Admission


def test_an_admitted_request_is_remembered_whole(world: World) -> None:
    """Deployment, machines, story and what the node hears."""
    uuid = world.join("n1")
    deployment, machines, new = world.admit(count=2, user_data="I2Nsb3VkLWNvbmZpZwo=")
    assert new
    assert (deployment.owner, deployment.created, deployment.ends) == (ALICE, NOW, NOW + timedelta(hours=1))
    assert deployment.placement
    assert [one.number for one in machines] == [1, 2]
    assert {one.node for one in machines} == {uuid}
    assert [one.hostname for one in machines] == [f"worker-{one.uuid[:8]}" for one in machines]
    assert world.store.deployment(deployment.uuid) == deployment
    assert world.store.machines_of(deployment.uuid) == machines
    assert world.store.find_deployment(deployment.uuid[:8]) == deployment
    assert world.told() == ["joined", "admitted", "pending", "pending"]
    desired = world.store.desired(uuid)
    assert desired.revision == world.store.revision(uuid) == 1
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
    world.store.set_node_state(node, NodeState.DRAINING, "")
    again = world.admit(key="k1", count=2)
    assert again == (deployment, machines, False)
    assert world.store.ordered(ALICE, "k1", deployment.request) == (deployment, machines)
    assert world.store.ordered(BOB, "k1", deployment.request) is None
    with pytest.raises(Conflict, match="was used for another request"):
        world.admit(key="k1", count=1)
    with pytest.raises(Conflict, match="was used for another request"):
        world.store.ordered(ALICE, "k1", DeploymentRequest(image="star/other"))
    with pytest.raises(Conflict, match="was used for another request"):
        world.admit(key="k1", count=2, cluster=deployment.uuid)
    with pytest.raises(NoRoom):
        world.admit(BOB, key="k1", count=2)
    assert len(world.store.deployments()[0]) == 1


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
    assert len(world.store.machines()[0]) == 2


def test_room_is_never_promised_twice(world: World) -> None:
    """Not to one after the other; it comes back when a machine has ended, and is gone on its node."""
    node = world.join("n1", cores=3, memory=8 * GIB)
    machines = world.admit(count=3)[1]
    with pytest.raises(NoRoom):
        world.admit()
    one = machines[0]
    world.store.apply(one.uuid, lambda it: act(it, Verb.DESTROY, "", NOW))
    with pytest.raises(NoRoom):
        world.admit()
    others = [observed(other, State.RUNNING) for other in machines[1:]]
    assert world.report(node, observed(one, State.ENDED), *others)[0] == ("ended", "destroyed on request")
    assert world.machine().node == node


def test_a_machine_that_failed_on_its_node_gives_its_room_back(world: World) -> None:
    """Nothing of it is left there."""
    node = world.join("n1", cores=1)
    world.report(node, observed(world.machine(), State.FAILED, reason="no such kernel"))
    assert world.machine().node == node


def test_a_request_that_is_refused_leaves_nothing(world: World) -> None:
    """No machine, no event, no key."""
    world.join("n1", cores=2)
    before = world.store.last_event()
    with pytest.raises(NoRoom):
        world.admit(key="k1", count=3)
    assert world.store.last_event() == before
    assert world.store.machines() == ((), None)
    assert world.admit(key="k1", count=2)[2]


def test_a_request_may_take_what_there_is(world: World) -> None:
    """Fewer machines than it asked for."""
    world.join("n1", cores=2)
    assert len(world.admit(count=5, whole=False)[1]) == 2


def test_overcommit_and_what_a_node_runs_beside(database: SiteDatabase) -> None:
    """Twice the cores; memory as it is, less what others take."""
    world = make_world(database, Overcommit(cores=2.0))
    node = world.store.add_node("n1", {}).uuid
    report = capable(cores=2, memory=8 * GIB)
    taken = report.capacity.model_copy(update={"taken_cores": 1, "taken_memory": 6 * GIB})
    world.store.absorb(node, report.model_copy(update={"capacity": taken}))
    assert len(world.admit(count=5, memory=512 * MIB, whole=False)[1]) == 3
    with pytest.raises(NoRoom):
        world.admit(cores=0, memory=GIB)


def test_the_policys_limit_on_one_node_holds(world: World) -> None:
    """However much room it has: the rest goes to others, or is refused."""
    first, second = world.join("n1", cores=16), world.join("n2", cores=16)
    machines = world.admit(count=3, most=2)[1]
    assert sorted(machine.node or "" for machine in machines) == sorted([first, first, second])
    with pytest.raises(NoRoom):
        world.admit(count=2, most=2)
    assert world.machine(most=2).node == second


def test_quotas_count_what_is_held_now(world: World) -> None:
    """Of the owner, and of the VO; what has ended does not count."""
    node = world.join("n1", cores=100)
    each = _allowance(2)
    quota = Quota((Share("star", each, _allowance(3)),))
    mine = world.admit(count=2, limit=quota.check)[1]
    with pytest.raises(OverQuota, match="2 machines at a time; 2 taken, 1 more"):
        world.admit(limit=quota.check)
    world.admit(BOB, limit=quota.check)
    with pytest.raises(OverQuota, match="the whole VO 3 machines"):
        world.admit(BOB, limit=quota.check)
    world.admit(CAROL, limit=quota.check)
    assert world.store.usage(owner=ALICE) == Usage(2, 2, 2 * GIB)
    assert world.store.usage(vo="star") == Usage(3, 3, 3 * GIB)
    assert world.store.usage() == Usage(4, 4, 4 * GIB)
    world.report(node, observed(mine[0], State.FAILED), complete=False)
    assert world.machine(limit=quota.check).state is State.PENDING


def test_a_partial_request_is_weighed_by_what_it_would_get(world: World) -> None:
    """Three of five have room, and two are allowed."""
    world.join("n1", cores=3)
    each = _allowance(2)
    with pytest.raises(OverQuota, match="3 more asked for"):
        world.admit(count=5, whole=False, limit=Quota((Share("star", each),)).check)
    assert world.store.machines() == ((), None)


def test_nodes_that_hold_the_contents_are_preferred(world: World) -> None:
    """Of what nodes cache, what the image has is looked at."""
    world.join("n1", cached=("other",))
    holder = world.join("n2", cached=(CONTENT, "other"))
    assert world.machine().node == holder
    assert world.store.try_place(proposal().ask, place).fetch == {holder: 0}


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
                stores[number % 2].admit((ALICE, BOB, CAROL)[number % 3], f"k{number}", wanted, place)
                answers.append("admitted")
            except NoRoom as exc:
                answers.append(str(exc)[:22])

    together(run, 32)
    assert len(answers) == requests
    assert "admitted" in answers
    assert {"there is room for 0 of"} <= set(answers) - {"admitted"} <= {f"there is room for {n} of" for n in range(3)}
    sold = dict.fromkeys(nodes, 0)
    after = None
    while True:
        page, after = first.store.machines(limit=1000, after=after)
        for machine in page:
            assert machine.node is not None
            sold[machine.node] += machine.granted_cores
        if after is None:
            break
    assert all(sold[node] <= has for node, has in nodes.items())
    assert sum(sold.values()) >= sum(nodes.values()) - len(nodes), "room was refused that was there"
    events = first.store.events(limit=100_000)
    assert [event.number for event in events] == list(range(1, len(events) + 1))


# Lists


def test_lists_are_filtered_and_paged(world: World) -> None:
    """The last first; every filter; pages without a gap."""
    first, second = world.join("n1", cores=50), world.join("n2", cores=50)
    cluster = world.store.add_cluster(ALICE, "c", "{}").uuid
    world.admit(ALICE, count=3)
    world.admit(BOB, count=2, image_id=OTHER)
    mine = world.admit(CAROL, count=2, cluster=cluster, role="worker")
    world.report(first, *(observed(one, State.RUNNING) for one in world.store.desired(first).machines))
    everything = world.store.machines()[0]
    assert [one.uuid for one in everything[:2]] == [one.uuid for one in reversed(mine[1])]
    assert len(everything) == 7
    counts = {
        "owner": (Filter(owner=BOB.identity), 2, 1),
        "vo": (Filter(vo="star"), 5, 2),
        "image": (Filter(image_id=OTHER), 2, 1),
        "cluster": (Filter(cluster=cluster), 2, 1),
        "deployment": (Filter(deployment=mine[0].uuid), 2, 1),
        "running": (Filter(states=(State.RUNNING, State.PAUSED)), 7, 3),
        "pending": (Filter(states=(State.PENDING,)), 0, 0),
        "no state": (Filter(states=()), 0, 0),
        "node": (Filter(node=second), 0, 0),
        "both": (Filter(vo="star", node=first, states=(State.RUNNING,), owner=ALICE.identity), 3, 1),
        "neither": (Filter(vo="atlas", owner=ALICE.identity), 0, 0),
    }
    found = {
        name: (which, len(world.store.machines(which)[0]), len(world.store.deployments(which)[0]))
        for name, (which, *_) in counts.items()
    }
    assert found == counts
    assert world.store.counts() == {"running": 7}
    pages, after = list[SiteMachine](), None
    while True:
        page, after = world.store.machines(limit=3, after=after)
        pages += page
        if after is None:
            break
    assert tuple(pages) == everything
    for text in ("-1", "x", "1 OR 1=1", "9" * 30, "\u0663"):
        with pytest.raises(Misused, match="no place in a list"):
            world.store.machines(after=text)


def test_machines_are_found_by_name_and_uuid(world: World) -> None:
    """A host name means the one that lives; what means several is not guessed."""
    node = world.join("n1", cores=50)
    old = world.admit(hostname="head")[1][0]
    world.report(node, observed(old, State.ENDED))
    assert world.store.find_machine("head").uuid == old.uuid
    new = world.admit(hostname="head")[1][0]
    assert world.store.find_machine("head").uuid == new.uuid
    assert world.store.find_machine(old.uuid).uuid == old.uuid
    assert world.store.find_machine(old.uuid[:8]).uuid == old.uuid
    theirs = world.admit(BOB, hostname="head")[1][0]
    with pytest.raises(Misused, match="several"):
        world.store.find_machine("head")
    assert world.store.find_machine("head", BOB).uuid == theirs.uuid
    for text in ("tail", "zz", "", "%", old.uuid[:3], "head' OR '1'='1"):
        with pytest.raises(MachineNotFound):
            world.store.find_machine(text)
    with pytest.raises(MachineNotFound):
        world.store.machine(NOBODY)
    with pytest.raises(MachineNotFound):
        world.store.change_machine(NOBODY, lambda it: it, "", "")
    for call in (world.store.deployment, world.store.find_deployment):
        with pytest.raises(DeploymentNotFound):
            call(NOBODY)


def test_events_are_told_in_order_and_to_whom_they_concern(world: World) -> None:
    """By number, deployment, subject, owner and VO."""
    node = world.join("n1")
    mine, theirs = world.admit(ALICE), world.admit(CAROL)
    store = world.store
    assert [event.number for event in store.events()] == [1, 2, 3, 4, 5]
    assert [event.number for event in store.events(2, limit=2)] == [3, 4]
    assert {event.deployment for event in store.events(deployment=mine[0].uuid)} == {mine[0].uuid}
    assert [event.number for event in store.events(owner=CAROL.identity)] == [4, 5]
    assert [event.number for event in store.events(vo="star")] == [2, 3]
    assert [event.what for event in store.events(subject=node)] == ["joined"]
    said = store.append("machine", theirs[1][0].uuid, "spoke", "x" * 5000, theirs[0].uuid)
    assert said.number == 6
    assert len(said.reason) == 2000
    assert store.events(5) == (said,)
    assert store.last_event() == 6


def test_a_change_that_changes_nothing_is_not_told(world: World) -> None:
    """And nobody hears of it."""
    node = world.join("n1")
    one = world.machine()
    before = (world.store.last_event(), world.store.revision(node))
    assert world.store.change_machine(one.uuid, lambda it: it, "paused", "") == one
    assert (world.store.last_event(), world.store.revision(node)) == before
    changed = world.store.change_machine(one.uuid, lambda it: it.model_copy(update={"ready": "ready"}), "", "")
    assert changed.ready == "ready"
    assert (world.store.last_event(), world.store.revision(node)) == before


def test_whoever_waits_is_woken(world: World) -> None:
    """By an event, by a revision; and by nothing else."""
    node, other = world.join("n1"), world.join("n2")
    last = world.store.last_event()
    assert world.store.wait(last - 1, None, 0, 0)
    assert not world.store.wait(last, None, 0, 0)
    assert not world.store.wait(None, node, 0, 0.05)
    woken = list[tuple[str, bool]]()
    waits = {
        "event": lambda: world.store.wait(last, None, 0, 60),
        "revision": lambda: world.store.wait(None, node, 0, 60),
        "another's": lambda: world.store.wait(None, other, 0, 1.5),
    }
    threads = [
        threading.Thread(target=lambda name=name, wait=wait: woken.append((name, wait())))  # type: ignore[misc]
        for name, wait in waits.items()
    ]
    for thread in threads:
        thread.start()
    machine = world.admit(addresses={})[1][0]
    if machine.node != node:
        world.store.set_node_state(node, NodeState.DRAINING, "")
    for thread in threads:
        thread.join(60)
    expected = {("event", True), ("revision", True), ("another's", machine.node == other)}
    assert set(woken) == expected


def test_what_another_process_wrote_wakes_too(make_database: Callable[[], SiteDatabase]) -> None:
    """A moment later."""
    here, there = make_world(make_database()), make_world(make_database(), seed=1)
    node = here.join("n1")
    assert not here.store.wait(here.store.last_event(), None, 0, 0)
    waiting = threading.Timer(0.1, there.machine)
    waiting.start()
    assert here.store.wait(None, node, 0, 60)
    waiting.join(60)


def test_a_secret_is_made_once(make_database: Callable[[], SiteDatabase]) -> None:
    """And the same for every process."""
    here, there = make_world(make_database()), make_world(make_database())
    assert here.store.secret("ca", lambda: b"one") == b"one"
    assert there.store.secret("ca", lambda: b"two") == b"one"
    assert here.store.secret("other", lambda: b"three") == b"three"


# Clusters


def test_clusters_are_kept_listed_and_changed(world: World) -> None:
    """By owner, name and state; their texts are nobody's business here."""
    store = world.store
    one = store.add_cluster(ALICE, "batch", '{"roles": []}', "starting")
    two = store.add_cluster(CAROL, "batch", "{}")
    assert store.cluster(one.uuid) == one
    assert store.clusters() == ((two, one), None)
    assert store.clusters(Filter(owner=ALICE.identity)) == ((one,), None)
    assert store.clusters(Filter(vo="atlas")) == ((two,), None)
    assert store.clusters(limit=1) == ((two,), "2")
    assert store.clusters(limit=1, after="2") == ((one,), None)
    assert store.find_cluster("batch", ALICE) == one
    assert store.find_cluster(two.uuid[:8]) == two
    with pytest.raises(Misused, match="several clusters"):
        store.find_cluster("batch")
    ended = store.change_cluster(one.uuid, lambda it: it.model_copy(update={"active": False}), "ended", "enough")
    assert store.clusters(active=True) == ((two,), None)
    assert store.clusters(Filter(cluster=one.uuid), active=False) == ((ended,), None)
    assert store.find_cluster("batch") == two
    before = store.last_event()
    store.change_cluster(one.uuid, lambda it: it, "ended", "again")
    assert store.last_event() == before
    for call in (store.cluster, store.find_cluster):
        with pytest.raises(ClusterNotFound):
            call(NOBODY)


def _allowance(machines: int) -> Allowance:
    return Allowance.model_validate({"machines": machines, "cores": 9, "memory": "9GiB", "lifetime": "2h"})
