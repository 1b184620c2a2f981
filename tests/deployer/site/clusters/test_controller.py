"""Clusters on what a site really remembers: admitted whole, started in order, mended, scaled, ended."""

from datetime import timedelta

import pytest

from catalog.errors import Conflict, Misused
from deployer.errors import MachineConflict, MachineNotFound, NoCapacity, Refused
from deployer.protocol.desired_state import DesiredStatus
from deployer.site.clusters.members import role_statuses
from deployer.site.clusters.planner import DRAINED_WITHIN
from deployer.site.db.clusters import list_clusters
from deployer.site.db.events import list_events
from deployer.site.db.machines import get_machine
from deployer.site.db.nodes import list_nodes
from deployer.site.model.cluster import ClusterDocument, ClusterPhase
from signer.documents import validate
from tests.support.site.cluster_site import Place, sqlite, star
from tests.support.site.values import ALICE, BOB, NOW, look


def test_members_start_in_order_and_the_cluster_gets_ready(place: Place) -> None:
    """Room for all is taken at once; the node hears of the workers when the head runs."""
    made = place.create()
    assert made.state.phase is ClusterPhase.STARTING
    assert made.expires == NOW + timedelta(hours=1)
    assert sorted(place.living()) == ["star-head-1", "star-worker-1", "star-worker-2"]
    assert place.told() == ["star-head-1"]
    place.keeper.look(NOW)
    assert place.told() == ["star-head-1"]
    place.obey()
    place.keeper.look(NOW)
    assert place.told() == ["star-head-1", "star-worker-1", "star-worker-2"]
    place.obey()
    place.keeper.look(NOW)
    found = place.keeper.get(made.uuid)
    assert (found.state.phase, found.state.was_ready) == (ClusterPhase.READY, True)
    roles = role_statuses(found, place.keeper.members(found.uuid), place.world.store.now())
    assert {name: (role.ready, role.count) for name, role in roles.items()} == {"head": (1, 1), "worker": (2, 2)}
    told = [(one.what, one.reason) for one in place.world.store.read(list_events) if one.kind == "cluster"]
    assert [what for what, _ in told] == ["admitted", "ready"]


def test_a_cluster_without_room_is_refused_and_leaves_nothing(place: Place) -> None:
    """The node has four cores, the cluster wants five."""
    with pytest.raises(NoCapacity, match="capacity for"):
        place.create(star(4))
    assert place.living() == {}
    assert place.told() == []
    ((kept, *_), _) = place.world.store.read(list_clusters)
    assert not kept.active
    assert kept.state.phase is ClusterPhase.FAILED
    assert place.create(star(3)).state.phase is ClusterPhase.STARTING  # the name is free again, and so is the room


@sqlite
def test_a_quorum_starts_where_not_all_have_room(place: Place) -> None:
    """The rest comes as there is room, and the cluster says why it is not there."""
    made = place.create(star(5, start="quorum", roles={"worker": {"quorum": 2}}))
    assert len(place.living()) == 3
    place.settle()
    found = place.keeper.get(made.uuid)
    assert found.state.phase is ClusterPhase.DEGRADED
    assert found.state.reason.startswith("worker has 3 of 5 ready (there is capacity for 0 of 2 machines")
    assert len([one for one in place.world.told() if one == "waiting"]) == 1  # said once, tried every half minute
    place.world.join("second")
    second = next(one.uuid for one in place.world.store.read(list_nodes) if one.name == "second")
    place.world.clock.advance(seconds=30)
    place.keeper.look(place.world.clock())
    assert len(place.living()) == 6
    place.node = second
    place.settle()
    assert place.keeper.get(made.uuid).state.phase is ClusterPhase.READY


@sqlite
def test_two_quorums_share_the_room(place: Place) -> None:
    """The first role does not take what the second needs."""
    roles = {"worker": {"quorum": 1}, "head": {"quorum": 1, "count": 9}}
    place.create(star(9, start="quorum", roles=roles))
    assert sorted(place.living()) == ["star-head-1", "star-head-2", "star-head-3", "star-worker-1"]


@sqlite
def test_a_failed_member_is_replaced(place: Place) -> None:
    """Under its own name, in its own place, by another machine of the same image."""
    made = place.create()
    place.settle()
    before = place.living()["star-worker-2"]
    place.broken.add("star-worker-2")
    place.obey()
    place.broken.clear()
    place.settle()
    after = place.living()["star-worker-2"]
    assert after.uuid != before.uuid
    assert after.image_id == before.image_id
    assert after.expires <= made.expires
    found = place.keeper.get(made.uuid)
    assert (found.state.phase, found.state.failed) == (ClusterPhase.READY, {before.uuid: "the emulator ended"})


@sqlite
def test_a_member_that_always_fails_is_given_up(place: Place) -> None:
    """All or none: before the cluster was ready, all of it ends."""
    place.broken.add("star-worker-1")
    made = place.create()
    place.settle()
    place.settle()
    state = place.keeper.get(made.uuid).state
    assert state.phase is ClusterPhase.FAILED
    assert (
        "star-worker-1 failed 4 times and is not replaced any more; the last reason: the emulator ended" in state.reason
    )
    assert place.living() == {}
    assert state.finished


def test_a_cluster_is_scaled_up_and_down(place: Place) -> None:
    """Up to three workers, down to one; those that leave are asked to power off first."""
    made = place.create()
    place.settle()
    place.keeper.scale(made.uuid, "worker", 3, "more to do")
    place.settle()
    assert sorted(place.living()) == ["star-head-1", "star-worker-1", "star-worker-2", "star-worker-3"]
    assert place.keeper.get(made.uuid).state.phase is ClusterPhase.READY
    place.deaf.add("star-worker-3")
    place.keeper.scale(made.uuid, "worker", 1, "less to do")
    assert {one.hostname: one.desired for one in place.living().values()} == {
        "star-head-1": DesiredStatus.RUNNING,
        "star-worker-1": DesiredStatus.RUNNING,
        "star-worker-2": DesiredStatus.STOPPED,
        "star-worker-3": DesiredStatus.STOPPED,
    }
    place.settle()
    assert sorted(place.living()) == ["star-head-1", "star-worker-1", "star-worker-3"]  # one does not listen
    place.world.clock.advance(seconds=DRAINED_WITHIN.total_seconds())
    place.settle()
    assert sorted(place.living()) == ["star-head-1", "star-worker-1"]
    state = place.keeper.get(made.uuid).state
    assert (state.phase, state.failed, state.draining) == (ClusterPhase.READY, {}, {})
    with pytest.raises(Misused, match="has no role 'tail'"):
        place.keeper.scale(made.uuid, "tail", 1, "")


@sqlite
def test_a_member_is_replaced_on_request(place: Place) -> None:
    """By host name or by UUID; what is no member of the cluster is not found."""
    made = place.create()
    place.settle()
    first = place.living()["star-worker-1"]
    place.keeper.replace(made.uuid, "star-worker-1", "it is slow")
    place.settle()
    second = place.living()["star-worker-1"]
    assert second.uuid != first.uuid
    assert place.world.store.read(get_machine, first.uuid).desired_reason == "replaced: it is slow"
    place.keeper.replace(made.uuid, second.uuid[:8], "it is slow, too")
    place.settle()
    assert place.living()["star-worker-1"].uuid not in {first.uuid, second.uuid}
    assert place.keeper.get(made.uuid).state.phase is ClusterPhase.READY
    with pytest.raises(MachineNotFound, match="has no member 'star-worker-9'"):
        place.keeper.replace(made.uuid, "star-worker-9", "")


@sqlite
def test_a_member_that_was_given_up_is_tried_again_on_request(place: Place) -> None:
    """Its failures are forgotten."""
    made = place.create()
    place.settle()
    place.broken.add("star-worker-1")
    place.settle()
    place.settle()
    assert place.keeper.get(made.uuid).state.phase is ClusterPhase.FAILED
    assert sorted(place.living()) == ["star-head-1", "star-worker-2"]  # it was of use once: what runs goes on
    place.broken.clear()
    place.keeper.replace(made.uuid, "star-worker-1", "the image is mended")
    place.settle()
    assert place.keeper.get(made.uuid).state.phase is ClusterPhase.READY


@sqlite
def test_a_cluster_ends_on_request(place: Place) -> None:
    """All members, held ones too; nothing can be done to it then, and its name is free."""
    made = place.create()
    place.keeper.end(made.uuid, "done")
    place.settle()
    assert place.living() == {}
    state = place.keeper.get(made.uuid).state
    assert (state.phase, state.reason, state.finished) == (ClusterPhase.ENDED, "done", True)
    assert place.keeper.end(made.uuid, "again").state.reason == "done"
    for act in (
        lambda: place.keeper.scale(made.uuid, "worker", 3, ""),
        lambda: place.keeper.replace(made.uuid, "star-head-1", ""),
    ):
        with pytest.raises(MachineConflict, match="is ended and takes no changes"):
            act()
    assert place.create().uuid != made.uuid


@sqlite
def test_a_cluster_ends_with_its_time(place: Place) -> None:
    """Machines by the site's sweeping, the cluster when the last of them has."""
    made = place.create()
    place.settle()
    place.world.clock.at = made.expires
    look(place.world.store, made.expires, NOW, "wait")
    place.settle()
    state = place.keeper.get(made.uuid).state
    assert (state.phase, state.finished) == (ClusterPhase.ENDED, True)
    assert place.living() == {}


def test_whoever_asks_twice_gets_one_cluster(place: Place) -> None:
    """By the key; another cluster of that name is refused while the first lives, and for others it is free."""
    made, new = place.keeper.create(star(1), ALICE, "k1")
    again, new_again = place.keeper.create(star(1), ALICE, "k1")
    assert (again.uuid, new, new_again) == (made.uuid, True, False)
    for document, key in ((star(1), ""), (star(1), "k2"), (star(2), "k1")):
        with pytest.raises(Conflict, match="end it first, or choose another name"):
            place.keeper.create(document, ALICE, key)
    assert len(place.living()) == 2
    other, new = place.keeper.create(
        validate(ClusterDocument, star(1).model_dump(mode="json") | {"name": "moon"}, "c"), BOB
    )
    assert new
    assert other.uuid != made.uuid


@sqlite
def test_a_refusal_later_on_is_said_and_tried_again(place: Place) -> None:
    """The policy may have changed: the cluster goes on without the member, and says why."""
    made = place.create()
    place.settle()
    place.broken.add("star-worker-1")
    place.refuses = Refused("the policy refuses star/worker: it was revoked")
    place.settle()
    place.broken.clear()
    state = place.keeper.get(made.uuid).state
    assert state.phase is ClusterPhase.DEGRADED
    assert state.reason == "worker has 1 of 2 ready (the policy refuses star/worker: it was revoked)"
    place.refuses = None
    place.settle()
    assert place.keeper.get(made.uuid).state.phase is ClusterPhase.READY


@sqlite
def test_roles_that_report_need_a_broker(place: Place) -> None:
    """A site that has none says so, before anything is admitted."""
    with pytest.raises(Misused, match="has no context broker"):
        place.create(star(roles={"head": {"ready": "reported"}}))
    assert place.living() == {}
    assert place.world.store.read(list_clusters)[0] == ()
