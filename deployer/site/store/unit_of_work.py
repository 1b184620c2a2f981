"""One writing transaction of a site's store: its changes, their events, and the nodes that have to act."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime

from deployer.protocol.deployment_request import DeploymentRequest
from deployer.protocol.desired_state import DesiredMachine
from deployer.site.db import events as store_events
from deployer.site.db import machines as store_machines
from deployer.site.db import nodes as store_nodes
from deployer.site.db.engine import Transaction
from deployer.site.lifecycle.save_rules import abandon_save
from deployer.site.model.records import MachineTransition, SiteEvent, SiteMachine
from deployer.site.scheduling.node_capacity import Overcommit

TransitionRule = Callable[[SiteMachine], MachineTransition | None]
"""The changed machine; None if it stays as it is."""

_NOTHING_ASKED = DeploymentRequest(image="none")


def visible_to_node(machine: SiteMachine) -> DesiredMachine | None:
    """What its node gets of a machine: where two of these differ, the node has to act."""
    if machine.node is None or machine.removed_from_node or machine.withheld:
        return None
    return machine.desired_machine(_NOTHING_ASKED)


@dataclass
class UnitOfWork:
    """The state of a writing transaction.

    Attributes:
        connection: the transaction.
        now: the present, whole seconds.
        new_uuid: a fresh UUID's text.
        overcommit: how much of nodes may be promised.
        events: in order; without numbers until the end.
        touched: nodes that have to act.
        moved: deployments of machines that end at another time.
        by: who does it: an identity; empty for the site itself.
    """

    connection: Transaction
    now: datetime
    new_uuid: Callable[[], str]
    overcommit: Overcommit
    events: list[SiteEvent] = field(default_factory=list)
    touched: set[str] = field(default_factory=set)
    moved: set[str] = field(default_factory=set)
    by: str = ""

    def add_event(self, kind: str, subject: str, what: str, reason: str, deployment: str | None = None) -> None:
        """An event."""
        self.events.append(
            SiteEvent(
                number=0, at=self.now, kind=kind, subject=subject, deployment=deployment, what=what, reason=reason
            )
        )

    def made(self, machines: Iterable[SiteMachine]) -> None:
        """Tell of machines that are new."""
        for machine in machines:
            self.add_event("machine", machine.uuid, machine.state.value, "", machine.deployment)
            if machine.node is not None and visible_to_node(machine) is not None:
                self.touched.add(machine.node)

    def change(self, machines: Iterable[SiteMachine], rule: TransitionRule) -> None:
        """Change machines by a rule; only changed ones are written and get events."""
        changed = []
        for before in machines:
            change = rule(before)
            if change is None or change.machine == before:
                continue
            after, events = change.machine, change.events
            if after.saving is not None and (after.state.final or after.node is None):
                after, more = abandon_save(after, "the machine has ended, or lost its node, before it was saved")
                events = (*events, *more)
            for what, reason in events:
                self.add_event("machine", after.uuid, what, reason, after.deployment)
            if visible_to_node(before) != visible_to_node(after):
                self.touched |= {node for node in (before.node, after.node) if node is not None}
            if before.other_node != after.other_node or before.migrations != after.migrations:
                self.touched |= {node for node in (before.other_node, after.other_node) if node is not None}
            if before.expires != after.expires:
                self.moved.add(after.deployment)
            changed.append(after)
        store_machines.write_machines(self.connection, changed)

    def finish(self) -> dict[str, int]:
        """Write what follows from all that, as the last thing of the transaction; returns the nodes' new revisions."""
        for deployment in self.moved:
            store_machines.update_deployment_end(self.connection, deployment)
        self.events = list(store_events.append_events(self.connection, self.events, self.by))
        return store_nodes.bump_revisions(self.connection, self.touched)
