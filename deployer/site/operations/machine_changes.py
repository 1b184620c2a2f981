"""Changes of existing machines by people: verbs, end, memory and cores. Events name the person."""

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from catalog.errors import Misused
from deployer.errors import MachineConflict, NoCapacity, OverQuota
from deployer.machine.state import MachineState
from deployer.policy.store import RuleSet
from deployer.protocol.desired_state import DesiredStatus
from deployer.site.db.machines import get_machine, list_machines
from deployer.site.db.nodes import find_node, get_node
from deployer.site.lifecycle import save_rules as saving
from deployer.site.lifecycle import verb_rules as lifecycle
from deployer.site.lifecycle.verb_rules import Verb
from deployer.site.model.principal import LOCAL_OPERATOR, Principal
from deployer.site.model.quota import Quota, ResourceUsage
from deployer.site.model.records import ListFilter, MachineTransition, NodeState, SiteMachine, SiteNode
from deployer.site.scheduling.placement import place_machines
from deployer.site.scheduling.proposal import CostCheck
from deployer.site.schema.messages import PAGE_SIZE, MachineChange, SaveRequest
from deployer.site.store.changes import change_machine, change_machines, set_node_state
from deployer.site.store.migration import migrate
from deployer.site.store.store import SiteStore
from signer.runtime.paging import walk_pages
from signer.runtime.units import duration_text


@dataclass(frozen=True)
class MachineService:
    """Changes machines for authorized requesters. Safe to use from several threads.

    Attributes:
        store: of the site.
        rules: the policy in force; raises PolicyUnusable.
        owner: finds the owner of a deployment.
        quota: finds the quotas of a requester.
        afford: refuses costs beyond the cap of an account at EC2.
    """

    store: SiteStore
    rules: Callable[[], RuleSet]
    owner: Callable[[str], Principal]
    quota: Callable[[Principal], Quota]
    afford: CostCheck | None = None

    def act(self, machine: str, verb: Verb, who: Principal, reason: str) -> SiteMachine:
        """Apply a verb to a machine; MachineConflict if its state does not allow that."""
        return self._apply(machine, verb, reason_with_actor(who, reason))

    def _apply(self, machine: str, verb: Verb, reason: str) -> SiteMachine:
        now = self.store.now()
        return self.store.write(change_machine, machine, lambda one: lifecycle.apply_verb(one, verb, reason, now))

    def save(self, machine: str, wanted: SaveRequest, key: str, who: Principal) -> SiteMachine:
        """Save a machine as a new version of its image; MachineConflict if its state forbids it, Conflict by the key."""
        now, reason = self.store.now(), reason_with_actor(who, wanted.reason)
        return self.store.write(
            change_machine, machine, lambda found: saving.request_save(found, wanted.version, key, reason, now)
        )

    def reactivate(self, machine: str, node: str, who: Principal, reason: str) -> SiteMachine:
        """Let a resting machine go on at another node.

        Args:
            machine: its UUID.
            node: name or UUID of the node; empty for any node with capacity.
            who, reason: for the event.

        Raises:
            NodeNotFound: the node is unknown.
            MachineConflict: the machine does not rest, or cannot leave its node.
            NoCapacity: no node, or not that one, can take it.
        """
        target = self.store.read(find_node, node).uuid if node else ""
        return self._migrate(machine, target, DesiredStatus.RUNNING, reason_with_actor(who, reason))

    def _migrate(self, machine: str, to: str, then: DesiredStatus, reason: str) -> SiteMachine:
        found = self.store.read(get_machine, machine)
        under_way = found.migrating
        if under_way is not None and (to in {"", under_way.target}) and under_way.desired is then:
            return found  # it is on its way
        if under_way is not None:
            raise MachineConflict(f"machine {found.hostname} is already migrating; wait until it has arrived")
        if to and found.node == to and then is DesiredStatus.RUNNING:
            return self._apply(machine, Verb.REACTIVATE, reason)
        return self.store.write(migrate, machine, to, then, reason, place_machines)

    def clear(self, node: SiteNode, who: Principal, reason: str) -> tuple[SiteMachine, ...]:
        """Migrate the resting machines of a node to other nodes, to rest there; those that no other node can take stay."""
        which = ListFilter(node=node.uuid, states=(MachineState.SUSPENDED, MachineState.STOPPED))
        started = []
        for found in walk_pages(lambda after: self.store.read(list_machines, which, PAGE_SIZE, after)):
            with suppress(MachineConflict, NoCapacity):
                started.append(self._migrate(found.uuid, "", found.desired, reason_with_actor(who, reason)))
        return tuple(started)

    def end_deployment(self, deployment: str, who: Principal) -> tuple[SiteMachine, ...]:
        """End all machines of a deployment."""
        now = self.store.now()
        return self.store.write(
            change_machines,
            deployment,
            lambda found: lifecycle.apply_verb(found, Verb.DESTROY, reason_with_actor(who, ""), now),
        )

    def set_node(self, node: SiteNode, state: NodeState, who: Principal, reason: str) -> SiteNode:
        """Drain a node, use it again, or remove it."""
        self.store.write(set_node_state, node.uuid, state, reason_with_actor(who, reason))
        return self.store.read(get_node, node.uuid)

    def change(self, machine: str, wanted: MachineChange, who: Principal) -> SiteMachine:
        """Change a machine's end, memory or cores: all of the request, or nothing.

        Raises:
            Misused: the request is empty or gives two ends.
            MachineConflict: its state, or its maximum, does not allow it.
            OverQuota: the new end is later than its owner's quotas, or the policy, allow.
            OverBudget: the machine is at EC2, and until then it costs more than its account may spend.
        """
        if wanted.expires is not None and wanted.lifetime is not None:
            raise Misused("say when the machine should end either by `expires` or by `lifetime`")
        if wanted == MachineChange():
            raise Misused("nothing to change: give expires or lifetime, memory, or cores")
        now = self.store.now()
        expires = now + timedelta(seconds=wanted.lifetime) if wanted.lifetime is not None else wanted.expires
        reason = reason_with_actor(who, "")

        def rule(found: SiteMachine) -> MachineTransition | None:
            changes = list[MachineTransition]()
            if expires is not None and (moved := lifecycle.change_expiry(found, expires, now, reason)) is not None:
                changes.append(moved)
                found = moved.machine
            if wanted.memory is not None or wanted.cores is not None:
                sized = lifecycle.resize_machine(found, wanted.memory, wanted.cores, reason)
                changes += [] if sized is None else [sized]
            if not changes:
                return None
            return MachineTransition(changes[-1].machine, tuple(event for one in changes for event in one.events))

        later = False
        if expires is not None:
            found = self.store.read(get_machine, machine)
            if later := expires > found.expires:
                self._demand_time(found, expires, now, who)
        return self.store.write(change_machine, machine, rule, self.afford if later else None)

    def _demand_time(self, machine: SiteMachine, expires: datetime, now: datetime, who: Principal) -> None:
        """Check an extension as an order: by the policy's lifetime and the quotas of the machine's owner."""
        if who.means == LOCAL_OPERATOR.means:
            return
        seconds = math.ceil((expires - now).total_seconds())
        most = self.rules().policy.limits.lifetime
        if seconds > most:
            raise OverQuota(f"the site's policy lets machines run for at most {duration_text(most)} from now")
        owner = self.owner(machine.deployment)
        allowed = self.quota(who if who.identity == owner.identity else owner)
        if fault := allowed.check(ResourceUsage(), ResourceUsage(lifetime=seconds)):
            raise OverQuota(fault)


def reason_with_actor(who: Principal, reason: str) -> str:
    """The reason of a change with the person's name."""
    return f"{reason} (by {who.subject})" if reason else f"asked for by {who.subject}"
