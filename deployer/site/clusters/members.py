"""The state of a cluster's members: the machine of each member, its failures and their reasons, and the status of roles.

A member is a role and a number, its slot, which machines fill one after the other. A slot has one machine at a time: a machine
that is to end fills it until it has ended, so there are never more members than requested. Pure.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from deployer.machine.state import MachineState
from deployer.protocol.desired_state import DesiredStatus
from deployer.site.model.cluster import Cluster, ClusterRole
from deployer.site.model.records import SiteMachine
from deployer.site.schema.clusters import RoleStatus

_UP = frozenset({MachineState.BOOTING, MachineState.RUNNING})


class ClusterRoleStatus(RoleStatus):
    """The status of a role.

    Attributes:
        expired: members that have reached the end of their time.
    """

    expired: int = 0

    @property
    def left(self) -> int:
        """How many members there should be now: those that have expired do not count."""
        return self.count - self.expired


@dataclass(frozen=True, slots=True)
class MemberSlot:
    """A member: its present machine, if there is one, and the failures of earlier ones.

    Attributes:
        number: from 1, within its role.
        now: its machine, if one is there to stay.
        leaving: a machine that is to end, or has failed, and has not ended.
        doubles: others that should not be there.
        ever: machines that it ever had.
        failures: why earlier ones failed, the oldest first.
        expired: the last one lived until it expired.
    """

    number: int
    now: SiteMachine | None
    leaving: SiteMachine | None
    doubles: tuple[SiteMachine, ...]
    ever: int
    failures: tuple[str, ...]
    expired: bool


def failure_reason(cluster: Cluster, member: SiteMachine, now: datetime) -> str:
    """Why a member has failed, as the end of a sentence; empty if it has not, or was ended or stopped on request."""
    if (known := cluster.state.failed.get(member.uuid)) is not None:
        return known
    role = cluster.document.roles.get(member.role)
    if role is None or member.uuid in cluster.state.draining:
        return ""
    if member.state is MachineState.FAILED:
        return member.reason or "it failed"
    if member.desired is DesiredStatus.ENDED:
        return ""
    if member.state is MachineState.STOPPED and _by_itself(member):
        return member.desired_reason
    if member.ready is not None and member.ready != "ready":
        return member.ready
    late = now - member.changed > timedelta(seconds=role.ready_within)
    if member.state is MachineState.RUNNING and late and not is_ready(role, member):
        return f"it was not ready within {role.ready_within} s"
    return ""


def _by_itself(member: SiteMachine) -> bool:
    """Whether a guest powered off by itself: the site then adopts the node's reason (`lifecycle.report_rules`), and
    otherwise keeps that of the requester."""
    return (
        member.desired is DesiredStatus.STOPPED
        and bool(member.desired_reason)
        and member.desired_reason == member.reason
    )


def is_ready(role: ClusterRole, member: SiteMachine) -> bool:
    """Whether a member is ready: it runs, and has reported so where its role demands it."""
    return member.state is MachineState.RUNNING and (role.ready == "running" or member.ready == "ready")


def role_statuses(cluster: Cluster, members: Sequence[SiteMachine], now: datetime) -> Mapping[str, ClusterRoleStatus]:
    """The status of each role."""
    return {role: role_status(cluster, role, slots_of(cluster, role, members, now)) for role in cluster.document.roles}


def unmet_roles(cluster: Cluster, role: str, status: Mapping[str, ClusterRoleStatus]) -> tuple[str, ...]:
    """The roles that this one waits for: those that it requires and of which not enough are there."""
    booting = cluster.document.roles[role].starts == "booting"
    return tuple(
        name
        for name in cluster.document.before(role)
        if (status[name].running if booting else status[name].ready) < status[name].quorum
    )


def slots_of(cluster: Cluster, role: str, members: Sequence[SiteMachine], now: datetime) -> list[MemberSlot]:
    """The members of a role by number: the requested ones, and any beyond them."""
    machines = defaultdict[int, list[SiteMachine]](list)
    for one in members:
        if one.role == role and (number := cluster.document.slot(role, one.hostname)):
            machines[number].append(one)
    numbers = {*range(1, cluster.state.counts[role] + 1), *machines}
    return [_slot(cluster, number, machines[number], now) for number in sorted(numbers)]


def _slot(cluster: Cluster, number: int, machines: list[SiteMachine], now: datetime) -> MemberSlot:
    state = cluster.state
    machines = sorted(machines, key=lambda one: (one.created, one.uuid))
    living = [one for one in machines if not one.state.final]
    going = [
        one
        for one in living
        if one.desired is DesiredStatus.ENDED or one.uuid in state.failed or one.uuid in state.draining
    ]
    staying = [one for one in living if one not in going]
    last = machines[-1] if machines else None
    return MemberSlot(
        number,
        staying[0] if staying else None,
        going[0] if going else None,
        (*going[1:], *staying[1:]),
        len(machines),
        tuple(why for one in machines if (why := state.failed.get(one.uuid))),
        last is not None
        and last.state is MachineState.ENDED
        and not state.failed.get(last.uuid)
        and now >= last.expires,
    )


def role_status(cluster: Cluster, role: str, slots: Sequence[MemberSlot]) -> ClusterRoleStatus:
    """The status of a role, by its slots."""
    count = cluster.state.counts[role]
    known = cluster.document.roles[role]
    wanted = [slot for slot in slots if slot.number <= count]
    there = [slot.now for slot in wanted if slot.now is not None]
    over = sum(slot.expired for slot in wanted if slot.now is None)
    lost = [slot for slot in wanted if slot.now is None and slot.failures and is_given_up(cluster, role, slot)]
    why = loss_reason(cluster, role, lost[0]) if lost else ""
    if len(there) < count - over - len(lost) and role in cluster.state.waits:
        why = cluster.state.waits[role].why
    return ClusterRoleStatus(
        count=count,
        quorum=cluster.need(role),
        ready=sum(is_ready(known, one) for one in there),
        running=sum(one.state in _UP for one in there),
        present=len(there),
        expired=over,
        reason=why,
    )


def is_given_up(cluster: Cluster, role: str, slot: MemberSlot) -> bool:
    """Whether a slot gets no further machine by itself."""
    return slot.expired or len(slot.failures) > cluster.document.roles[role].replace


def loss_reason(cluster: Cluster, role: str, slot: MemberSlot) -> str:
    """Why a slot gets no further machine."""
    host = cluster.document.hostname(role, slot.number)
    if not slot.failures:
        return f"{host} has expired"
    times = "once" if len(slot.failures) == 1 else f"{len(slot.failures)} times"
    return f"{host} failed {times} and is not replaced any more; the last reason: {slot.failures[-1]}"
