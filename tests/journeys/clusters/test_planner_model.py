"""A model of a site whose machines come up, break, stop and are killed by chance; plans are carried out whole, by half, or twice."""

import random
from datetime import timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from deployer.machine.state import MachineState
from deployer.protocol.desired_state import DesiredStatus
from deployer.site.clusters import planner as clustering
from deployer.site.clusters.planner import (
    ClusterPlan,
    ClusterStep,
    OrderMembers,
    plan_cluster,
)
from deployer.site.lifecycle.verb_rules import Verb
from deployer.site.model.cluster import Cluster, ClusterPhase
from deployer.site.model.records import SiteMachine
from tests.support.site.cluster_values import HEAD_AND_WORKERS, START, cluster, member, uuid


class World:
    """A site that carries plans out, with machines that do what chance says.

    Args:
        trouble: how likely it is at each look that something breaks, from 0 to 1.
    """

    def __init__(self, one: Cluster, by: random.Random, trouble: float, capacity: int) -> None:
        self.cluster, self._by, self.trouble, self.capacity = one, by, trouble, capacity
        self.machines: dict[str, SiteMachine] = {}
        self._orders: dict[str, list[str]] = {}
        self.now, self._made = START, 0
        self.most: dict[str, int] = {}
        self._start()

    @property
    def living(self) -> list[SiteMachine]:
        """Machines that have not ended."""
        return [one for one in self.machines.values() if not one.state.final]

    def _start(self) -> None:
        """All members get their room before any starts."""
        for role, count in self.cluster.state.counts.items():
            self.order(OrderMembers(role, tuple(range(1, count + 1)), whole=True, key=f"first:{role}"), held=True)

    def order(self, order: OrderMembers, *, held: bool = False) -> None:
        """Machines are admitted as far as there is room; the same key gives the same machines."""
        if order.key in self._orders:
            return
        room = self.capacity - len(self.living)
        if room < (len(order.slots) if order.whole else 1):
            state = clustering.record_refusal(self.cluster, order.role, "no room", self.now + timedelta(seconds=30))
            self.cluster = self.cluster.model_copy(update={"state": state})
            return
        self._orders[order.key] = []
        for slot in order.slots[:room]:
            self._made += 1
            fresh = member(order.role, slot, MachineState.PENDING, None, held=held, uuid=uuid(self._made))
            fresh = fresh.model_copy(update={"created": self.now, "changed": self.now})
            self.machines[fresh.uuid] = fresh

    def look(self, *, halfway: bool = False, stale: bool = False) -> ClusterPlan:
        """One look: the plan is made, written down, and taken; by half when the service is killed meanwhile."""
        found = plan_cluster(self.cluster, list(self.machines.values()), self.now)
        before = self.cluster
        self.cluster = self.cluster.model_copy(update={"state": found.state})
        todo = found.steps[: self._by.randrange(len(found.steps) + 1)] if halfway else found.steps
        for step in (*todo, *todo) if stale else todo:
            self._take(step, before)
        return found

    def _take(self, step: ClusterStep, before: Cluster) -> None:
        if isinstance(step, OrderMembers):
            self._check_order(step.role, before)
            self.order(step)
            return
        one = self.machines[step.machine]
        if step.verb is None:
            if one.held:
                self._check_order(one.role, before)
            self._put(one, held=False)
        elif step.verb is Verb.SHUTDOWN:
            self._put(one, desired=DesiredStatus.STOPPED, desired_reason=step.reason)
        else:
            self._put(one, desired=DesiredStatus.ENDED)
            if one.held:
                self._put(self.machines[one.uuid], state=MachineState.ENDED)

    def _check_order(self, role: str, before: Cluster) -> None:
        """Nothing starts before what it requires."""
        roles = before.document.roles[role]
        for name in before.document.before(role):
            there = [
                one
                for one in self.living
                if one.role == name
                and one.desired is DesiredStatus.RUNNING
                and (
                    one.state in {MachineState.BOOTING, MachineState.RUNNING}
                    if roles.starts == "booting"
                    else one.state is MachineState.RUNNING and one.ready == "ready"
                )
            ]
            assert len(there) >= before.need(name), f"{role} started before {name}"

    def _put(self, one: SiteMachine, **values: Any) -> None:
        if "state" in values and values["state"] is not one.state:
            values["changed"] = self.now
        self.machines[one.uuid] = one.model_copy(update=values)

    def tick(self) -> None:
        """Time passes, and nodes do what they are told, or something else."""
        self.now += timedelta(seconds=self._by.choice((1, 5, 20)))
        for one in self.living:
            if one.held:
                continue
            if self._by.random() < self.trouble:
                self._break(one)
            elif one.desired is DesiredStatus.ENDED:
                self._put(one, state=MachineState.ENDED)
            elif one.desired is DesiredStatus.STOPPED and one.state is MachineState.RUNNING:
                self._put(one, state=MachineState.STOPPED)
            else:
                self._forward(one)

    def _break(self, one: SiteMachine) -> None:
        what = self._by.randrange(4)
        if what == 0 and one.state is MachineState.RUNNING:
            self._put(one, ready="failed: something")
        elif what == 1 and one.state is MachineState.RUNNING and one.desired is DesiredStatus.RUNNING:
            self._put(
                one, state=MachineState.STOPPED, desired=DesiredStatus.STOPPED, reason="off", desired_reason="off"
            )
        elif what == 2:
            self._put(one, state=MachineState.ENDED, desired=DesiredStatus.ENDED, reason="ended from outside")
        else:
            self._put(one, state=MachineState.FAILED, desired=DesiredStatus.ENDED, reason="broke")

    def _forward(self, one: SiteMachine) -> None:
        follows = {
            MachineState.PENDING: MachineState.STAGING,
            MachineState.STAGING: MachineState.BOOTING,
            MachineState.BOOTING: MachineState.RUNNING,
        }
        if one.state in follows:
            self._put(one, state=follows[one.state])
        elif one.state is MachineState.RUNNING and one.ready is None and self._by.random() < 0.5:
            self._put(one, ready="ready")

    def check(self, allowed: dict[str, int]) -> None:
        """Never two machines for one member that should run, and never more members than were asked for."""
        for role, most in allowed.items():
            wanted = [one for one in self.living if one.role == role and one.desired is DesiredStatus.RUNNING]
            assert len(wanted) == len({one.hostname for one in wanted}), f"a member of {role} runs twice"
            everybody = [one for one in self.living if one.role == role]
            assert len(everybody) <= most, f"{role} has {len(everybody)} machines, and {most} were asked for"


DOCUMENTS = st.sampled_from(
    [
        HEAD_AND_WORKERS,
        HEAD_AND_WORKERS | {"worker": {"count": 4, "quorum": 2, "requires": ["batch"], "starts": "booting"}},
        {
            "db": {"provides": ["db"], "count": 2, "quorum": 1},
            "app": {"provides": ["app"], "requires": ["db"], "count": 3, "quorum": 2},
            "front": {"requires": ["app", "db"], "replace": 1},
            "alone": {"count": 2, "replace": 0},
        },
    ]
)


@settings(max_examples=60, deadline=None)
@given(
    DOCUMENTS,
    st.sampled_from(["all", "quorum"]),
    st.integers(0, 2**32),
    st.sampled_from([0.0, 0.02, 0.1, 0.4]),
    st.integers(0, 3),
)
def test_whatever_breaks_the_cluster_converges(
    roles: dict[str, dict[str, Any]], start: str, seed: int, trouble: float, spare: int
) -> None:
    """Scaled up and down while machines break and the service dies; when trouble ends, it comes to rest as was asked."""
    by = random.Random(seed)
    one = cluster(roles, start=start, start_within="52w")
    first = dict(one.state.counts)
    world = World(one, by, trouble, sum(first.values()) + spare)
    allowed = dict(first)
    for turn in range(60):
        world.tick()
        world.look(halfway=by.random() < 0.2, stale=by.random() < 0.2)
        world.check(allowed)
        state = world.cluster.state
        if turn % 20 == 10 and state.was_ready and state.phase is not ClusterPhase.FAILED:
            role = by.choice(sorted(roles))
            count = by.randrange(roles[role].get("quorum", 1), roles[role].get("count", 1) + 3)
            state = clustering.scale_role(world.cluster, role, count)
            world.cluster = world.cluster.model_copy(update={"state": state})
            allowed[role] = max(allowed[role], count)
    world.trouble = 0.0
    world.capacity = 10_000
    for _ in range(200):
        world.tick()
        world.look()
    assert world.look().steps == ()
    state = world.cluster.state
    members = {role: [one for one in world.living if one.role == role] for role in roles}
    if state.phase is ClusterPhase.READY:
        assert {role: len(there) for role, there in members.items()} == state.counts
        assert all(one.ready == "ready" for one in world.living)
    elif state.phase is ClusterPhase.FAILED and not state.was_ready:
        assert world.living == []  # all or none
        assert state.finished
        assert state.reason
    else:
        assert state.phase in {ClusterPhase.DEGRADED, ClusterPhase.FAILED}
        assert state.failed, "nothing failed, and yet it is not ready"
        assert state.reason


@settings(max_examples=20, deadline=None)
@given(DOCUMENTS, st.sampled_from(["all", "quorum"]), st.integers(0, 2**32))
def test_without_trouble_every_cluster_gets_ready(roles: dict[str, dict[str, Any]], start: str, seed: int) -> None:
    """However the machines' times fall."""
    world = World(cluster(roles, start=start), random.Random(seed), 0.0, 100)
    for _ in range(100):
        world.tick()
        world.look()
    assert world.cluster.state.phase is ClusterPhase.READY
    assert world.cluster.state.failed == {}
