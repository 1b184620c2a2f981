"""Applying the reports of nodes, within a writing transaction; `lifecycle.report_rules` decides about machines."""

from deployer.protocol.desired_state import NodeReport
from deployer.site.db import contexts as broker_store
from deployer.site.db import machines as store_machines
from deployer.site.db import nodes as store_nodes
from deployer.site.lifecycle import migration_rules
from deployer.site.lifecycle import report_rules as absorbing
from deployer.site.model.records import NodeState
from deployer.site.store.changes import demand_member
from deployer.site.store.unit_of_work import UnitOfWork


def store_report(work: UnitOfWork, uuid: str, report: NodeReport) -> None:
    """Apply a report of a node.

    A report in which nothing is new writes that it came, and nothing else. In one that is older than the last one
    (its answer was lost, and it was sent again) the machines are ignored.

    Raises:
        NodeNotFound: the node is unknown.
        JoinRefused: the node has left the site.
    """
    node = store_nodes.get_node(work.connection, uuid, contents=False)
    demand_member(node)
    state = node.state
    if state is NodeState.LOST:
        state = NodeState.DRAINING if node.draining else NodeState.READY
        work.add_event("node", uuid, state.value, "it reports again")
    if report.problem != node.problem:
        work.add_event("node", uuid, "problem" if report.problem else "well", report.problem)
    store_nodes.write_report(work.connection, node, report, state, work.now)
    if report.migration_support != node.migration_support:  # the targets of its migrations get the new address
        there = [machine.migrating for machine in store_machines.migrating_machines(work.connection)]
        work.touched |= {migration.target for migration in there if migration is not None and migration.source == uuid}
    if report.revision >= node.seen:
        _absorb_machines(work, uuid, report)


def _absorb_machines(work: UnitOfWork, node: str, report: NodeReport) -> None:
    seen = {machine.uuid: machine for machine in report.machines}
    here = store_machines.machines_on_node(work.connection, node)
    work.change(
        here,
        lambda machine: absorbing.apply_report(machine, seen.get(machine.uuid), work.now, complete=report.complete),
    )
    known = {machine.uuid for machine in here} | _absorb_migrating(work, node, report)
    strays = [uuid for uuid, machine in seen.items() if uuid not in known and not machine.state.final]
    for uuid in store_nodes.record_strays(work.connection, node, strays):
        work.touched.add(node)
        work.add_event("machine", uuid, "stray", "a node has it that should not; the node is to end it")


def _absorb_migrating(work: UnitOfWork, node: str, report: NodeReport) -> set[str]:
    """The same for machines that migrate to the node, or from it and are still there; returns which they were.

    One that changes hands keeps what its guest is known by: it does not begin anew there.
    """
    there = store_machines.migrating_machines(work.connection, node)
    has = {machine.uuid for machine in report.machines if not machine.state.final}
    for machine in there:
        change = migration_rules.apply_migration_report(machine, node, report, has, work.now)
        if change is not None and change.machine.node != machine.node:
            broker_store.reassign_contact(work.connection, machine.uuid, node)
        work.change([machine], lambda _, change=change: change)  # type: ignore[misc]
    return {machine.uuid for machine in there}
