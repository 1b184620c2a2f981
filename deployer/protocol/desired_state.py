"""What a site and its nodes say to each other: which machines should exist, and which do.

A site never tells a node to *do* something. It says how things should be, with a revision that grows; the node's agent
compares that with what is, acts, and reports. So either side may die at any moment, and every message may come twice.
"""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from catalog.image.manifest import ImageId
from deployer.machine.properties import FirstBootData, MachineProperties
from deployer.machine.spec import Uuid
from deployer.machine.state import MachineState
from deployer.protocol.deployment_request import NodeLabel
from deployer.protocol.migration import MigrationProgress, MigrationSupport, OutgoingMigration
from deployer.protocol.save import DesiredSave, SaveStatus
from deployer.protocol.swarm_report import SwarmReport
from signer.documents import Document, check_base64
from signer.statements.endorsement import Instant

MAX_REPORT = 16 << 20
"""Bytes of a report, and of a desired state: some thousand machines and contents."""


MAX_CONSOLE_CHUNK = 1 << 20
"""Bytes of a console in one answer."""


class DesiredStatus(StrEnum):
    """How a machine should be."""

    RUNNING = "running"
    PAUSED = "paused"
    SUSPENDED = "suspended"
    STOPPED = "stopped"
    ENDED = "ended"


class BrokerAccess(Document):
    """How a machine reaches its site's context broker.

    Attributes:
        url: of the broker, as the guest sees it.
        secret: good once, for this machine alone; never logged.
        fingerprint: SHA-256 of the certificate that the broker shows (64 hex digits); empty without TLS.
    """

    url: Annotated[str, Field(pattern=r"^https?://", max_length=1024)]
    secret: Annotated[str, Field(min_length=20, max_length=200)]
    fingerprint: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""


class DesiredMachine(MachineProperties, FirstBootData):
    """One machine as it should be.

    Attributes:
        uuid: made by the site; everywhere the same.
        deployment: what it belongs to.
        desired: how it should be.
        reason: why it should be ended or stopped, in a sentence.
        image_id: exactly this image; never a name.
        hostname: as asked.
        expires: when its time is over.
        reboots: how many reboots were requested; a node that has done fewer does one.
        role: in its cluster, or empty.
        context: how it reaches the broker, if it has one.
        vendor_data: cloud-config that the site adds to the seed, base64, or None.
        save: it should be saved, and has not been reported to be.
        outgoing: the node that it is given to; it rests meanwhile.
        migrated: the number of the migration that brought it here: it has a life already, and is never made anew.
    """

    uuid: Uuid
    deployment: Uuid
    desired: DesiredStatus
    reason: str = ""
    image_id: ImageId
    hostname: str
    expires: Instant
    reboots: Annotated[int, Field(ge=0)] = 0
    role: str = ""
    context: BrokerAccess | None = None
    vendor_data: str | None = None
    save: DesiredSave | None = None
    outgoing: OutgoingMigration | None = None
    migrated: int | None = None


class IncomingMigration(Document):
    """A machine that is to be brought here from another node, and is that node's until the site says otherwise.

    Attributes:
        number: of the migration.
        source: the node that has it.
        url: where that node gives it.
        machine: as it is wanted there.
    """

    number: Annotated[int, Field(ge=1)]
    source: Uuid
    url: Annotated[str, Field(pattern=r"^https://", max_length=1024)]
    machine: DesiredMachine


class ConsoleRequest(Document):
    """A question for what a machine's guest wrote to its serial console.

    Attributes:
        id: goes with the answer.
        machine: whose.
        most: bytes at most.
        after: the first byte wanted; None: the last ones.
        wait: seconds to wait for bytes that are not there yet, with `after`.
    """

    id: Uuid
    machine: Uuid
    most: Annotated[int, Field(ge=1, le=MAX_CONSOLE_CHUNK)]
    after: Annotated[int, Field(ge=0)] | None = None
    wait: Annotated[float, Field(ge=0, le=60)] = 0.0


class ConsoleResponse(Document):
    """Console output of a guest.

    Attributes:
        id: of the question.
        state: of the machine; None where the node has no such machine of the site's, or cannot read its console.
        start: where the bytes begin.
        data: base64.
    """

    id: Uuid
    state: MachineState | None = None
    start: Annotated[int, Field(ge=0)] = 0
    data: Annotated[str, Field(max_length=MAX_CONSOLE_CHUNK // 3 * 4 + 4), AfterValidator(check_base64)] = ""


class DesiredState(Document):
    """All machines that a node should have.

    Attributes:
        revision: grows with every change of this node's machines.
        draining: the node gets no more machines.
        machines: those that should exist, and those that should end and have not been reported gone.
        console_requests: what the site asks beside that; then the revision is the one that is known already, and `machines` says
            nothing. Only for agents that say that they answer.
        incoming: those that should be brought from other nodes; None for none.
    """

    revision: Annotated[int, Field(ge=0)]
    draining: bool = False
    machines: tuple[DesiredMachine, ...] = ()
    console_requests: tuple[ConsoleRequest, ...] | None = None
    incoming: tuple[IncomingMigration, ...] | None = None


class MachineStatus(Document):
    """The status of a machine as its node reports it.

    Attributes:
        state, reason: as in the node's record.
        changed: when that began.
        addresses: as the hypervisor or the guest's agent reports them.
        fetched, total: bytes of its contents that are here, and in all, while it is staged.
        from_network, from_cache: bytes that were transferred, and were here.
        virt: the accelerator.
        suspends: whether it can rest with its memory: paused, or suspended.
    """

    state: MachineState
    reason: str = ""
    changed: Instant
    addresses: tuple[str, ...] = ()
    fetched: int = 0
    total: int = 0
    from_network: int = 0
    from_cache: int = 0
    virt: str = ""
    suspends: bool = True


class ObservedMachine(MachineStatus):
    """One machine as a node has it.

    Attributes:
        memory, cores: that it has now.
        reboots: that were done.
        saved: how far the last save of it is; None before the first.
    """

    uuid: Uuid
    memory: int = 0
    cores: int = 0
    reboots: int = 0
    saved: SaveStatus | None = None


class LeaseTerms(Document):
    """For how long machines of a site run on a node that hears nothing of it (docs/adr/0018-fencing-of-lost-nodes.md).

    Attributes:
        seconds: counted by the node from when it sent the last report that was answered.
        then: what it does to them: "pause" them until it hears of the site again, or "end" them.
    """

    seconds: Annotated[int, Field(ge=1)]
    then: Literal["pause", "end"] = "pause"


class ReportResponse(Document):
    """A site's response to a report: the lease on machines that the node has of it from now on, if it needs one."""

    lease: LeaseTerms | None = None


class Capacity(Document):
    """What a node has for machines, and what those that are none of the site's take of it. Sizes in bytes."""

    cores: Annotated[int, Field(ge=0)]
    memory: Annotated[int, Field(ge=0)]
    disk: Annotated[int, Field(ge=0)]
    taken_cores: Annotated[int, Field(ge=0)] = 0
    taken_memory: Annotated[int, Field(ge=0)] = 0


class NodeStatus(Document):
    """The status of a node as it reports it.

    Attributes:
        architecture, accelerator: what its machines run on.
        capacity: for machines.
        labels: what its operator says of it.
        problem: what keeps it from starting machines, or empty.
        swarm: who feeds it; None from a node that has nothing to tell.
        lease: seconds after which, hearing nothing of the site, the node lets none of its machines run: what it was told
            last. None: it promises nothing.
        migration_support: where and how it migrates machines; None if it does not.
    """

    architecture: str
    accelerator: str = ""
    capacity: Capacity
    labels: dict[NodeLabel, NodeLabel] = Field(default_factory=dict)
    problem: str = ""
    swarm: SwarmReport | None = None
    lease: Annotated[int, Field(ge=1)] | None = None
    migration_support: MigrationSupport | None = None


class NodeReport(NodeStatus):
    """How a node is.

    Attributes:
        revision: the last desired state that it acts on.
        cached: addresses of contents that are whole in its cache.
        machines: all those of the site.
        complete: whether `machines` is all of them; a machine of the site that a complete report lacks is gone.
        incoming: of machines that are being brought to it; None for none.
    """

    revision: Annotated[int, Field(ge=0)]
    cached: tuple[str, ...] = ()
    machines: tuple[ObservedMachine, ...] = ()
    complete: bool = True
    incoming: tuple[MigrationProgress, ...] | None = None
