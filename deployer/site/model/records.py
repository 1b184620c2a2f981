"""What a site remembers: its nodes, deployments, machines, and everything that happened to them. Frozen values."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field

from catalog.image.manifest import ImageId, Version
from deployer.machine.properties import MachineProperties
from deployer.machine.spec import Uuid
from deployer.machine.state import MachineState
from deployer.protocol.deployment_request import DeploymentRequest
from deployer.protocol.desired_state import BrokerAccess, DesiredMachine, DesiredStatus, MachineStatus, NodeStatus
from deployer.protocol.migration import MigrationNumber, OutgoingMigration
from deployer.protocol.save import DesiredSave, SaveDetails
from deployer.site.model.principal import Principal
from signer.documents import Document
from signer.statements.endorsement import Instant


class NodeState(StrEnum):
    """Where a node is in its life. `lost` is one that has not reported for too long."""

    READY = "ready"
    DRAINING = "draining"
    LOST = "lost"
    LEFT = "left"


class SiteNode(NodeStatus):
    """A node of the site, with the status that it last reported; `swarm` is None in lists.

    Attributes:
        uuid: given when it joined; in the subject of its certificate.
        name: for people.
        kind: "libvirt" or "ec2" (a pool at EC2, which the site itself works).
        reported: when it last reported; None before the first time.
        cached: addresses of the contents that are whole in its cache.
        revision: of its desired state now.
        seen: the revision that it acts on.
        draining: it gets no more machines; also while it is lost.
    """

    uuid: Uuid
    name: str
    kind: str = "libvirt"
    state: NodeState
    joined: Instant
    reported: Instant | None = None
    cached: frozenset[str] = frozenset()
    architecture: str = ""
    revision: int = 0
    seen: int = 0
    draining: bool = False


class Deployment(Document):
    """The machines of one request.

    Attributes:
        owner: who asked; their VO's administrators and the site's security may manage it too.
        request: as asked; `image_id` and `title` are what its reference meant then.
        created, expires: instants.
        policy: digest of the policy that admitted it.
        decision: of the policy, as JSON, rule by rule.
        placement: why machines run where they do, in sentences, node by node.
        cluster: the cluster and role that it belongs to, or None.
    """

    uuid: Uuid
    owner: Principal
    request: DeploymentRequest
    image_id: ImageId
    title: str
    created: Instant
    expires: Instant
    policy: str
    decision: dict[str, Any]
    placement: tuple[str, ...] = ()
    cluster: Uuid | None = None
    role: str = ""


class CostReservation(Document):
    """What a machine at EC2 was admitted as: the type and the GiB of volumes that its cost was estimated by."""

    instance_type: str
    gib: int


class MachineSave(SaveDetails):
    """A requested save of a machine as a new version of its image, as people see it.

    Attributes:
        number: of the machine's saves, from 1.
        version: of the new image.
        asked: when it was requested.
        state: "asked", and then as its node last reported it (`deployer.protocol.save.SaveStatus`).
    """

    version: Version
    asked: Instant
    state: str = "asked"


class SaveProgress(MachineSave):
    """A save as the site keeps it.

    Attributes:
        key: the idempotency key that it was requested with, or empty.
    """

    key: str = ""
    state: Literal["asked", "reading", "sending", "saved", "failed"] = "asked"


class MachineMigration(Document):
    """That a machine goes from one node to another, as people see it.

    Attributes:
        source, target: the nodes.
        desired: how it should be when it is there.
        phase: "migrating" while it is the source's; "dropping" once it is the target's and the source still has a copy.
        done, total: bytes that the target has of the machine's own files, and in all.
        reason: why it is migrated.
    """

    source: Uuid
    target: Uuid
    desired: DesiredStatus
    phase: str = "migrating"
    done: int = 0
    total: int = 0
    reason: str = ""


class Migration(MachineMigration):
    """A migration as the site keeps it.

    Attributes:
        number: grows with each attempt to migrate the machine.
        seen: whether the target has reported the machine since it is the target's.
    """

    number: MigrationNumber
    phase: Literal["migrating", "dropping"] = "migrating"
    seen: bool = False


class DeployedMachine(MachineProperties, MachineStatus):
    """One machine of a deployment: what the site keeps of it and shows to people.

    Attributes:
        node: where it is; None while no node is chosen (it was on a node that was lost, say).
        number: within its deployment, from 1.
        desired, desired_reason: how it should be, and why.
        state, reason, changed: how it is, why, and since when, as its node last reported.
        ready: reported by the guest through the context broker: None, "ready", or "failed: REASON".
        host_keys: SSH host keys that the guest published, one line each.
        guest_addresses: addresses that the guest published: its own word, which counts where its node sees none.
        held: its capacity is reserved, and its node does not know of it yet: it starts later, with its cluster.
        disk: bytes that it may come to take of its node's disk.
        removed_from_node: its node has nothing of it any more.
        reserved_cost: what is set aside for it of an account's cap at EC2; None elsewhere.
    """

    uuid: Uuid
    deployment: Uuid
    node: Uuid | None = None
    number: int
    hostname: str
    image_id: ImageId
    title: str
    desired: DesiredStatus
    desired_reason: str = ""
    created: Instant
    expires: Instant
    reboots: int = 0
    role: str = ""
    ready: str | None = None
    host_keys: tuple[str, ...] = ()
    guest_addresses: tuple[str, ...] = ()
    held: bool = False
    disk: int = 0
    removed_from_node: bool = False
    reserved_cost: CostReservation | None = None


class SiteMachine(DeployedMachine):
    """One machine of a deployment as the site keeps it; its state is `pending` until its node reports it.

    Attributes:
        warned: whether its owner was warned that it expires soon.
        context: its access to the context broker.
        saves: the last ones, the oldest first.
        migration: its last migration; None where no other node has anything of it.
        migrations: how often that was tried.
        migrated: the number of the migration that brought it where it is, if one did.
    """

    state: MachineState = MachineState.PENDING
    warned: bool = False
    context: BrokerAccess | None = None
    saves: tuple[SaveProgress, ...] = ()
    migration: Migration | None = None
    migrations: int = 0
    migrated: int | None = None

    def transition(self, *events: tuple[str, str], **changes: object) -> "MachineTransition":
        """The machine with other values in some fields, and the events of that: (what, reason), in order."""
        return MachineTransition(self.model_copy(update=changes), events)

    @property
    def ending(self) -> bool:
        """Whether it has ended, or is to end."""
        return self.state.final or self.desired is DesiredStatus.ENDED

    @property
    def saving(self) -> SaveProgress | None:
        """The save that is under way, if there is one."""
        return self.saves[-1] if self.saves and self.saves[-1].state not in {"saved", "failed"} else None

    @property
    def withheld(self) -> bool:
        """Whether its node is not to know of it yet, and so does not report it. One that is to end is held no more."""
        return self.held and self.desired is not DesiredStatus.ENDED

    @property
    def migrating(self) -> Migration | None:
        """The migration that is under way; None once the machine is the target's, or is to end."""
        migration = self.migration
        return None if migration is None or migration.phase != "migrating" or self.ending else migration

    @property
    def other_node(self) -> str | None:
        """The other node that has, or may come to have, something of it: capacity is kept for it there."""
        if self.migration is not None and self.migration.phase == "dropping":
            return self.migration.source
        return self.migrating.target if self.migrating else None

    def desired_machine(self, request: DeploymentRequest) -> DesiredMachine:
        """The machine as its node has to make it; fields of both documents that have one name mean the same but `reason`."""
        save, migration = self.saving, self.migrating
        same = {name: getattr(self, name) for name in DesiredMachine.model_fields if name in SiteMachine.model_fields}
        return DesiredMachine(
            **same | {"reason": self.desired_reason},
            user_data=request.user_data,
            public_keys=request.public_keys,
            save=DesiredSave(number=save.number, version=save.version) if save else None,
            outgoing=OutgoingMigration(number=migration.number, to=migration.target) if migration else None,
        )


class SiteEvent(Document):
    """An event: what happened to an object. Events are stored and streamed.

    Attributes:
        number: grows by one with each event of the site.
        at: when.
        kind: "deployment", "machine", "node", "cluster".
        subject: the UUID of what it happened to.
        deployment: what that belongs to, or None.
        what: the new state, or a verb: "running", "extended", "warned", "lost".
        reason: a sentence, or empty.
    """

    number: Annotated[int, Field(ge=0)]
    at: Instant
    kind: str
    subject: Uuid
    deployment: Uuid | None = None
    what: str
    reason: str = ""


class AuditRecord(Document):
    """An event, its actor, and the owner of its object.

    Attributes:
        event: see there.
        by: the identity of who did it (issuer and subject); empty for what the site did by itself, and for what was done
            before that was written down.
        owner, vo: of the object; empty where it has no owner.
    """

    event: SiteEvent
    by: str = ""
    owner: str = ""
    vo: str = ""


class AuditFilter(Document):
    """Which entries of the audit are wanted; what is empty does not matter.

    Attributes:
        by: who did it.
        owner, vo: of the object.
        subject: the UUID of the object.
        since, until: instants.
    """

    by: str = ""
    owner: str = ""
    vo: str = ""
    subject: str = ""
    since: Instant | None = None
    until: Instant | None = None


class ListFilter(Document):
    """Which machines or deployments a list should have. What is None does not matter."""

    owner: str | None = None
    vo: str | None = None
    image_id: ImageId | None = None
    node: Uuid | None = None
    deployment: Uuid | None = None
    cluster: Uuid | None = None
    states: tuple[MachineState, ...] | None = None


@dataclass(frozen=True)
class MachineTransition:
    """A machine as it is now, and the events of its change: (what, reason), in order."""

    machine: SiteMachine
    events: tuple[tuple[str, str], ...] = ()
