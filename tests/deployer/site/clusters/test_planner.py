"""What a cluster needs next: in order, all or a quorum, replaced as often as is said, and never more than was asked."""

from datetime import timedelta
from typing import Any

import pytest

from catalog.errors import Misused
from deployer.errors import MachineConflict
from deployer.machine.state import MachineState
from deployer.protocol.desired_state import DesiredStatus
from deployer.site.clusters import planner as clustering
from deployer.site.clusters.planner import ClusterStep, MemberStep, OrderMembers, plan_cluster
from deployer.site.lifecycle.verb_rules import Verb
from deployer.site.model.cluster import Cluster, ClusterPhase
from deployer.site.model.records import SiteMachine
from tests.support.site.cluster_values import HEAD_AND_WORKERS, START, cluster, held, member, with_state


def steps(one: Cluster, *members: SiteMachine, after: float = 1) -> tuple[ClusterStep, ...]:
    """What is to be done so many seconds after the start."""
    return plan_cluster(one, members, START + timedelta(seconds=after)).steps


def phase(one: Cluster, *members: SiteMachine, after: float = 1) -> tuple[ClusterPhase, str]:
    """How far it is then."""
    state = plan_cluster(one, members, START + timedelta(seconds=after)).state
    return state.phase, state.reason


def released(found: tuple[ClusterStep, ...]) -> list[str]:
    """The machines that may start."""
    return [step.machine for step in found if isinstance(step, MemberStep) and step.verb is None]


WORKERS = [held("worker", slot) for slot in (1, 2, 3)]


def test_who_requires_nothing_starts_first() -> None:
    """The head is released, the workers wait."""
    assert released(steps(cluster(), held("head", 1), *WORKERS)) == [member("head", 1).uuid]
    assert phase(cluster(), held("head", 1), *WORKERS) == (
        ClusterPhase.STARTING,
        "head has 0 of 1 ready, worker has 0 of 3 ready",
    )


@pytest.mark.parametrize(
    ("starts", "state", "ready", "go"),
    [
        ("ready", MachineState.BOOTING, None, False),
        ("ready", MachineState.RUNNING, None, False),
        ("ready", MachineState.RUNNING, "ready", True),
        ("ready", MachineState.PAUSED, "ready", False),
        ("booting", MachineState.STAGING, None, False),
        ("booting", MachineState.BOOTING, None, True),
        ("booting", MachineState.RUNNING, None, True),
    ],
)
def test_workers_start_when_the_head_is_there(starts: str, state: MachineState, ready: str | None, go: bool) -> None:
    """Ready, or at least booting, as the document says."""
    roles = HEAD_AND_WORKERS | {"worker": {"count": 3, "requires": ["batch"], "starts": starts}}
    found = released(steps(cluster(roles), member("head", 1, state, ready), *WORKERS))
    assert found == ([one.uuid for one in WORKERS] if go else [])


def test_a_role_may_be_ready_by_running() -> None:
    """For images whose guests say nothing."""
    roles = HEAD_AND_WORKERS | {"head": {"provides": ["batch"], "ready": "running"}}
    assert len(released(steps(cluster(roles), member("head", 1, ready=None), *WORKERS))) == 3


def test_a_quorum_of_heads_is_enough_where_that_is_said() -> None:
    """And not where all are to start."""
    roles = HEAD_AND_WORKERS | {"head": {"provides": ["batch"], "count": 3, "quorum": 2}}
    heads = [member("head", 1), member("head", 2), member("head", 3, MachineState.BOOTING, None)]
    assert len(released(steps(cluster(roles, start="quorum"), *heads, *WORKERS))) == 3
    assert released(steps(cluster(roles), *heads, *WORKERS)) == []


ALL = [member("head", 1), *(member("worker", slot) for slot in (1, 2, 3))]


def test_a_cluster_is_ready_when_all_members_are() -> None:
    """And degraded when one of them no longer is."""
    found = plan_cluster(cluster(), ALL, START)
    assert (found.state.phase, found.state.was_ready, found.steps) == (ClusterPhase.READY, True, ())
    after = cluster().model_copy(update={"state": found.state})
    assert phase(after, *ALL[:3], member("worker", 3, ready=None)) == (ClusterPhase.DEGRADED, "worker has 2 of 3 ready")
    assert phase(after, *ALL[:3], member("worker", 3, MachineState.PAUSED))[0] is ClusterPhase.DEGRADED


def test_a_quorum_is_of_use_before_all_are_there() -> None:
    """Where the document says quorum."""
    roles = HEAD_AND_WORKERS | {"worker": {"count": 3, "quorum": 2, "requires": ["batch"]}}
    last = member("worker", 3, MachineState.BOOTING, None)
    assert phase(cluster(roles, start="quorum"), *ALL[:3], last) == (ClusterPhase.DEGRADED, "worker has 2 of 3 ready")
    assert phase(cluster(roles), *ALL[:3], last)[0] is ClusterPhase.STARTING


GONE = {
    "state": MachineState.FAILED,
    "desired": DesiredStatus.ENDED,
}  # a final state takes the wish for the machine with it


OFF = {"state": MachineState.STOPPED, "desired": DesiredStatus.STOPPED, "reason": "the guest powered off"}


FAILURES = [
    ("its machine failed", GONE | {"reason": "the emulator ended"}, 1, "the emulator ended"),
    ("its guest says so", {"ready": "failed: 20-batch: no slurm"}, 1, "failed: 20-batch: no slurm"),
    ("its guest powered off", OFF | {"desired_reason": "the guest powered off"}, 1, "the guest powered off"),
    ("it never was ready", {"ready": None}, 901, "it was not ready within 900 s"),
]


NONE = [
    ("it runs", {}, 1000),
    ("somebody stopped it", OFF | {"desired_reason": "for the night"}, 1000),
    ("somebody stopped it and did not say why", OFF, 1000),
    ("somebody paused it", {"state": MachineState.PAUSED, "desired": DesiredStatus.PAUSED}, 1000),
    ("it has time yet to be ready", {"ready": None}, 899),
    ("it is still staged", {"state": MachineState.STAGING, "ready": None}, 10_000),
    ("somebody ended it", {"state": MachineState.ENDED, "desired": DesiredStatus.ENDED}, 1),
    ("somebody is ending it", {"state": MachineState.RUNNING, "desired": DesiredStatus.ENDED, "ready": None}, 1000),
    ("its time was over", {"state": MachineState.ENDED, "desired": DesiredStatus.ENDED, "expires": START}, 1),
]


@pytest.mark.parametrize(("values", "after", "why"), [one[1:] for one in FAILURES], ids=[one[0] for one in FAILURES])
def test_a_failed_member_is_ended_and_replaced(values: dict[str, Any], after: float, why: str) -> None:
    """First it is written down as failed, then ended, and when it is gone another takes its place."""
    one = with_state(cluster(), phase=ClusterPhase.READY, was_ready=True)
    bad = member("worker", 2).model_copy(update=values)
    found = plan_cluster(one, [*ALL[:2], bad, ALL[3]], START + timedelta(seconds=after))
    assert found.state.failed == {bad.uuid: why}
    if not bad.state.final:
        assert found.steps == (MemberStep(bad.uuid, Verb.DESTROY, f"failed: {why}"),)
        one = one.model_copy(update={"state": found.state})
        ending = bad.model_copy(update={"desired": DesiredStatus.ENDED})
        assert steps(one, *ALL[:2], ending, ALL[3], after=after) == ()  # it still runs: no second one beside it
        bad = ending.model_copy(update={"state": MachineState.ENDED})
        found = plan_cluster(one, [*ALL[:2], bad, ALL[3]], START + timedelta(seconds=after))
    (order,) = found.steps
    assert isinstance(order, OrderMembers)
    assert (order.role, order.slots) == ("worker", (2,))
    assert not order.whole


@pytest.mark.parametrize(("values", "after"), [one[1:] for one in NONE], ids=[one[0] for one in NONE])
def test_what_is_no_failure(values: dict[str, Any], after: float) -> None:
    """Nothing that somebody wanted, and nothing that may still come right."""
    one = with_state(cluster(), phase=ClusterPhase.READY, was_ready=True)
    fine = member("worker", 2).model_copy(update=values)
    assert plan_cluster(one, [*ALL[:2], fine, ALL[3]], START + timedelta(seconds=after)).state.failed == {}


def test_a_member_is_replaced_so_many_times() -> None:
    """Then the cluster says that it is not, and a cluster of all or none that was never ready is undone."""
    gone = [member("worker", 2, MachineState.FAILED, reason=f"fault {again}", again=again) for again in range(4)]
    assert [type(step) for step in steps(cluster(), *ALL[:2], *gone[:3], ALL[3])] == [OrderMembers]
    found = plan_cluster(cluster(), [*ALL[:2], *gone, ALL[3]], START)
    assert found.state.phase is ClusterPhase.FAILED
    assert found.state.reason == "c-worker-2 failed 4 times and is not replaced any more; the last reason: fault 3"
    assert {step.machine for step in found.steps} == {one.uuid for one in (*ALL[:2], ALL[3])}
    was = with_state(cluster(), phase=ClusterPhase.READY, was_ready=True)
    found = plan_cluster(was, [*ALL[:2], *gone, ALL[3]], START)
    assert (found.state.phase, found.steps) == (
        ClusterPhase.FAILED,
        (),
    )  # below its quorum of all, and left to its owner
    assert not found.state.finished


def test_a_quorum_bears_a_member_that_is_lost() -> None:
    """The cluster is degraded, and says so."""
    roles = HEAD_AND_WORKERS | {"worker": {"count": 3, "quorum": 2, "requires": ["batch"], "replace": 0}}
    one = cluster(roles, start="quorum")
    lost = member("worker", 2, MachineState.FAILED)
    said = "c-worker-2 failed once and is not replaced any more; the last reason: it failed"
    assert phase(one, *ALL[:2], lost, ALL[3]) == (ClusterPhase.DEGRADED, f"worker has 2 of 3 ready ({said})")
    assert steps(one, *ALL[:2], lost, ALL[3]) == ()
    assert phase(one, *ALL[:2], lost, member("worker", 3, MachineState.FAILED))[0] is ClusterPhase.FAILED


def test_a_failed_member_that_is_not_replaced_is_left_as_it_is() -> None:
    """For whoever wants to look at it."""
    roles = HEAD_AND_WORKERS | {"worker": {"count": 3, "quorum": 1, "requires": ["batch"], "replace": 0}}
    bad = member("worker", 2, ready="failed: no disk")
    one = with_state(cluster(roles), was_ready=True)
    assert steps(one, *ALL[:2], bad, ALL[3]) == ()
    fewer = with_state(one, counts={"head": 1, "worker": 1})
    assert steps(fewer, *ALL[:2], bad) == (MemberStep(bad.uuid, Verb.DESTROY, "failed: failed: no disk"),)


def test_scaling_down_drains_the_last_members() -> None:
    """Asked to power off, then ended: when they have, or when they take too long."""
    one = with_state(cluster(), counts={"head": 1, "worker": 1}, was_ready=True)
    found = plan_cluster(one, ALL, START)
    assert found.steps == tuple(
        MemberStep(machine.uuid, Verb.SHUTDOWN, "its role was scaled down") for machine in ALL[2:]
    )
    one = one.model_copy(update={"state": found.state})
    told = [machine.model_copy(update={"desired": DesiredStatus.STOPPED}) for machine in ALL[2:]]
    assert steps(one, *ALL[:2], *told, after=10) == ()
    assert steps(one, *ALL, after=10) == found.steps  # the first time was lost on the way
    off = told[0].model_copy(update={"state": MachineState.STOPPED})
    assert steps(one, *ALL[:2], off, told[1], after=10) == (
        MemberStep(off.uuid, Verb.DESTROY, "the role worker was scaled down"),
    )
    assert steps(one, *ALL[:2], off, told[1], after=91)[1] == MemberStep(
        told[1].uuid, Verb.DESTROY, "the role worker was scaled down"
    )
    assert phase(one, *ALL[:2], after=100)[0] is ClusterPhase.READY


def test_scaling_up_orders_what_is_missing() -> None:
    """Numbers are used again; what has no room is asked for later."""
    one = with_state(cluster(), counts={"head": 1, "worker": 5}, was_ready=True)
    (order,) = steps(one, *ALL)
    assert isinstance(order, OrderMembers)
    assert (order.slots, order.whole) == ((4, 5), False)
    state = clustering.record_refusal(one, "worker", "there is no room", START + timedelta(seconds=30))
    waits = one.model_copy(update={"state": state})
    assert steps(waits, *ALL, after=29) == ()
    assert phase(waits, *ALL)[1] == "worker has 3 of 5 ready (there is no room)"
    assert steps(waits, *ALL, after=30) == (order,)
    ended = member("worker", 4, MachineState.ENDED, desired=DesiredStatus.ENDED)
    (again,) = steps(one, *ALL, ended)
    assert isinstance(again, OrderMembers)
    assert again.key != order.key


def test_two_machines_for_one_member_are_one_too_many() -> None:
    """The younger one ends."""
    double = member("worker", 2, again=1)
    assert steps(cluster(), *ALL, double) == (
        MemberStep(double.uuid, Verb.DESTROY, "another machine is this member of its cluster"),
    )


def test_a_start_that_takes_too_long_is_given_up() -> None:
    """With who is late."""
    one = cluster(start_within="10m")
    late = [ALL[0], member("worker", 1, MachineState.STAGING, None)]
    assert phase(one, *late, after=599)[0] is ClusterPhase.STARTING
    found = plan_cluster(one, late, START + timedelta(seconds=600))
    assert (found.state.phase, found.state.reason) == (
        ClusterPhase.FAILED,
        "it was not ready within 600 s: worker has 0 of 3 ready",
    )
    assert len(found.steps) == 2
    assert plan_cluster(one.model_copy(update={"state": found.state}), [], START).state.finished


def test_taking_room_is_left_alone_and_undone_when_nobody_does_it_any_more() -> None:
    """A service that was killed while it admitted leaves machines that have not started."""
    one = with_state(cluster(), phase=ClusterPhase.ADMITTING)
    assert steps(one, *WORKERS, after=299) == ()
    found = plan_cluster(one, WORKERS, START + timedelta(seconds=300))
    assert found.state.phase is ClusterPhase.FAILED
    assert len(found.steps) == 3


def test_a_cluster_ends_on_request_and_with_its_time() -> None:
    """All members end; when none is left it is over."""
    ending = cluster().model_copy(update={"state": clustering.end_cluster(cluster(), START, "done")})
    assert {getattr(step, "verb", None) for step in steps(ending, *ALL)} == {Verb.DESTROY}
    assert not plan_cluster(ending, ALL, START).state.finished
    over = plan_cluster(ending, [], START).state
    assert (over.phase, over.reason, over.finished) == (ClusterPhase.ENDED, "done", True)
    late = 12 * 3600
    assert steps(cluster(), *ALL[:3], after=late) == ()  # nobody is replaced any more; machines end by themselves
    assert phase(cluster(), after=late) == (ClusterPhase.ENDED, "it has expired")


def test_members_whose_time_is_over_are_not_failed() -> None:
    """A role may be shorter than its cluster; with all of them it ends."""
    one = with_state(cluster(), was_ready=True)
    old = [machine.model_copy(update={"state": MachineState.ENDED, "expires": START}) for machine in ALL]
    assert phase(one, ALL[0], *old[1:]) == (ClusterPhase.READY, "")
    assert steps(one, ALL[0], *old[1:]) == ()
    assert phase(one, *old)[0] is ClusterPhase.ENDED


def test_what_cannot_be_scaled_is_refused() -> None:
    """Roles that are not there, numbers that are none, clusters that end."""
    one = cluster(HEAD_AND_WORKERS | {"worker": {"count": 3, "quorum": 2, "requires": ["batch"]}})
    assert clustering.scale_role(one, "worker", 5).counts == {"head": 1, "worker": 5}
    for role, count in (("worker", 1), ("worker", 1000), ("head", 0)):
        with pytest.raises(Misused, match="may have"):
            clustering.scale_role(one, role, count)
    with pytest.raises(Misused, match="has no role 'tail'; it has head, worker"):
        clustering.scale_role(one, "tail", 1)
    for state in (ClusterPhase.ENDING, ClusterPhase.ENDED, ClusterPhase.FAILED, ClusterPhase.ADMITTING):
        with pytest.raises(MachineConflict, match="takes no changes"):
            clustering.scale_role(with_state(one, phase=state), "worker", 4)


def test_who_has_a_member_replaced_forgives_its_failures() -> None:
    """And only that member's."""
    gone = [member("worker", slot, MachineState.FAILED, again=again) for slot in (1, 2) for again in range(4)]
    one = with_state(cluster(), was_ready=True, failed={machine.uuid: "broke" for machine in gone})
    one = one.model_copy(update={"state": clustering.forget_failures(one, gone, gone[0])})
    (order,) = steps(one, ALL[0], ALL[3], *gone)
    assert isinstance(order, OrderMembers)
    assert order.slots == (1,)
    again = plan_cluster(one, [ALL[0], ALL[3], *gone], START)
    assert [bool(again.state.failed[machine.uuid]) for machine in gone] == [False] * 4 + [True] * 4
    anew = member("worker", 1, MachineState.FAILED, again=9)  # forgiven once is not forgiven for ever
    assert plan_cluster(one, [ALL[0], ALL[3], *gone, anew], START).state.failed[anew.uuid] == "it failed"
