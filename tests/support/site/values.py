"""Values of a site for its tests, valid and small: principals, proposals, reports, and a store with a clock that stands."""

import threading
import uuid
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from deployer.machine.network import Network
from deployer.machine.properties import MachineProperties
from deployer.machine.state import MachineState
from deployer.policy.decision import Decision, RuleResult
from deployer.protocol.deployment_request import DeploymentRequest, PlacementOptions
from deployer.protocol.desired_state import Capacity, DesiredStatus, NodeReport, ObservedMachine
from deployer.site.db.engine import SiteDatabase
from deployer.site.db.events import last_event, list_events
from deployer.site.db.nodes import revision_of
from deployer.site.lifecycle.report_rules import LostPolicy
from deployer.site.model.cluster import ClusterDocument, ClusterPhase, ClusterState
from deployer.site.model.principal import Principal
from deployer.site.model.records import Deployment, MachineTransition, SiteMachine
from deployer.site.scheduling.node_capacity import Overcommit
from deployer.site.scheduling.placement import PlacementRequest, place_machines
from deployer.site.scheduling.proposal import ClusterMembership, Proposal, UsageLimit
from deployer.site.store.admission import admit_request
from deployer.site.store.changes import add_node
from deployer.site.store.deadlines import DueWork, meet_deadlines
from deployer.site.store.reports import store_report
from deployer.site.store.store import SiteStore
from deployer.site.store.unit_of_work import TransitionRule
from signer.documents import validate

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
MIB, GIB = 1 << 20, 1 << 30
IMAGE = "sha256:" + "1" * 64
OTHER = "sha256:" + "3" * 64
NOBODY = "00000000-0000-4000-8000-00000000dead"
CONTENT = "a" * 64 + "-1048576"
ALICE = Principal(
    issuer="https://tokens.example.org/star", subject="alice", vo="star", groups=("/star",), means="token"
)
BOB = ALICE.model_copy(update={"subject": "bob"})
CAROL = Principal(issuer="https://tokens.example.org/atlas", subject="carol", vo="atlas", groups=("/atlas",))


def cluster_of(name: str) -> tuple[ClusterDocument, ClusterState]:
    """A small cluster that is ready."""
    document = validate(ClusterDocument, {"name": name, "roles": {"a": {"image": "v/n"}}}, "cluster")
    return document, ClusterState(phase=ClusterPhase.READY, changed=NOW, expires=NOW, counts={"a": 1})


def decision(*, accepted: bool = True) -> Decision:
    """A policy's decision on a request."""
    rule = RuleResult(name="endorsements", passed=accepted, reason="so it is")
    return Decision(image=IMAGE, title="star/worker@1.0", at=NOW, policy="sha256:" + "2" * 64, rules=(rule,))


@dataclass
class Clock:
    """The present, as somebody set it."""

    at: datetime = NOW

    def __call__(self) -> datetime:
        return self.at

    def advance(self, **much: float) -> datetime:
        """Let that much time go by."""
        self.at += timedelta(**much)
        return self.at


@dataclass
class World:
    """A store, its clock, and what each node has: cores, memory, disk."""

    store: SiteStore
    clock: Clock
    sizes: dict[str, tuple[int, int, int]] = field(default_factory=dict)

    def join(self, name: str, *, cores: int = 4, memory: int = 8 * GIB, disk: int = 100 * GIB, **report: Any) -> str:
        """A node that has joined and reported; its UUID."""
        uuid = self.store.write(add_node, name, {}).uuid
        self.sizes[uuid] = (cores, memory, disk)
        self.store.write(store_report, uuid, capable(cores, memory, disk, **report))
        return uuid

    def admit(
        self, owner: Principal = ALICE, key: str | None = None, **changes: Any
    ) -> tuple[Deployment, tuple[SiteMachine, ...], bool]:
        """What `proposal` makes, admitted."""
        return self.store.write(admit_request, owner, key, proposal(**changes), place_machines)

    def machine(self, **changes: Any) -> SiteMachine:
        """One admitted machine."""
        return self.admit(**changes)[1][0]

    def report(self, node: str, *machines: ObservedMachine, **changes: Any) -> list[tuple[str, str]]:
        """The node reports these machines, acting on the newest revision; what events came of it: (what, reason)."""
        changes = {"revision": self.store.read(revision_of, node)} | changes
        before = self.store.read(last_event)
        self.store.write(store_report, node, capable(*self.sizes.get(node, ()), machines=machines, **changes))
        return [(event.what, event.reason) for event in self.store.read(list_events, before)]

    def told(self, after: int = 0) -> list[str]:
        """What all events say, in order."""
        return [event.what for event in self.store.read(list_events, after)]


def telling(change: Callable[[SiteMachine], SiteMachine], what: str, reason: str) -> TransitionRule:
    """A rule by which a machine becomes what `change` says, told of if `what` says something."""
    return lambda found: MachineTransition(change(found), ((what, reason),) if what else ())


def look(
    store: SiteStore,
    warn_until: datetime,
    lost_before: datetime,
    policy: LostPolicy,
    now: datetime | None = None,
    fenced: Container[str] | None = None,
) -> int:
    """Do what time demands, by the store's clock if nothing else is said."""
    return meet_deadlines(store, DueWork(now or store.now(), warn_until, lost_before, policy, fenced))


def world(database: SiteDatabase, overcommit: Overcommit | None = None, seed: int = 0) -> World:
    """A store whose UUIDs come in the same order each time."""
    clock = Clock()
    return World(SiteStore(database, clock, uuids(seed), overcommit or Overcommit()), clock)


def uuids(seed: int = 0) -> Callable[[], str]:
    """Makes UUIDs, the same each time."""
    source = Random(seed)
    return lambda: str(uuid.UUID(int=source.getrandbits(128), version=4))


def capable(
    cores: int = 4, memory: int = 8 * GIB, disk: int = 100 * GIB, *, revision: int = 0, **changes: Any
) -> NodeReport:
    """The report of a node that has so much."""
    capacity = Capacity(cores=cores, memory=memory, disk=disk)
    return NodeReport(revision=revision, architecture="x86_64", capacity=capacity, **changes)


def proposal(
    count: int = 1,
    *,
    cores: int = 1,
    memory: int = GIB,
    disk: int = GIB,
    addresses: Mapping[str, int] | None = None,
    limit: UsageLimit | None = None,
    most: int | None = None,
    lifetime: int = 3600,
    whole: bool = True,
    cluster: str | None = None,
    role: str = "",
    held: bool = False,
    image_id: str = IMAGE,
    decided: Decision | None = None,
    **request: Any,
) -> Proposal:
    """A request for machines, accepted by a policy."""
    options = PlacementOptions(whole=whole)
    asked = DeploymentRequest(image="star/worker", count=count, placement_options=options, **request)
    contents = {CONTENT: MIB} if addresses is None else addresses
    machine = properties(cores, memory)
    return Proposal(
        request=asked,
        image_id=image_id,
        title="star/worker@1.0",
        name="worker",
        placement_request=PlacementRequest(count, machine.shape, disk, "x86_64", contents, options),
        machine=machine,
        lifetime=lifetime,
        decision=decided or decision(),
        limit=limit,
        most=most,
        part=ClusterMembership(cluster, role, held),
    )


def properties(cores: int = 1, memory: int = GIB) -> MachineProperties:
    """What a machine is that does not grow; possible or not."""
    shape = {"memory": memory, "cores": cores, "max_memory": memory, "max_cores": cores}
    return MachineProperties.model_construct(**shape, network=Network(kind="user"))


def observed(machine: SiteMachine | str, state: MachineState, **changes: Any) -> ObservedMachine:
    """A machine as its node has it."""
    uuid = machine if isinstance(machine, str) else machine.uuid
    return ObservedMachine(**{"uuid": uuid, "state": state, "changed": NOW + timedelta(seconds=5)} | changes)


def machine(**changes: Any) -> SiteMachine:
    """A machine that runs, not in any store."""
    values = {
        "uuid": "00000000-0000-4000-8000-000000000001",
        "deployment": "00000000-0000-4000-8000-000000000002",
        "node": "00000000-0000-4000-8000-000000000003",
        "number": 1,
        "hostname": "worker-1",
        "image_id": IMAGE,
        "title": "star/worker@1.0",
        "network": "user",
        "desired": DesiredStatus.RUNNING,
        "state": MachineState.RUNNING,
        "created": NOW,
        "changed": NOW,
        "expires": NOW + timedelta(hours=1),
        "memory": GIB,
        "cores": 2,
        "max_memory": GIB,
        "max_cores": 2,
    }
    return SiteMachine.model_validate(values | changes)


def together(work: Callable[[], None], number: int) -> None:
    """The same in many threads at once; whatever they raise is raised here."""
    failed = list[BaseException]()

    def run() -> None:
        try:
            work()
        except BaseException as exc:  # noqa: BLE001 - raised below
            failed.append(exc)

    threads = [threading.Thread(target=run) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    if failed:
        raise failed[0]
