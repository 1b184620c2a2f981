"""The due work of a site: a check whether anything is due, which only reads, and then all of it."""

from collections.abc import Container
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from deployer.errors import NoCapacity
from deployer.site.db import machines as store_machines
from deployer.site.db import nodes as store_nodes
from deployer.site.db.engine import Transaction
from deployer.site.lifecycle.report_rules import LostPolicy, apply_node_loss, expire_machine, warn_of_expiry
from deployer.site.model.records import MachineTransition, NodeState, SiteMachine
from deployer.site.scheduling.node_capacity import Overcommit, cap_machines
from deployer.site.scheduling.placement import Placer, place_without
from deployer.site.store.admission import place_now
from deployer.site.store.store import SiteStore
from deployer.site.store.unit_of_work import UnitOfWork

WAITS = "no node has free capacity for it now; it waits"


@dataclass(frozen=True)
class DueWork:
    """The times and rules of one look.

    Attributes:
        now: machines that end by then are over.
        warn_until: owners of machines that end by then are warned.
        lost_before: nodes that have not reported since are lost.
        policy: what becomes of their machines.
        fenced: UUIDs of the nodes that surely run nothing any more, should they be lost; None: all of them.
    """

    now: datetime
    warn_until: datetime
    lost_before: datetime
    policy: LostPolicy
    fenced: Container[str] | None = None

    def lose(self, machine: SiteMachine) -> MachineTransition | None:
        """What becomes of a machine of a lost node."""
        fenced = self.fenced is None or machine.node in self.fenced
        return apply_node_loss(machine, self.policy, self.now, fenced=fenced)


def meet_deadlines(store: SiteStore, demands: DueWork) -> int:
    """Do what time demands: expiry, warnings, nodes that are silent for too long; returns how many changes it made."""
    return store.write(_meet, demands) if store.read(_is_due, demands) else 0


def _is_due(connection: Transaction, demands: DueWork) -> bool:
    """Whether there is anything to do."""
    return bool(
        store_nodes.silent_nodes(connection, demands.lost_before)
        or store_machines.due_machines(connection, demands.now, demands.warn_until)
        or any(demands.lose(one) for one in store_machines.machines_on_lost_nodes(connection))
    )


def _meet(work: UnitOfWork, demands: DueWork) -> int:
    """Nodes are lost first, since that decides what an end means for their machines."""
    now = demands.now
    for node in store_nodes.silent_nodes(work.connection, demands.lost_before):
        store_nodes.write_node_state(work.connection, node.uuid, NodeState.LOST, draining=node.draining)
        work.add_event("node", node.uuid, "lost", "it has not reported for too long")
    work.change(
        store_machines.due_machines(work.connection, now, demands.warn_until),
        lambda machine: expire_machine(machine, now) or warn_of_expiry(machine),
    )
    work.change(store_machines.machines_on_lost_nodes(work.connection), demands.lose)
    return len(work.events)


def place_waiting(store: SiteStore, place: Placer) -> int:
    """Find nodes for machines that have none; returns how many found one. The others get, once, the reason that they wait."""
    fits = store.read(_fitting, store.overcommit, place)
    return 0 if fits is None else store.write(_place_waiting, place, fits)


def _fitting(connection: Transaction, overcommit: Overcommit, place: Placer) -> set[str] | None:
    """The deployments whose waiting machines would have capacity now; None if there is nothing to write, not even that."""
    waiting = store_machines.unplaced_machines(connection)
    if not waiting:
        return None
    asks = {machine.deployment: store_machines.placement_request_of(connection, machine) for machine in waiting}
    addresses = {address for ask, _ in asks.values() for address in ask.addresses}
    capacities = store_nodes.node_capacities(connection, addresses, overcommit)
    found = set()
    for uuid, (ask, most) in asks.items():
        with suppress(NoCapacity):
            place([cap_machines(capacity, most, ask.shape.max_cores) for capacity in capacities], ask)
            found.add(uuid)
    return found if found or any(machine.reason != WAITS for machine in waiting) else None


def _place_waiting(work: UnitOfWork, place: Placer, fits: set[str]) -> int:
    """Place waiting machines of those deployments, as far as there is capacity; returns how many were placed."""
    placed = 0
    for machine in store_machines.unplaced_machines(work.connection):
        change = machine.transition(reason=WAITS)
        if machine.deployment in fits:
            with suppress(NoCapacity):
                change = _placed(work, machine, place)
        if change.machine.node is None:
            fits.discard(machine.deployment)  # the next one of its like would not fit either
        else:
            placed += 1
        work.change([machine], lambda _, change=change: change)  # type: ignore[misc]
    return placed


def _placed(work: UnitOfWork, machine: SiteMachine, place: Placer) -> MachineTransition:
    ask, most = store_machines.placement_request_of(work.connection, machine)
    why = "it has an older copy of the machine, and is to drop that first"
    place = place_without(place, lambda capacity: capacity.uuid == machine.other_node, why)
    chosen = place_now(work.connection, work.overcommit, ask, place, most)
    return machine.transition(("placed", "; ".join(chosen.sentences)), node=chosen.nodes[0], reason="")
