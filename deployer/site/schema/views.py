"""Machines and deployments as the API shows them: models of their own, apart from the documents that the site stores.

What is stored may change with a migration; what is shown changes only on purpose. Secrets are not shown: a machine's for
the context broker to nobody, and user-data, which may hold passwords, to the deployment's owner alone.
"""

from typing import Any, Self

from pydantic import BaseModel

from catalog.image.manifest import ImageId, Version
from deployer.machine.properties import MachineProperties
from deployer.machine.spec import Uuid
from deployer.machine.state import MachineState
from deployer.protocol.deployment_request import DeploymentRequest
from deployer.protocol.desired_state import DesiredStatus
from deployer.site.model.principal import Principal
from deployer.site.model.records import Deployment, SiteMachine
from signer.documents import Document
from signer.statements.endorsement import Instant


def _same(view: type[BaseModel], kept: BaseModel) -> dict[str, Any]:
    """The members of a view that a stored document has under the same names."""
    return {name: getattr(kept, name) for name in view.model_fields if name in type(kept).model_fields}


class SaveView(Document):
    """How far saving a machine as a new version of its image is.

    Attributes:
        number: of the machine's saves, from 1.
        version: of the new image.
        asked: when it was requested.
        state: "asked", "reading", "sending", "saved" or "failed".
        reason: why it failed.
        image_id, title: of the new image, once it is known.
        changed: labels of the partitions that have other contents than the image.
        done, total: bytes so far, and in all.
    """

    number: int
    version: Version
    asked: Instant
    state: str
    reason: str = ""
    image_id: ImageId | None = None
    title: str = ""
    changed: tuple[str, ...] = ()
    done: int = 0
    total: int = 0


class MigrationView(Document):
    """That a machine goes from one node to another.

    Attributes:
        source, target: the nodes.
        then: how it should be when it is there.
        phase: "moving" while it is the source's; "dropping" once it is the target's and the source still has a copy.
        done, total: bytes that the target has of the machine's own files, and in all.
        reason: why it is migrated.
    """

    source: Uuid
    target: Uuid
    then: DesiredStatus
    phase: str
    done: int = 0
    total: int = 0
    reason: str = ""


class ReservationView(Document):
    """What a machine at EC2 was admitted as: its type, and the GiB of its volumes."""

    instance_type: str
    gib: int


class MachineView(MachineProperties):
    """A machine.

    Attributes:
        node: where it is; None while no node is chosen.
        number: within its deployment, from 1.
        want, want_reason: how it should be, and why.
        state, reason, changed: how it is, why, and since when, as its node last reported.
        addresses, from_network, from_cache, fetched, total, virt: as last reported.
        ready: reported by the guest through the context broker: None, "ready", or "failed: REASON".
        host_keys: SSH host keys that the guest published, one line each.
        said: addresses that the guest published.
        held: its capacity is reserved, and it starts later, with its cluster.
        disk: bytes that it may come to take of its node's disk.
        gone: its node has nothing of it any more.
        saves: the last ones, the oldest first.
        promise: what its cost at EC2 was estimated by; None elsewhere.
        suspends: whether it can rest with its memory.
        move: its last migration; None where no other node has anything of it.
        moving: whether that is under way.
    """

    uuid: Uuid
    deployment: Uuid
    node: Uuid | None = None
    number: int
    hostname: str
    image_id: ImageId
    title: str
    want: DesiredStatus
    want_reason: str = ""
    state: MachineState
    reason: str = ""
    created: Instant
    changed: Instant
    expires: Instant
    reboots: int = 0
    addresses: tuple[str, ...] = ()
    from_network: int = 0
    from_cache: int = 0
    fetched: int = 0
    total: int = 0
    virt: str = ""
    role: str = ""
    ready: str | None = None
    host_keys: tuple[str, ...] = ()
    said: tuple[str, ...] = ()
    held: bool = False
    disk: int = 0
    gone: bool = False
    saves: tuple[SaveView, ...] = ()
    promise: ReservationView | None = None
    suspends: bool = True
    move: MigrationView | None = None
    moving: bool = False

    @classmethod
    def of(cls, machine: SiteMachine) -> Self:
        """A machine as everybody sees it who may see it at all."""
        parts = {
            "held": machine.withheld,
            "moving": machine.moving is not None,
            "saves": tuple(SaveView(**_same(SaveView, one)) for one in machine.saves),
            "promise": machine.promise and ReservationView(**_same(ReservationView, machine.promise)),
            "move": machine.move and MigrationView(**_same(MigrationView, machine.move)),
        }
        return cls(**(_same(cls, machine) | parts))

    @property
    def known(self) -> tuple[str, ...]:
        """Its addresses for people: as its node sees them, else as its guest says. No certificate is for the latter."""
        return self.addresses or (self.said if self.state is MachineState.RUNNING else ())


class DeploymentView(Document):
    """A deployment.

    Attributes:
        owner: who requested it; their VO's administrators and the site's security may manage it too.
        request: as it was made; `image_id` and `title` are what its reference meant then.
        created, expires: instants.
        policy: digest of the policy that admitted it.
        decision: of the policy, as JSON, rule by rule.
        placement: why machines run where they do, in sentences, node by node.
        cluster, role: the cluster and role that it belongs to, or None and empty.
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

    @classmethod
    def of(cls, deployment: Deployment, who: Principal) -> Self:
        """A deployment as somebody sees it."""
        request = deployment.request
        if who.identity != deployment.owner.identity:
            request = request.model_copy(update={"user_data": None})
        return cls(**(_same(cls, deployment) | {"request": request}))
