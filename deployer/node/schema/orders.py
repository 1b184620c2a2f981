"""What commands and a node's service say to each other: one type per message, used by both sides."""

from datetime import datetime
from typing import Any, Literal

from catalog.image.manifest import ImageId
from deployer.hypervisor.accelerator import Accelerator
from deployer.machine.spec import Uuid
from deployer.machine.state import MachineState
from deployer.records.machine_store import MachineRecord
from signer.documents import Document
from signer.statements.endorsement import Instant

NODE_API_VERSION = "v2"
RETIRED_NODE_API_VERSIONS = ("v1",)

MAX_ORDER = 64 << 10
"""Bytes of an order: user-data of 16 KiB in base64, and some names."""

MAX_STEP = 4 << 20
"""Bytes of one line of a deployment's progress: the last carries the records of all its machines."""

MAX_WAIT = 20.0
"""Seconds that an answer may be waited for on the server's side; a client asks again."""


class DeploymentResult(Document):
    """What came of an order: the machines that run, and the bytes that it took to get there."""

    image_id: ImageId
    title: str
    machines: tuple[MachineRecord, ...]
    accelerator: Accelerator


StepName = Literal["resolved", "decided", "staging", "staged", "verified", "assembled", "running", "done", "failed"]


class DeploymentStep(Document):
    """One line of a deployment's progress.

    Attributes:
        step: what was just done.
        text: the same for people, or empty.
        machine: the machine's name, where it is about one.
        done, total: bytes staged so far and in all.
        milliseconds: since the order was taken.
        decision: with "decided", the decision as JSON.
        result: with "done".
        problem: with "failed": the error as a problem document (RFC 9457).
    """

    step: StepName
    text: str = ""
    machine: str | None = None
    done: int | None = None
    total: int | None = None
    milliseconds: int = 0
    decision: dict[str, Any] | None = None
    result: DeploymentResult | None = None
    problem: dict[str, Any] | None = None


class NodeStatus(Document):
    """How a node is doing.

    Attributes:
        node: its identity, a UUID.
        directory: where it keeps everything.
        catalog: the URL that it stages from.
        fresh_until: when what is known to be current expires; from then on nothing new starts.
        fresh_problem: what keeps machines from starting, or soon will, about what is current.
        policy: the policy's file.
        policy_digest: of the set in force, if there is one.
        policy_problem: why what the files say now, or the policy in the shadow, is not in force.
        shadow_digest: of the set that decides in its shadow.
        audit: the head of the audit log, to be remembered elsewhere.
        hypervisor: name and version.
        accelerator: what machines run on, and why.
        machines: how many are in each state.
        site: the URL of the site that it works for, if it joined one.
        site_problem: why it cannot.
    """

    node: str
    directory: str
    catalog: str
    fresh_until: Instant | None = None
    fresh_problem: str | None = None
    policy: str
    policy_digest: str | None = None
    policy_problem: str | None = None
    shadow_digest: str | None = None
    audit: str = ""
    hypervisor: str
    accelerator: Accelerator
    machines: dict[str, int]
    site: str | None = None
    site_problem: str | None = None


class MachineList(Document):
    """All machines of a node, the oldest first."""

    machines: tuple[MachineRecord, ...]


class ExposedMachine(Document):
    """A machine that runs.

    Attributes:
        since: when it was accepted.
        endorsers: who vouched for its image when it was booted.
        affected: whether it would not be accepted any more, for what has been withdrawn since.
        reason: why, as a sentence; empty if it is not affected.
    """

    uuid: Uuid
    name: str
    state: MachineState
    image_id: str
    title: str
    since: datetime
    endorsers: tuple[str, ...]
    affected: bool
    reason: str


class ExposureList(Document):
    """Machines that run something, the oldest first; `action` is what the policy does to those that are affected."""

    machines: tuple[ExposedMachine, ...]
    action: str
