"""The rules for migrating a machine from one node to another. Pure: values in, a change or a refusal out.

At every instant one node has the machine: the source, until the site has written that the target has it. In between stands
only the target's word that it holds all of it, verified. What the source has is dropped after that, and whatever fails before it
leaves the machine resting where it was. Each attempt has a number, and a word about another attempt counts for nothing.
"""

from collections.abc import Container, Mapping
from datetime import datetime
from typing import Final

from deployer.errors import MachineConflict
from deployer.machine.state import MachineState
from deployer.protocol.desired_state import DesiredStatus, NodeReport
from deployer.protocol.migration import MigrationProgress
from deployer.site.model.records import MachineTransition, Migration, NodeState, SiteMachine, SiteNode

REST_STATES: Final = {DesiredStatus.SUSPENDED: MachineState.SUSPENDED, DesiredStatus.STOPPED: MachineState.STOPPED}
"""How a machine has to be wanted, and to be, so that it can migrate."""

LOST_STATES: Final = frozenset({NodeState.LOST, NodeState.LEFT})


def check_at_rest(machine: SiteMachine) -> None:
    """MachineConflict unless a machine is at rest, and may be taken from where it is."""
    if machine.ending:
        raise MachineConflict(f"machine {machine.hostname} is ending or has ended; it cannot be migrated")
    if machine.node is None:
        raise MachineConflict(f"machine {machine.hostname} is on no node yet; there is nothing to migrate")
    if machine.saving is not None:
        raise MachineConflict(f"machine {machine.hostname} is being saved where it is; wait until that is done")
    if REST_STATES.get(machine.desired) is not machine.state:
        raise MachineConflict(
            f"machine {machine.hostname} is {machine.state.value} and should be {machine.desired.value}; "
            "suspend it, and wait until that is so, to migrate it"
        )


def source_fault(machine: SiteMachine, source: SiteNode) -> str:
    """Why a node cannot give a machine away, as a sentence; empty if it can."""
    if source.kind != "libvirt":
        return f"{source.name} is a pool at EC2, and what runs there stays there"
    if source.state in LOST_STATES:
        return f"{source.name}, which has machine {machine.hostname}, is {source.state.value}"
    if source.migration_support is None or not source.migration_support.url:
        return (
            f"{source.name}, which has machine {machine.hostname}, migrates no machines to other nodes; "
            "set deploy.migration_listen there"
        )
    return ""


def target_fault(machine: SiteMachine, source: SiteNode, target: SiteNode) -> str:
    """Why a node cannot take a machine, as the end of a sentence about it; empty if it can as far as a site knows."""
    if target.uuid == source.uuid:
        return "the machine is there, and is to go elsewhere"
    if target.kind != "libvirt" or target.migration_support is None:
        return "it does not support migration"
    if source.migration_support is None:
        return "the emulator that saved the memory is unknown"
    if machine.state is not MachineState.SUSPENDED:
        return ""  # one that boots again asks for nothing but its architecture
    if target.accelerator != machine.virt:
        return f"it runs machines on {target.accelerator or 'nothing known'}, and this one was saved on {machine.virt}"
    return target.migration_support.platform.lacks(source.migration_support.platform)


def start_migration(machine: SiteMachine, target: str, then: DesiredStatus, reason: str, why: str) -> MachineTransition:
    """Let a machine go to another node.

    Args:
        machine: at rest; see `check_at_rest`.
        target: the node's UUID.
        then: how it should be there.
        reason: who wants it, for the event and its node.
        why: the placement's explanation.
    """
    assert machine.node is not None  # noqa: S101 - `check_at_rest`
    number = machine.migrations + 1
    migration = Migration(number=number, source=machine.node, target=target, desired=then, reason=reason)
    detail = f"{why} ({reason})" if reason else why
    return machine.transition(("migrating", detail), migration=migration, migrations=number)


def abandon_migration(machine: SiteMachine, reason: str) -> MachineTransition | None:
    """A migration is abandoned: the machine rests where it was."""
    if machine.migrating is None:
        return None
    return machine.transition(("migration-failed", reason), migration=None)


def apply_target_report(
    machine: SiteMachine, arrival: MigrationProgress | None, now: datetime
) -> MachineTransition | None:
    """What the target's report makes of a machine that is on its way to it.

    That it is held is the only thing that lets it change hands; the change is one transaction of the site's database.
    """
    migration = machine.migrating
    if migration is None or arrival is None or arrival.number != migration.number:
        return None
    if arrival.failed:
        return abandon_migration(machine, arrival.failed)
    progress = {"done": arrival.done, "total": arrival.total}
    if not arrival.ready:
        return machine.transition(migration=migration.model_copy(update=progress))
    events = [("migrated", f"{arrival.total} bytes of its own came with it, all verified")]
    if migration.desired is DesiredStatus.RUNNING:
        events.append(("reactivating", migration.reason))
    return machine.transition(
        *events,
        node=migration.target,
        migration=migration.model_copy(update=progress | {"phase": "dropping"}),
        migrated=migration.number,
        desired=migration.desired,
        desired_reason=migration.reason,
        changed=now,
        addresses=(),
    )


def apply_source_report(machine: SiteMachine, has: bool) -> MachineTransition | None:
    """The change of a migrated machine, by whether its former node still has a copy of it."""
    if has or machine.migration is None or machine.migration.phase != "dropping" or not machine.migration.seen:
        return None
    return machine.transition(("dropped", "its last node has nothing of it any more"), migration=None)


def apply_migration_report(
    machine: SiteMachine, node: str, report: NodeReport, has: Container[str], now: datetime
) -> MachineTransition | None:
    """The change of a machine that migrates to or from the node, by its report.

    Args:
        machine: on its way to the node, or come from it.
        node: who reports.
        report: of the node.
        has: the machines that it has and that have not ended.
        now: aware, UTC, whole seconds.
    """
    migration = machine.migration
    if migration is None:
        return None
    if migration.phase == "migrating" and migration.target == node:
        found = next((one for one in report.incoming or () if one.uuid == machine.uuid), None)
        return apply_target_report(machine, found, now)
    if migration.phase == "dropping" and migration.source == node and report.complete:
        return apply_source_report(machine, machine.uuid in has)
    return None


def abandon_on_node_loss(machine: SiteMachine, nodes: Mapping[str, SiteNode]) -> MachineTransition | None:
    """The change of a machine that migrates from or to a lost node; None if it stays as it is."""
    migration = machine.migration
    if migration is None:
        return None
    source, target = nodes.get(migration.source), nodes.get(migration.target)
    if migration.phase == "dropping":
        return apply_source_report(machine, has=source is not None and source.state is not NodeState.LEFT)
    for node, is_what in ((source, "which has it"), (target, "where it was to go")):
        if node is None or node.state in LOST_STATES:
            name, state = (node.name, node.state.value) if node else ("a node", "gone")
            return abandon_migration(machine, f"{name}, {is_what}, is {state}")
    return None
