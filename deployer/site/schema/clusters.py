"""Requests to a site about clusters, and its answers: one type per message, for both sides."""

from typing import Annotated, Self

from pydantic import ConfigDict, Field, model_validator

from catalog.image.manifest import ImageId
from deployer.machine.spec import Uuid
from deployer.protocol.machine_order import MAX_COUNT
from deployer.site.model.cluster import ClusterDocument, ClusterPhase, RoleName
from deployer.site.model.principal import Principal
from deployer.site.schema.messages import DecisionView, ReasonRequest
from deployer.site.schema.views import MachineView
from signer.documents import Document, example
from signer.statements.endorsement import Instant


class ClusterRequest(Document):
    """An order for a cluster: for the given document, or for a published one.

    Attributes:
        document: what.
        reference: or the name that it was published under, VO/NAME@VERSION or VO/NAME.
        name: the cluster's own, instead of the document's.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "document": {
                        "name": "star",
                        "roles": {
                            "head": {"image": "star/head@1.0", "provides": ["batch"]},
                            "worker": {"image": "star/worker@1.0", "count": 4, "requires": ["batch"]},
                        },
                    }
                }
            ]
        }
    )

    document: ClusterDocument | None = None
    reference: Annotated[str, Field(max_length=300)] = ""
    name: RoleName | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.document is None) == (not self.reference):
            raise ValueError("a cluster is ordered either by its document or by the name that one was published under")
        return self


class ScaleRequest(ReasonRequest):
    """How many members a role should have."""

    model_config = example(role="worker", count=8)

    role: RoleName
    count: Annotated[int, Field(ge=0, le=MAX_COUNT)]


class ReplaceRequest(ReasonRequest):
    """Which member should be another machine: its host name, its machine's UUID, or the beginning of that."""

    model_config = example(member="star-worker-2", reason="it is slow")

    member: Annotated[str, Field(min_length=1, max_length=255)]


class RoleStatus(Document):
    """How a role is doing.

    Attributes:
        count, quorum: members asked for, and how many of them the cluster needs to be of use.
        ready, running, present: members that are ready; that boot or run; that are neither failed nor on their way out.
        reason: why members are not there and do not come now: there was no capacity at the last try, or they failed too often.
    """

    count: int
    quorum: int
    ready: int
    running: int
    present: int
    reason: str = ""


class RoleView(RoleStatus):
    """A role as people see it.

    Attributes:
        image_id: what it runs; empty before that is known.
        waits_for: roles that must be there first, and are not.
    """

    image_id: ImageId | None = None
    waits_for: tuple[str, ...] = ()


class ClusterSummary(Document):
    """A cluster in a list.

    Attributes:
        phase, reason, changed: how far it is, why, and since when.
        roles: members wanted in each.
    """

    uuid: Uuid
    owner: Principal
    name: str
    reference: str = ""
    phase: ClusterPhase
    reason: str = ""
    changed: Instant
    created: Instant
    expires: Instant
    roles: dict[str, int]


class ClusterView(ClusterSummary):
    """A cluster whole.

    Attributes:
        document: as it was asked for.
        status: each role's.
        members: machines that have not ended, by role and host name; and each that failed, after them.
        failed: why members failed, by their machines' UUIDs.
        new: whether it was made by this very request.
    """

    document: ClusterDocument
    status: dict[str, RoleView]
    members: tuple[MachineView, ...] = ()
    failed: dict[Uuid, str] = Field(default_factory=dict)
    new: bool = False


class RoleDryRun(DecisionView):
    """The result of a role's dry run.

    Attributes:
        accepted: whether the policy accepts it.
        count, quorum: members, and for how many of them capacity is reserved at once or not at all.
        placed, nodes: how many would have capacity now, and on which nodes (UUID) how many.
        problem: the quota or the lack of capacity that would refuse it; empty if nothing does.
        begins, ready: seconds until its members are started, and until the last of them is ready; None: nothing is known.
    """

    accepted: bool
    count: int
    quorum: int
    placed: int
    nodes: dict[Uuid, int] = Field(default_factory=dict)
    problem: str = ""
    begins: float | None = None
    ready: float | None = None


class ClusterDryRun(Document):
    """The result of a cluster's dry run.

    Attributes:
        accepted: whether the policy accepts every role.
        placed: whether all members, or each role's quorum, have capacity and are within quotas, all together.
        problems: what else is in the way.
        order: roles that start together, one step after the other.
        fetch: for each node, the bytes that it would fetch for the whole.
        seconds: until the whole is ready, along that order; None where nothing is known.
    """

    name: str
    accepted: bool
    placed: bool
    problems: tuple[str, ...] = ()
    order: tuple[tuple[str, ...], ...]
    roles: dict[str, RoleDryRun]
    fetch: dict[Uuid, int] = Field(default_factory=dict)
    seconds: float | None = None


class ClusterPage(Document):
    """Clusters, the newest first; `next` is `after` of the page that follows, if there is one."""

    items: tuple[ClusterSummary, ...]
    next: str | None = None
