"""Migrating a machine within a site's transactions: where it may go, by capacity and by what nodes have in common; and what to abandon."""

from collections.abc import Sequence
from dataclasses import replace

from deployer.errors import MachineConflict, NoCapacity
from deployer.protocol.desired_state import DesiredStatus
from deployer.site.db import machines as store_machines
from deployer.site.db import nodes as store_nodes
from deployer.site.db.engine import Transaction
from deployer.site.lifecycle import migration_rules
from deployer.site.model.records import SiteMachine, SiteNode
from deployer.site.scheduling.node_capacity import cap_machines
from deployer.site.scheduling.placement import NodeCapacity, Placement, PlacementRequest, Placer, omission
from deployer.site.store.store import SiteStore
from deployer.site.store.unit_of_work import TransitionRule, UnitOfWork


def migrate(work: UnitOfWork, uuid: str, to: str, then: DesiredStatus, reason: str, place: Placer) -> SiteMachine:
    """Let a machine that rests go to another node; it stays where it is until that one has all of it.

    Args:
        work: the transaction.
        uuid: which; MachineNotFound.
        to: the node's UUID; empty for whichever `place` chooses.
        then: how it should be there.
        reason: who wants it.
        place: chooses the node.

    Raises:
        MachineConflict: it does not rest, or its node gives nothing away.
        NoCapacity: no node may take it; gives the reason for each.
    """
    machine = store_machines.get_machine(work.connection, uuid)
    migration_rules.check_at_rest(machine)
    assert machine.node is not None  # noqa: S101 - at rest somewhere
    nodes = {node.uuid: node for node in store_nodes.list_nodes(work.connection, contents=False)}
    source = nodes[machine.node]
    if fault := migration_rules.source_fault(machine, source):
        raise MachineConflict(fault)
    chosen = _placed(work, place, machine, nodes, source, to)
    change = migration_rules.start_migration(machine, chosen.nodes[0], then, reason, " ".join(chosen.sentences))
    work.change([machine], lambda _: change)
    return store_machines.get_machine(work.connection, uuid)


def _placed(
    work: UnitOfWork, place: Placer, machine: SiteMachine, nodes: dict[str, SiteNode], source: SiteNode, to: str
) -> Placement:
    ask, most = store_machines.placement_request_of(work.connection, machine)
    mine = replace(ask, options=ask.options.model_copy(update={"where": "local", "whole": True}))
    capacities = [
        _fitting(cap_machines(capacity, most, mine.shape.max_cores), machine, source, nodes[capacity.uuid], to)
        for capacity in store_nodes.node_capacities(work.connection, mine.addresses.keys(), work.overcommit)
    ]
    try:
        return place(capacities, mine)
    except NoCapacity as exc:
        raise NoCapacity(f"machine {machine.hostname} cannot be migrated: {_why(capacities, mine, to)}") from exc


def _fitting(capacity: NodeCapacity, machine: SiteMachine, source: SiteNode, target: SiteNode, to: str) -> NodeCapacity:
    """A node's capacity for a machine that migrates: none where it cannot go on."""
    fault = capacity.problem or migration_rules.target_fault(machine, source, target)
    if to and capacity.uuid != to:
        fault = "another node was asked for"
    return replace(capacity, ready=capacity.ready and not fault, problem=fault)


def _why(capacities: Sequence[NodeCapacity], ask: PlacementRequest, to: str) -> str:
    """Why no node can take the machine, node by node; if one was requested, the reason of that one alone."""
    shown = [capacity for capacity in capacities if not to or capacity.uuid == to]
    reasons = [
        f"{capacity.name}: {capacity.problem or omission(capacity, ask)[1]}" for capacity in shown[:MAX_NODES_SHOWN]
    ]
    return "; ".join(reasons) or "no other node exists"


MAX_NODES_SHOWN = 8
"""Nodes for which the reason why they cannot take a machine is given."""


def give_up_migrations(store: SiteStore) -> int:
    """Give up the migrations from and to nodes that are lost; returns how many changes that made."""
    return store.write(_give_up) if store.read(_lapsed) else 0


def _abandonment(connection: Transaction) -> TransitionRule:
    """The rule that gives up the migrations from and to nodes that are lost or have left."""
    nodes = {node.uuid: node for node in store_nodes.list_nodes(connection, contents=False)}
    return lambda machine: migration_rules.abandon_on_node_loss(machine, nodes)


def _lapsed(connection: Transaction) -> bool:
    """Whether any migration has to be given up; only reads."""
    found = store_machines.migrating_machines(connection)
    return bool(found) and any(map(_abandonment(connection), found))


def _give_up(work: UnitOfWork) -> int:
    work.change(store_machines.migrating_machines(work.connection), _abandonment(work.connection))
    return len(work.events)
