"""What is read from a site's memory, on SQLite and on PostgreSQL: lists, names, events, secrets, clusters."""

import threading
from collections.abc import Callable

import pytest

from catalog.errors import Misused
from deployer.errors import ClusterNotFound, DeploymentNotFound, MachineNotFound
from deployer.machine.state import MachineState
from deployer.site.db.clusters import find_cluster, get_cluster, list_clusters
from deployer.site.db.engine import SiteDatabase
from deployer.site.db.events import last_event, list_events
from deployer.site.db.machines import (
    count_machines,
    desired_state,
    find_deployment,
    find_machine,
    get_deployment,
    get_machine,
    list_deployments,
    list_machines,
)
from deployer.site.db.nodes import revision_of
from deployer.site.model.records import ListFilter, NodeState, SiteMachine
from deployer.site.store.changes import add_cluster, change_cluster, change_machine, secret, set_node_state
from deployer.site.store.unit_of_work import UnitOfWork
from tests.support.site.values import ALICE, BOB, CAROL, NOBODY, OTHER, World, cluster_of, observed, telling
from tests.support.site.values import world as make_world

# Lists


def test_lists_are_filtered_and_paged(world: World) -> None:
    """The last first; every filter; pages without a gap."""
    first, second = world.join("n1", cores=50), world.join("n2", cores=50)
    cluster = world.store.write(add_cluster, ALICE, *cluster_of("c")).uuid
    world.admit(ALICE, count=3)
    world.admit(BOB, count=2, image_id=OTHER)
    mine = world.admit(CAROL, count=2, cluster=cluster, role="worker")
    world.report(
        first, *(observed(one, MachineState.RUNNING) for one in world.store.read(desired_state, first).machines)
    )
    everything = world.store.read(list_machines)[0]
    assert [one.uuid for one in everything[:2]] == [one.uuid for one in reversed(mine[1])]
    assert len(everything) == 7
    counts = {
        "owner": (ListFilter(owner=BOB.identity), 2, 1),
        "vo": (ListFilter(vo="star"), 5, 2),
        "image": (ListFilter(image_id=OTHER), 2, 1),
        "cluster": (ListFilter(cluster=cluster), 2, 1),
        "deployment": (ListFilter(deployment=mine[0].uuid), 2, 1),
        "running": (ListFilter(states=(MachineState.RUNNING, MachineState.PAUSED)), 7, 3),
        "pending": (ListFilter(states=(MachineState.PENDING,)), 0, 0),
        "no state": (ListFilter(states=()), 0, 0),
        "node": (ListFilter(node=second), 0, 0),
        "both": (ListFilter(vo="star", node=first, states=(MachineState.RUNNING,), owner=ALICE.identity), 3, 1),
        "neither": (ListFilter(vo="atlas", owner=ALICE.identity), 0, 0),
    }
    found = {
        name: (which, len(world.store.read(list_machines, which)[0]), len(world.store.read(list_deployments, which)[0]))
        for name, (which, *_) in counts.items()
    }
    assert found == counts
    assert world.store.read(count_machines) == {"running": 7}
    pages, after = list[SiteMachine](), None
    while True:
        page, after = world.store.read(list_machines, limit=3, after=after)
        pages += page
        if after is None:
            break
    assert tuple(pages) == everything
    for text in ("-1", "x", "1 OR 1=1", "9" * 30, "\u0663"):
        with pytest.raises(Misused, match="not a valid pagination token"):
            world.store.read(list_machines, after=text)


def test_machines_are_found_by_name_and_uuid(world: World) -> None:
    """A host name means the one that lives; what means several is not guessed."""
    node = world.join("n1", cores=50)
    old = world.admit(hostname="head")[1][0]
    world.report(node, observed(old, MachineState.ENDED))
    assert world.store.read(find_machine, "head").uuid == old.uuid
    new = world.admit(hostname="head")[1][0]
    assert world.store.read(find_machine, "head").uuid == new.uuid
    assert world.store.read(find_machine, old.uuid).uuid == old.uuid
    assert world.store.read(find_machine, old.uuid[:8]).uuid == old.uuid
    theirs = world.admit(BOB, hostname="head")[1][0]
    with pytest.raises(Misused, match="several"):
        world.store.read(find_machine, "head")
    assert world.store.read(find_machine, "head", BOB).uuid == theirs.uuid
    for text in ("tail", "zz", "", "%", old.uuid[:3], "head' OR '1'='1"):
        with pytest.raises(MachineNotFound):
            world.store.read(find_machine, text)
    with pytest.raises(MachineNotFound):
        world.store.read(get_machine, NOBODY)
    with pytest.raises(MachineNotFound):
        world.store.write(change_machine, NOBODY, telling(lambda it: it, "", ""))
    for query in (get_deployment, find_deployment):
        with pytest.raises(DeploymentNotFound):
            world.store.read(query, NOBODY)


def test_events_are_told_in_order_and_to_whom_they_concern(world: World) -> None:
    """By number, deployment, subject, owner and VO."""
    node = world.join("n1")
    mine, theirs = world.admit(ALICE), world.admit(CAROL)
    store = world.store
    assert [event.number for event in store.read(list_events)] == [1, 2, 3, 4, 5]
    assert [event.number for event in store.read(list_events, 2, limit=2)] == [3, 4]
    assert {event.deployment for event in store.read(list_events, deployment=mine[0].uuid)} == {mine[0].uuid}
    assert [event.number for event in store.read(list_events, owner=CAROL.identity)] == [4, 5]
    assert [event.number for event in store.read(list_events, vo="star")] == [2, 3]
    assert [event.what for event in store.read(list_events, subject=node)] == ["joined"]
    store.write(UnitOfWork.add_event, "machine", theirs[1][0].uuid, "spoke", "x" * 5000, theirs[0].uuid)
    (said,) = store.read(list_events, 5)
    assert said.number == 6
    assert (said.kind, said.subject, said.what, said.deployment) == (
        "machine",
        theirs[1][0].uuid,
        "spoke",
        theirs[0].uuid,
    )
    assert len(said.reason) == 2000
    assert store.read(last_event) == 6


def test_a_change_that_changes_nothing_is_not_told(world: World) -> None:
    """And nobody hears of it."""
    node = world.join("n1")
    one = world.machine()
    before = (world.store.read(last_event), world.store.read(revision_of, node))
    assert world.store.write(change_machine, one.uuid, telling(lambda it: it, "paused", "")) == one
    assert (world.store.read(last_event), world.store.read(revision_of, node)) == before
    changed = world.store.write(
        change_machine, one.uuid, telling(lambda it: it.model_copy(update={"ready": "ready"}), "", "")
    )
    assert changed.ready == "ready"
    assert (world.store.read(last_event), world.store.read(revision_of, node)) == before


def test_whoever_waits_is_woken(world: World) -> None:
    """By an event, by a revision; and by nothing else."""
    node, other = world.join("n1"), world.join("n2")
    last = world.store.read(last_event)
    assert world.store.notifier.wait(last - 1, None, 0, 0)
    assert not world.store.notifier.wait(last, None, 0, 0)
    assert not world.store.notifier.wait(None, node, 0, 0.05)
    woken = list[tuple[str, bool]]()
    waits = {
        "event": lambda: world.store.notifier.wait(last, None, 0, 60),
        "revision": lambda: world.store.notifier.wait(None, node, 0, 60),
        "another's": lambda: world.store.notifier.wait(None, other, 0, 1.5),
    }
    threads = [
        threading.Thread(target=lambda name=name, wait=wait: woken.append((name, wait())))  # type: ignore[misc]
        for name, wait in waits.items()
    ]
    for thread in threads:
        thread.start()
    machine = world.admit(addresses={})[1][0]
    if machine.node != node:
        world.store.write(set_node_state, node, NodeState.DRAINING, "")
    for thread in threads:
        thread.join(60)
    expected = {("event", True), ("revision", True), ("another's", machine.node == other)}
    assert set(woken) == expected


def test_what_another_process_wrote_wakes_too(make_database: Callable[[], SiteDatabase]) -> None:
    """A moment later."""
    here, there = make_world(make_database()), make_world(make_database(), seed=1)
    node = here.join("n1")
    assert not here.store.notifier.wait(here.store.read(last_event), None, 0, 0)
    waiting = threading.Timer(0.1, there.machine)
    waiting.start()
    assert here.store.notifier.wait(None, node, 0, 60)
    waiting.join(60)


def test_a_secret_is_made_once(make_database: Callable[[], SiteDatabase]) -> None:
    """And the same for every process."""
    here, there = make_world(make_database()), make_world(make_database())
    assert here.store.write(secret, "ca", lambda: b"one") == b"one"
    assert there.store.write(secret, "ca", lambda: b"two") == b"one"
    assert here.store.write(secret, "other", lambda: b"three") == b"three"


# Clusters


def test_clusters_are_kept_listed_and_changed(world: World) -> None:
    """By owner, name and state."""
    store = world.store
    one = store.write(add_cluster, ALICE, *cluster_of("batch"))
    two = store.write(add_cluster, CAROL, *cluster_of("batch"))
    assert store.read(get_cluster, one.uuid) == one
    assert store.read(list_clusters) == ((two, one), None)
    assert store.read(list_clusters, ListFilter(owner=ALICE.identity)) == ((one,), None)
    assert store.read(list_clusters, ListFilter(vo="atlas")) == ((two,), None)
    assert store.read(list_clusters, limit=1) == ((two,), "2")
    assert store.read(list_clusters, limit=1, after="2") == ((one,), None)
    assert store.read(find_cluster, "batch", ALICE) == one
    assert store.read(find_cluster, two.uuid[:8]) == two
    with pytest.raises(Misused, match="several clusters"):
        store.read(find_cluster, "batch")
    ended = store.write(
        change_cluster, one.uuid, lambda it: it.state.model_copy(update={"finished": True}), "ended", "enough"
    )
    assert store.read(list_clusters, active=True) == ((two,), None)
    assert store.read(list_clusters, ListFilter(cluster=one.uuid), active=False) == ((ended,), None)
    assert store.read(find_cluster, "batch") == two
    before = store.read(last_event)
    store.write(change_cluster, one.uuid, lambda it: it.state, "ended", "again")
    assert store.read(last_event) == before
    for query in (get_cluster, find_cluster):
        with pytest.raises(ClusterNotFound):
            store.read(query, NOBODY)
