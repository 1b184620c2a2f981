"""Clusters as people write them, and as a site remembers them: roles, what each needs of the others, and how far it is.

A cluster document names roles. Each runs an image a number of times, provides names, and requires names that other roles
provide; that decides which role starts first and which members learn of which. Strict: a name that no role provides, a circle of
requirements, or a word that is not known here refuses the whole document. Source of the idea: Keahey and Freeman,
"Contextualization: Providing One-Click Virtual Clusters" (2008), and the paper of 2007 on virtual workspaces.
"""

import base64
import hashlib
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from enum import StrEnum
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, model_validator

from catalog.errors import Misused
from catalog.image.manifest import ImageId
from catalog.image.reference import Reference
from deployer.machine.properties import RequestedProperties
from deployer.machine.shape import MAX_MEMORY, MEMORY_UNIT, MIN_MEMORY
from deployer.machine.spec import Uuid
from deployer.machine.user_data import MAX_USER_DATA, check_user_data
from deployer.protocol.deployment_request import DeploymentRequest, PlacementOptions
from deployer.protocol.machine_order import MAX_COUNT
from deployer.site.model.principal import Principal
from signer.documents import Document, canonical, parse, parse_toml
from signer.errors import DocumentError, PartitaError
from signer.runtime.files import read_bounded
from signer.runtime.units import duration_text, parse_duration, parse_size, size_text
from signer.statements.endorsement import Instant

MAX_ROLES = 32
"""Roles of one cluster: a program writes more, and people cannot follow which waits for which."""

MAX_CLUSTER = 1 << 20
"""Bytes of a cluster document: user-data of 16 KiB for each role, and keys."""

MAX_REPLACED = 100
"""Times that one member may be replaced: an image that needs more does not work."""

_SLOT = re.compile(r"[1-9][0-9]{0,3}")
"""A member's number."""

RoleName = Annotated[str, Field(pattern=r"^[a-z]([a-z0-9-]{0,22}[a-z0-9])?$")]
"""Goes into host names: NAME-ROLE-NUMBER must fit into 63 characters (RFC 1123, section 2.1)."""

ServiceName = Annotated[str, Field(pattern=r"^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$")]


def _passes(check: Callable[[str], object]) -> AfterValidator:
    """A validator of a text that a function refuses by raising an error of Partita's."""

    def checked(text: str) -> str:
        try:
            check(text)
        except PartitaError as exc:
            raise ValueError(str(exc)) from exc
        return text

    return AfterValidator(checked)


def _whole_units(size: int) -> int:
    if size % MEMORY_UNIT:
        raise ValueError("memory comes in whole MiB")
    return size


DurationSeconds = Annotated[
    int, BeforeValidator(parse_duration), Field(ge=1, le=10 * 365 * 86400), PlainSerializer(duration_text)
]
"""A duration as people write it, such as `12h`."""

MemorySize = Annotated[
    int,
    BeforeValidator(parse_size),
    AfterValidator(_whole_units),
    Field(ge=MIN_MEMORY, le=MAX_MEMORY),
    PlainSerializer(size_text),
]
"""Memory as people write it, such as `2GiB`."""


class ClusterRole(RequestedProperties):
    """One role of a cluster.

    Attributes:
        image: an image ID, VO/NAME@VERSION or VO/NAME; which image a name means is settled when the cluster is made.
        count: members.
        quorum: how many must be ready for the cluster to be of use; all of them if not given.
        lifetime: of each member; that of the cluster if not given.
        user_data: the text itself, for people write these documents; else as a requester's.
        provides: names that other roles may require.
        requires: names that must be there first, and about whose providers' members this role's learn. A name that only
            the role itself provides lets its members find each other, and nothing waits for it.
        watches: names about whose providers' members this role's learn as well, as they come and go, and for which nothing
            waits: a head watches the workers that require it.
        starts: when what it requires is "ready", or already when that is "booting".
        ready: how a member is known to be ready: it has "reported" so through the context broker, or it is "running".
        ready_within: how long after it began to run a member may take to be ready; then it has failed.
        replace: how often a failed member is replaced; 0 leaves it as it is.
        wishes: options of the members' placement; the cluster's `start` decides whether all are needed or a quorum. The
            name is part of documents that are endorsed.
    """

    image: Annotated[str, Field(min_length=1, max_length=300), _passes(Reference.parse)]
    count: Annotated[int, Field(ge=1, le=MAX_COUNT)] = 1
    quorum: Annotated[int, Field(ge=1, le=MAX_COUNT)] | None = None
    memory: MemorySize | None = None
    max_memory: MemorySize | None = None
    lifetime: DurationSeconds | None = None
    user_data: (
        Annotated[str, Field(max_length=MAX_USER_DATA), _passes(lambda text: check_user_data(text.encode()))] | None
    ) = None
    verify: Annotated[Literal["sample", "full"], Field(exclude_if=lambda value: value == "sample")] = "sample"
    provides: Annotated[tuple[ServiceName, ...], Field(max_length=16)] = ()
    requires: Annotated[tuple[ServiceName, ...], Field(max_length=16)] = ()
    watches: Annotated[tuple[ServiceName, ...], Field(max_length=16)] | None = None
    starts: Literal["ready", "booting"] = "ready"
    ready: Literal["reported", "running"] = "reported"
    ready_within: DurationSeconds = 900
    replace: Annotated[int, Field(ge=0, le=MAX_REPLACED)] = 3
    wishes: PlacementOptions = PlacementOptions()

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if self.quorum is not None and self.quorum > self.count:
            raise ValueError(f"the quorum of {self.quorum} is more than the {self.count} members; one of them is wrong")
        known = ((self.provides, "provides"), (self.requires, "requires"), (self.watches or (), "watches"))
        for names, what in known:
            if len(set(names)) != len(names):
                raise ValueError(f"a name is listed twice under {what}; keep one")
        for begins, most, what in (
            (self.memory, self.max_memory, "max_memory"),
            (self.cores, self.max_cores, "max_cores"),
        ):
            if begins is not None and most is not None and most < begins:
                raise ValueError(f"{what} is less than what a member begins with; one of them is wrong")
        return self

    def request(self, image: str, lifetime: int, hostnames: tuple[str, ...], *, whole: bool) -> DeploymentRequest:
        """The order for some of its members.

        Args:
            image: what to run: the very image once that is known.
            lifetime: seconds.
            hostnames: of the members wanted, one each.
            whole: all of them or none.
        """
        encoded = None if self.user_data is None else base64.b64encode(self.user_data.encode()).decode("ascii")
        return DeploymentRequest(
            **(self.requested() | {"user_data": encoded}),
            image=image,
            count=len(hostnames),
            lifetime=lifetime,
            hostnames=hostnames,
            placement_options=self.wishes.model_copy(update={"whole": whole}),
        )


class ClusterDocument(Document):
    """A cluster as its owner describes it.

    Attributes:
        name: begins its members' host names.
        start: "all" members come up or none does; or each role's "quorum" is enough, and the rest follow as there is capacity.
        lifetime: of the cluster; the site's default if not given.
        start_within: how long it may take to be of use; then it is given up, and all of it ended.
        roles: by name.
    """

    name: RoleName
    start: Literal["all", "quorum"] = "all"
    lifetime: DurationSeconds | None = None
    start_within: DurationSeconds = 3600
    roles: Annotated[dict[RoleName, ClusterRole], Field(min_length=1, max_length=MAX_ROLES)]

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if sum(role.count for role in self.roles.values()) > MAX_COUNT:
            raise ValueError(f"a cluster has at most {MAX_COUNT} members")
        provided = {name for role in self.roles.values() for name in role.provides}
        for name, role in self.roles.items():
            for needs, names in (("requires", role.requires), ("watches", role.watches or ())):
                if missing := sorted(set(names) - provided):
                    raise ValueError(
                        f"the role {name} {needs} {missing[0]!r}, and no role provides that; "
                        "add it to the `provides` of the role that does"
                    )
        if circle := _circle({name: self.before(name) for name in self.roles}):
            raise ValueError(f"roles wait for each other in a circle: {' -> '.join(circle)}; none could ever start")
        return self

    def providers(self, role: str) -> tuple[str, ...]:
        """The roles about whose members that role's members learn, by name; may hold the role itself."""
        wanted = set(self.roles[role].requires)
        return tuple(sorted(name for name, one in self.roles.items() if wanted & set(one.provides)))

    def watched(self, role: str) -> tuple[str, ...]:
        """The roles about whose members that role's members learn in addition to those that it requires, by name."""
        watches = set(self.roles[role].watches or ())
        required = self.providers(role)
        return tuple(
            sorted(name for name, one in self.roles.items() if watches & set(one.provides) and name not in required)
        )

    def before(self, role: str) -> tuple[str, ...]:
        """The roles that must be there before that role starts, by name."""
        return tuple(name for name in self.providers(role) if name != role)

    def initial_count(self, role: str) -> int:
        """How many of a role's members have capacity reserved at once: all, or the quorum."""
        known = self.roles[role]
        return known.count if self.start == "all" else known.quorum or known.count

    def initial_request(self, role: str, lifetime: int) -> DeploymentRequest:
        """The order for the members of a role whose capacity is reserved at once; seconds."""
        hostnames = tuple(self.hostname(role, slot) for slot in range(1, self.initial_count(role) + 1))
        return self.roles[role].request(self.roles[role].image, lifetime, hostnames, whole=True)

    def hostname(self, role: str, slot: int) -> str:
        """The host name of a role's member; slots count from 1."""
        return f"{self.name}-{role}-{slot}"

    def slot(self, role: str, hostname: str) -> int:
        """Which of a role's members has that host name; 0 if none has."""
        number = hostname.removeprefix(f"{self.name}-{role}-")
        return int(number) if number != hostname and _SLOT.fullmatch(number) else 0

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical document, 64 hex digits: what an endorsement of it names."""
        return hashlib.sha256(canonical(self)).hexdigest()


def read_cluster(path: Path) -> ClusterDocument:
    """A cluster document from a file: JSON where its name ends in `.json`, else TOML.

    Raises:
        Misused: it cannot be read, or is not a valid cluster; names the file and the place.
    """
    data = read_bounded(path, MAX_CLUSTER, Misused)
    read = parse if path.suffix == ".json" else parse_toml
    try:
        return read(ClusterDocument, data, str(path), limit=MAX_CLUSTER)
    except DocumentError as exc:
        raise Misused(str(exc)) from exc


class ClusterPhase(StrEnum):
    """How far a cluster is.

    `admitting`: capacity is being reserved for its members, none has started. `starting`: not of use yet. `ready`: all members
    are. `degraded`: each role's quorum is ready, or was, and something is lacking. `failed`: given up, the reason says
    why. `ending` and `ended`: on request, or because it has expired.
    """

    ADMITTING = "admitting"
    STARTING = "starting"
    READY = "ready"
    DEGRADED = "degraded"
    FAILED = "failed"
    ENDING = "ending"
    ENDED = "ended"


class AdmissionRetry(Document):
    """A failed attempt to get members: the reason, as a sentence, and the time of the next attempt."""

    until: Instant
    why: str


class ClusterState(Document):
    """How far a cluster is, and what a site has to remember about that.

    Attributes:
        phase, reason: where it is, and why (a sentence or empty).
        changed: when that began.
        counts: members wanted in each role: as in the document, until the role is scaled.
        images: the very image that each role runs.
        was_ready: whether it has been of use once; before that a start of all or none is undone when it fails.
        expires: nothing is started any more after that.
        reference: what was deployed, where that was published in a catalog: VO/NAME@VERSION.
        key: the idempotency key that it was asked for with, or empty.
        failed: members that failed, and why, or empty where that was forgiven; written before they are ended, so that none
            is counted twice.
        draining: members that were asked to power off, and when.
        waits: roles whose members could not be had.
        finished: nothing has to be done for it any more: it has ended, or was given up, and so have all members.
    """

    phase: ClusterPhase
    reason: str = ""
    changed: Instant
    expires: Instant
    reference: str = ""
    key: str = ""
    counts: dict[str, int]
    images: dict[str, ImageId] = Field(default_factory=dict)
    was_ready: bool = False
    failed: dict[Uuid, str] = Field(default_factory=dict)
    draining: dict[Uuid, Instant] = Field(default_factory=dict)
    waits: dict[str, AdmissionRetry] = Field(default_factory=dict)
    finished: bool = False


D = TypeVar("D", bound=Document)


def _stored_text(model: type[D]) -> Any:
    """The annotations of a member that is stored as the text of a canonical document."""
    return (
        BeforeValidator(lambda value: parse(model, value.encode(), "cluster") if isinstance(value, str) else value),
        PlainSerializer(lambda value: canonical(value).decode(), return_type=str, when_used="json"),
    )


class Cluster(Document):
    """A cluster of a site.

    Attributes:
        owner: who asked for it, as whom its members are admitted.
        name: from the document.
        active: whether the controller has to look at it: not `state.finished`.
    """

    uuid: Uuid
    owner: Principal
    name: str
    document: Annotated[ClusterDocument, *_stored_text(ClusterDocument)]
    created: Instant
    state: Annotated[ClusterState, *_stored_text(ClusterState)]
    active: bool = True

    @property
    def expires(self) -> datetime:
        """When it expires."""
        return self.state.expires

    def need(self, role: str) -> int:
        """How many of a role's members must be ready for the cluster to be of use."""
        count = self.state.counts[role]
        if self.document.start == "all" and not self.state.was_ready:
            return count
        quorum = self.document.roles[role].quorum
        return count if quorum is None else min(quorum, count)

    def remaining(self, role: str, now: datetime) -> int:
        """Seconds that a member of that role which is made now may live, 0 or less when it has expired."""
        lifetime = self.document.roles[role].lifetime
        left = int((self.expires - now).total_seconds())
        return left if lifetime is None else min(left, lifetime)


def _circle(before: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Roles that wait for each other, the first one again at the end; empty if there are none."""
    try:
        TopologicalSorter(before).prepare()
    except CycleError as exc:
        circle: list[str] = exc.args[1][:0:-1]  # from each role to the one before it
        first = circle.index(min(circle))
        return [*circle[first:], *circle[: first + 1]]
    return []
