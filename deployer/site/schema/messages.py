"""Requests of requesters, operators and nodes to a site's service, and its answers: one type per message, for both sides.

Machines and deployments travel as views (`views`), apart from what the site stores.
"""

from typing import Annotated, Any

from pydantic import Field

from catalog.image.manifest import Version
from deployer.machine.shape import Cores, Memory
from deployer.machine.spec import Uuid
from deployer.machine.state import MachineState
from deployer.protocol.swarm_report import Feed
from deployer.site.model.records import AuditRecord, SiteEvent, SiteNode
from deployer.site.schema.views import DeploymentView, MachineView
from signer.documents import Document, example
from signer.statements.endorsement import Instant

SITE_API_VERSION = "v2"
RETIRED_SITE_API_VERSIONS = ("v1",)

PAGE_SIZE = 100
MAX_PAGE = 1000
"""Items on a page: unless asked otherwise, and at most."""

MAX_WAIT = 30.0
"""Seconds that a long poll may be waited for on the service's side; a client asks again."""

MAX_SMALL = 16 << 10
"""Bytes of every request but an order, a report and a cluster: a certificate request and some names."""

MAX_ANSWER = 64 << 20
"""Bytes of any answer: a page of 1000 deployments with their policies' decisions."""

HEARTBEAT = 15.0
"""Seconds between two signs of life of a stream of events: less than what routers forget a connection after."""

MAX_IDEMPOTENCY_KEY = 200
"""Characters of an idempotency key."""


class JoinTokenRequest(Document):
    """What an operator asks for a node that is to join.

    Attributes:
        name: that the node will have; empty for what it calls itself.
        minutes: that the token is good for.
    """

    model_config = example(name="worker07", minutes=60)

    name: Annotated[str, Field(max_length=63, pattern=r"^([A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?)?$")] = ""
    minutes: Annotated[int, Field(ge=1, le=1440)] = 60


class JoinToken(Document):
    """What lets one node join, once.

    Attributes:
        token: a secret, a point, and the fingerprint of the site's CA, by which the node knows the site.
        expires: when it is good no longer.
        url: of the site.
    """

    token: str
    expires: Instant
    url: str


class CertificateRequest(Document):
    """A node's request for a fresh certificate (PKCS #10, PEM), for the same key or a new one."""

    model_config = example(request="-----BEGIN CERTIFICATE REQUEST-----\n...")

    request: Annotated[str, Field(max_length=4096)]


class SiteAnchors(Document):
    """By what a site is believed.

    Attributes:
        certificates: of its CA, and of the CA of the certificate that it shows where that is another (PEM).
        fingerprint: SHA-256 over them (DER, one after the other), 64 hex digits.
    """

    certificates: Annotated[str, Field(max_length=64 << 10)]
    fingerprint: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class LoginLink(Document):
    """By which the operator logs in on the console, once.

    Attributes:
        url: to open in a browser.
        expires: when it is good no longer.
    """

    url: str
    expires: Instant


class ReasonRequest(Document):
    """The reason of a request; kept with the event."""

    model_config = example(reason="maintenance of the storage")

    reason: Annotated[str, Field(max_length=500)] = ""


class SaveRequest(ReasonRequest):
    """As which version of its image a machine should be saved, and why (kept with the event)."""

    model_config = example(version="1.1", reason="the new calibration")

    version: Version


class VerbRequest(ReasonRequest):
    """The reason of a verb for a machine, and where the machine should go on.

    Attributes:
        node: where a machine that rests is to go on: a node's name or UUID. For `reactivate` alone.
        elsewhere: the same, on another node than it is on, whichever has the capacity and can. For `reactivate` alone.
    """

    model_config = example(reason="its node is needed", node="worker07")

    node: Annotated[str, Field(max_length=63)] = ""
    elsewhere: bool = False


class NodeVerbRequest(ReasonRequest):
    """The reason of a verb for a node.

    Attributes:
        migrate: the machines that rest there go to other nodes, as far as those can take them. For `drain` alone.
    """

    model_config = example(reason="maintenance of the storage", migrate=True)

    migrate: bool = False


class MachineChange(Document):
    """What of a machine should be otherwise. What is None stays.

    Attributes:
        expires: when it expires.
        lifetime: the same, in seconds from now.
        memory: bytes, whole MiB, within the machine's maximum.
        cores: within the machine's maximum.
    """

    model_config = example(lifetime=7200, memory=1073741824)

    expires: Instant | None = None
    lifetime: Annotated[int, Field(ge=1, le=10 * 365 * 86400)] | None = None
    memory: Memory | None = None
    cores: Cores | None = None


class ConsoleChunk(Document):
    """A part of a guest's serial console, as a stream carries it.

    Attributes:
        start: which byte of all that the guest ever wrote it begins with.
        data: base64.
        state: of the machine.
    """

    start: int
    data: str
    state: MachineState


class DeploymentCreated(Document):
    """The result of a request for machines.

    Attributes:
        deployment: see there.
        machines: in the order of their numbers.
        new: false where the idempotency key had been used for the very same request.
    """

    deployment: DeploymentView
    machines: tuple[MachineView, ...]
    new: bool = True


class DecisionView(Document):
    """The policy's decision on a request, and the placement of its machines.

    Attributes:
        image_id, title: what its reference meant then.
        decision: of the policy, rule by rule.
        placement: why machines run where they do, or why there is no capacity.
    """

    image_id: str
    title: str
    decision: dict[str, Any]
    placement: tuple[str, ...] = ()


class DryRunResult(DecisionView):
    """The result of a dry run.

    Attributes:
        accepted: whether the policy accepts it; where it does not, `decision` has the rules that refuse.
        placed: whether there is capacity.
        fetch: for each node, the bytes of contents that it would have to fetch.
        seconds: until the machines run, by what earlier ones took; None where nothing is known.
    """

    accepted: bool
    placed: bool = True
    fetch: dict[Uuid, int] = Field(default_factory=dict)
    seconds: float | None = None


class DeploymentExplanation(DecisionView):
    """Why a deployment was admitted, and why its machines run where they do."""

    deployment: Uuid
    policy: str


class DeploymentPage(Document):
    """Deployments, the newest first; `next` is `after` of the page that follows, if there is one."""

    items: tuple[DeploymentView, ...]
    next: str | None = None


class MachinePage(Document):
    """Machines, the newest first; `next` as for deployments."""

    items: tuple[MachineView, ...]
    next: str | None = None


class NodeList(Document):
    """All nodes, by name."""

    items: tuple[SiteNode, ...]


class SwarmMap(Document):
    """Who feeds whom: what is arriving first, then what came within the last minutes."""

    items: tuple[Feed, ...]


class EventPage(Document):
    """Events, the oldest first.

    Attributes:
        items: those after the number that was asked for, as far as the asker may see them.
        last: the number to ask for next: it has moved on over what the asker may not see, too.
        more: whether there are more already.
    """

    items: tuple[SiteEvent, ...]
    last: int
    more: bool = False


class AuditPage(Document):
    """What was done, the last first; `next` as for deployments."""

    items: tuple[AuditRecord, ...]
    next: str | None = None


class SiteStatus(Document):
    """How a site is doing.

    Attributes:
        url: by which it is reached.
        fingerprint: of its CA, as join tokens carry it.
        catalog: the URL that images come from.
        policy_digest: of the set in force, if there is one.
        problems: what keeps machines from starting, or soon will, in sentences.
        nodes, machines: how many are in each state.
        events: the number of the last one.
    """

    model_config = example(
        url="https://site.example.org:7443",
        fingerprint="5b" * 32,
        catalog="https://catalog.example.org",
        policy_digest="sha256:" + "1c" * 32,
        problems=[],
        nodes={"ready": 12},
        machines={"running": 40},
        events=3025,
    )

    url: str
    fingerprint: str
    catalog: str
    policy_digest: str | None = None
    problems: tuple[str, ...] = ()
    nodes: dict[str, int]
    machines: dict[str, int]
    events: int
