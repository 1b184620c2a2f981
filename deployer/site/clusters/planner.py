"""What is to be done next about a cluster: its document and its members as they are now, to steps. Decides, does nothing.

The plan is made anew each time from what is there, so nothing has to be remembered between two looks but what cannot be
seen: which members failed, which are being drained, and which roles had no capacity. The controller writes a plan's `state`
down first and takes the steps then; a plan that was carried out by half, or twice, does no harm.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from catalog.errors import Misused
from deployer.errors import MachineConflict
from deployer.machine.state import MachineState
from deployer.protocol.desired_state import DesiredStatus
from deployer.protocol.machine_order import MAX_COUNT
from deployer.site.clusters.members import (
    ClusterRoleStatus,
    MemberSlot,
    failure_reason,
    is_given_up,
    loss_reason,
    role_status,
    slots_of,
    unmet_roles,
)
from deployer.site.lifecycle import verb_rules as lifecycle
from deployer.site.lifecycle.verb_rules import Verb
from deployer.site.model.cluster import AdmissionRetry, Cluster, ClusterPhase, ClusterState
from deployer.site.model.records import MachineTransition, SiteMachine

ADMITTED_WITHIN = timedelta(minutes=5)
"""How long reserving capacity for all members may last. A cluster that is older was left by a service that ended meanwhile."""

DRAINED_WITHIN = timedelta(seconds=90)
"""How long a guest may take to power off before it is ended: somewhat longer than a node itself waits for it."""


@dataclass(frozen=True, slots=True)
class OrderMembers:
    """An order for members of a role that are missing.

    Attributes:
        slots: which.
        whole: all of them or none; else as many as there is capacity for.
        key: idempotency key, the same for the same need.
    """

    role: str
    slots: tuple[int, ...]
    whole: bool
    key: str


@dataclass(frozen=True, slots=True)
class MemberStep:
    """A change of a member's machine.

    Attributes:
        machine: its UUID.
        verb: `DESTROY`: it is to end now. `SHUTDOWN`: it is asked to power off, and ended when it has, or has not for too
            long. None: it was held, and its node may know of it, since what its role requires is there.
        reason: for the event.
    """

    machine: str
    verb: Verb | None
    reason: str = ""

    def rule(self, machine: SiteMachine, now: datetime) -> MachineTransition | None:
        """What becomes of the machine."""
        if self.verb is None:
            return lifecycle.release_machine(machine)
        return lifecycle.apply_verb(machine, self.verb, self.reason, now)


ClusterStep = OrderMembers | MemberStep


@dataclass(frozen=True, slots=True)
class ClusterPlan:
    """What follows from how a cluster is.

    Attributes:
        state: to be written down, before the steps are taken.
        steps: in order.
    """

    state: ClusterState
    steps: tuple[ClusterStep, ...] = ()


def plan_cluster(cluster: Cluster, members: Sequence[SiteMachine], now: datetime) -> ClusterPlan:
    """What to do next.

    Args:
        members: all machines that the cluster ever had and the site still remembers, ended ones too.
        now: the present.
    """
    state = cluster.state
    living = [one for one in members if not one.state.final]
    if state.phase is ClusterPhase.ADMITTING:
        if now - state.changed < ADMITTED_WITHIN:
            return ClusterPlan(state)
        return _give_up(state, living, now, "the site's service ended while capacity was reserved for the members")
    if state.phase in {ClusterPhase.ENDED, ClusterPhase.ENDING} or (
        state.phase is ClusterPhase.FAILED and not state.was_ready
    ):
        if living:
            return ClusterPlan(state, tuple(_ends(living, state.reason or "its cluster was ended on request")))
        phase = ClusterPhase.FAILED if state.phase is ClusterPhase.FAILED else ClusterPhase.ENDED
        return ClusterPlan(_moved(state, phase, state.reason, now, finished=True))
    if now >= cluster.expires:  # its members expire then, too
        if not living:
            return ClusterPlan(_moved(state, ClusterPhase.ENDED, "it has expired", now, finished=True))
        return ClusterPlan(state, tuple(_ends([one for one in living if one.held], "its cluster has expired")))
    failed = {
        one.uuid: why for one in members if (why := failure_reason(cluster, one, now)) or one.uuid in state.failed
    }
    cluster = _with(cluster, failed=failed)
    roles = {role: slots_of(cluster, role, members, now) for role in cluster.document.roles}
    status = {role: role_status(cluster, role, slots) for role, slots in roles.items()}
    if not cluster.state.was_ready and (why := _hopeless(cluster, roles, status, now)):
        return _give_up(cluster.state, living, now, why)
    state = _phase(cluster, roles, status, now)
    cluster = cluster.model_copy(update={"state": state})
    steps = list[ClusterStep]()
    draining = dict[str, datetime]()
    for role, slots in roles.items():
        steps += _leave(cluster, role, slots, draining, now)
        if not unmet_roles(cluster, role, status):
            steps += _come(cluster, role, slots, now)
    return ClusterPlan(state.model_copy(update={"draining": draining}), tuple(steps))


def scale_role(cluster: Cluster, role: str, count: int) -> ClusterState:
    """The state in which that role has that many members.

    Raises:
        Misused: there is no such role, or the document does not allow the number.
        MachineConflict: the cluster ends, or has ended.
    """
    check_active(cluster)
    known = cluster.document.roles.get(role)
    if known is None:
        raise Misused(
            f"cluster {cluster.name} has no role {role!r}; it has {', '.join(sorted(cluster.document.roles))}"
        )
    others = sum(wanted for name, wanted in cluster.state.counts.items() if name != role)
    if not (known.quorum or 1) <= count <= MAX_COUNT - others:
        raise Misused(
            f"the role {role} may have {known.quorum or 1} to {MAX_COUNT - others} members, not {count}; "
            "destroy the cluster to have none"
        )
    waits = {name: at for name, at in cluster.state.waits.items() if name != role}
    counts = cluster.state.counts | {role: count}
    return cluster.state.model_copy(update={"counts": counts, "waits": waits})


def forget_failures(cluster: Cluster, members: Sequence[SiteMachine], member: SiteMachine) -> ClusterState:
    """The state in which the failures of a member are forgotten, because it is replaced on request.

    Raises:
        MachineConflict: the cluster ends, or has ended.
    """
    check_active(cluster)
    same = [one.uuid for one in members if (one.role, one.hostname) == (member.role, member.hostname)]
    failed = cluster.state.failed | dict.fromkeys(same, "")
    waits = {name: at for name, at in cluster.state.waits.items() if name != member.role}
    return cluster.state.model_copy(update={"failed": failed, "waits": waits})


def record_refusal(cluster: Cluster, role: str, why: str, until: datetime) -> ClusterState:
    """The state in which members of that role could not be had, and are asked for again then."""
    return cluster.state.model_copy(
        update={"waits": cluster.state.waits | {role: AdmissionRetry(until=until, why=why)}}
    )


def end_cluster(cluster: Cluster, now: datetime, reason: str) -> ClusterState:
    """The state of a cluster that is to end; one that has ended stays so."""
    if cluster.state.phase in {ClusterPhase.ENDED, ClusterPhase.ENDING}:
        return cluster.state
    return _moved(cluster.state, ClusterPhase.ENDING, reason, now)


def check_active(cluster: Cluster) -> None:
    """Raise MachineConflict when a cluster ends, has ended, or is only being admitted."""
    phase = cluster.state.phase
    if phase in {ClusterPhase.ENDED, ClusterPhase.ENDING, ClusterPhase.ADMITTING} or (
        phase is ClusterPhase.FAILED and not cluster.state.was_ready
    ):
        raise MachineConflict(f"cluster {cluster.name} is {phase.value} and takes no changes")


def _hopeless(
    cluster: Cluster, roles: Mapping[str, list[MemberSlot]], status: Mapping[str, ClusterRoleStatus], now: datetime
) -> str:
    """Why a cluster that has not been of use yet never will be; empty while it may."""
    for role, slots in roles.items():
        wanted = [slot for slot in slots if slot.number <= cluster.state.counts[role]]
        lost = [slot for slot in wanted if slot.now is None and is_given_up(cluster, role, slot)]
        if len(wanted) - len(lost) < cluster.need(role):
            return loss_reason(cluster, role, lost[0])
    if now - cluster.created >= timedelta(seconds=cluster.document.start_within):
        late = _missing(status) or "its members"
        return f"it was not ready within {cluster.document.start_within} s: {late}"
    return ""


def _missing(status: Mapping[str, ClusterRoleStatus]) -> str:
    return ", ".join(
        f"{role} has {it.ready} of {it.count} ready{it.reason and f' ({it.reason})'}"
        for role, it in status.items()
        if it.ready < it.left
    )


def _phase(
    cluster: Cluster, roles: Mapping[str, list[MemberSlot]], status: Mapping[str, ClusterRoleStatus], now: datetime
) -> ClusterState:
    state = cluster.state
    if all(not it.left for it in status.values()):
        return _moved(state, ClusterPhase.ENDED, "the time of all its members is over", now)
    if all(it.ready >= it.left for it in status.values()):
        return _moved(state, ClusterPhase.READY, "", now, was_ready=True)
    if all(it.ready >= min(it.quorum, it.left) for it in status.values()):
        return _moved(state, ClusterPhase.DEGRADED, _missing(status), now, was_ready=True)
    if not state.was_ready:
        return _moved(state, ClusterPhase.STARTING, _missing(status), now)
    for role, slots in roles.items():
        lost = [slot for slot in slots if slot.now is None and not slot.expired and is_given_up(cluster, role, slot)]
        lost = [slot for slot in lost if slot.number <= status[role].count]
        if lost and status[role].left - len(lost) < status[role].quorum:
            return _moved(state, ClusterPhase.FAILED, loss_reason(cluster, role, lost[0]), now)
    return _moved(state, ClusterPhase.DEGRADED, _missing(status), now)


def _leave(
    cluster: Cluster, role: str, slots: list[MemberSlot], draining: dict[str, datetime], now: datetime
) -> Iterable[ClusterStep]:
    """Steps for the members that should not be there; fills in who is being drained."""
    state = cluster.state
    for slot in slots:
        yield from _ends(slot.doubles, "another machine is this member of its cluster")
        if (one := slot.leaving) is not None and one.desired is not DesiredStatus.ENDED:
            if why := state.failed.get(one.uuid):
                if cluster.document.roles[role].replace or slot.number > state.counts[role]:  # else it is left as it is
                    yield MemberStep(one.uuid, Verb.DESTROY, f"failed: {why}")
            elif (
                one.state is MachineState.RUNNING
                and now - (since := state.draining.get(one.uuid, now)) < DRAINED_WITHIN
            ):
                draining[one.uuid] = since
                yield from _stop(one)  # again where the first time was lost
            else:
                yield MemberStep(one.uuid, Verb.DESTROY, f"the role {role} was scaled down")
        if (one := slot.now) is not None and slot.number > state.counts[role]:
            if one.state is MachineState.RUNNING:
                draining[one.uuid] = now
                yield from _stop(one)
            else:
                yield MemberStep(one.uuid, Verb.DESTROY, f"the role {role} was scaled down")


def _stop(one: SiteMachine) -> Iterable[ClusterStep]:
    if one.desired is not DesiredStatus.STOPPED:
        yield MemberStep(one.uuid, Verb.SHUTDOWN, "its role was scaled down")


def _come(cluster: Cluster, role: str, slots: list[MemberSlot], now: datetime) -> Iterable[ClusterStep]:
    """Steps for the members that should be there, once what they require is."""
    wanted = cluster.state.counts[role]
    vacant = list[MemberSlot]()
    for slot in slots:
        if slot.number > wanted:
            continue
        if slot.now is not None and slot.now.held:
            yield MemberStep(slot.now.uuid, None)
        elif slot.now is None and slot.leaving is None and not is_given_up(cluster, role, slot):
            vacant.append(slot)
    wait = cluster.state.waits.get(role)
    if vacant and (wait is None or wait.until <= now) and cluster.remaining(role, now) > 0:
        need = ",".join(f"{slot.number}.{slot.ever}" for slot in vacant)
        yield OrderMembers(
            role,
            tuple(slot.number for slot in vacant),
            cluster.document.start == "all" and not cluster.state.was_ready,
            f"cluster:{cluster.uuid}:{role}:{hashlib.sha256(need.encode()).hexdigest()[:32]}",
        )


def _ends(machines: Iterable[SiteMachine], reason: str) -> Iterable[ClusterStep]:
    for one in machines:
        if one.desired is not DesiredStatus.ENDED:
            yield MemberStep(one.uuid, Verb.DESTROY, reason)


def _give_up(state: ClusterState, living: Iterable[SiteMachine], now: datetime, reason: str) -> ClusterPlan:
    return ClusterPlan(
        _moved(state, ClusterPhase.FAILED, reason, now), tuple(_ends(living, f"its cluster was given up: {reason}"))
    )


def _moved(state: ClusterState, phase: ClusterPhase, reason: str, now: datetime, **values: object) -> ClusterState:
    changed = state.changed if phase is state.phase else now
    return state.model_copy(update={"phase": phase, "reason": reason, "changed": changed, **values})


def _with(cluster: Cluster, **values: object) -> Cluster:
    return cluster.model_copy(update={"state": cluster.state.model_copy(update=values)})


@dataclass(frozen=True)
class MemberBatch:
    """Members of one deployment that are released, or ended, in one transaction: a thousand of them take a second."""

    deployment: str
    steps: Mapping[str, MemberStep]

    def rule(self, machine: SiteMachine, now: datetime) -> MachineTransition | None:
        """What becomes of a machine of the deployment."""
        step = self.steps.get(machine.uuid)
        return None if step is None else step.rule(machine, now)


def batch_steps(
    steps: Sequence[ClusterStep], deployments: Mapping[str, str]
) -> Iterator[OrderMembers | MemberStep | MemberBatch]:
    """Steps in order, those that end and release machines of one deployment together and first: they free capacity."""
    batches = defaultdict[str, dict[str, MemberStep]](dict)
    others = list[ClusterStep]()
    for step in steps:
        if isinstance(step, OrderMembers) or step.verb is Verb.SHUTDOWN:
            others.append(step)
        else:
            batches[deployments[step.machine]][step.machine] = step
    yield from (MemberBatch(deployment, found) for deployment, found in batches.items())
    yield from others
