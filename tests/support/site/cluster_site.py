"""A keeper of clusters on what a site really remembers, with a node that does what it is told when it is asked to."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from deployer.machine.state import MachineState
from deployer.protocol.deployment_request import DeploymentRequest
from deployer.protocol.desired_state import DesiredStatus
from deployer.site.clusters.controller import ClusterController
from deployer.site.db.machines import desired_state, get_machine, list_machines
from deployer.site.model.cluster import Cluster, ClusterDocument
from deployer.site.model.principal import Principal
from deployer.site.model.records import ListFilter, SiteMachine
from deployer.site.scheduling.placement import place_machines as placed
from deployer.site.scheduling.proposal import NO_CLUSTER, ClusterMembership
from deployer.site.store.admission import AdmittedDeployment, admit_request
from signer.documents import validate
from tests.support.site.values import ALICE, GIB, World, observed, proposal


def star(workers: int = 2, **values: Any) -> ClusterDocument:
    """A head, and workers that wait for it; ready when they run."""
    roles = {
        "worker": {
            "image": "star/worker",
            "count": workers,
            "requires": ["batch"],
            "ready": "running",
            "memory": "1GiB",
        },
        "head": {"image": "star/head@1.0", "provides": ["batch"], "ready": "running", "memory": "1GiB"},
    }
    for name, more in values.pop("roles", {}).items():
        roles[name] |= more
    return validate(ClusterDocument, {"name": "star", "roles": roles} | values, "cluster")


@dataclass
class Place:
    """A site with one node of four cores that does what it is told when it is asked to, and a keeper of clusters.

    Attributes:
        broken: host names whose machines fail instead of running.
        refuses: what admission says now, if it does not admit.
    """

    world: World
    node: str
    broken: set[str] = field(default_factory=set)
    deaf: set[str] = field(default_factory=set)
    refuses: Exception | None = None
    keeper: ClusterController = field(init=False)

    def __post_init__(self) -> None:
        self.keeper = self.another()

    def another(self, kind: type[ClusterController] = ClusterController) -> ClusterController:
        """A keeper as the next service would have it."""
        return kind(self.world.store, self.admit, 3600, broker=lambda: False, now=self.world.store.now)

    def admit(
        self, request: DeploymentRequest, who: Principal, key: str | None = None, part: ClusterMembership = NO_CLUSTER
    ) -> AdmittedDeployment:
        """Admission without policy: quotas and room are the store's own."""
        if self.refuses is not None:
            raise self.refuses
        wanted = proposal(
            count=request.count,
            memory=request.memory or GIB,
            lifetime=request.lifetime or 3600,
            whole=request.placement_options.whole,
            cluster=part.cluster,
            role=part.role,
            held=part.held,
            hostnames=request.hostnames,
        )
        deployment, machines, new = self.world.store.write(admit_request, who, key, wanted, placed)
        return AdmittedDeployment(deployment=deployment, machines=machines, new=new)

    def obey(self) -> None:
        """The node does at once all that it is told, and reports it."""
        seen = []
        for one in self.world.store.read(desired_state, self.node).machines:
            known = self.world.store.read(get_machine, one.uuid)
            if one.desired is DesiredStatus.ENDED:
                continue
            if one.hostname in self.broken:
                seen.append(observed(one.uuid, MachineState.FAILED, reason="the emulator ended"))
            elif one.hostname in self.deaf and known.state is MachineState.RUNNING:
                seen.append(observed(one.uuid, MachineState.RUNNING))
            else:
                state = {DesiredStatus.RUNNING: MachineState.RUNNING, DesiredStatus.STOPPED: MachineState.STOPPED}[
                    one.desired
                ]
                seen.append(observed(one.uuid, state, changed=self.world.clock()))
        self.world.report(self.node, *seen)

    def settle(self, keeper: ClusterController | None = None) -> None:
        """A minute goes by, in looks of six seconds."""
        for _ in range(10):
            self.obey()
            self.world.clock.advance(seconds=6)
            (keeper or self.keeper).look(self.world.clock())

    def create(self, document: ClusterDocument | None = None, who: Principal = ALICE, key: str = "") -> Cluster:
        """A cluster of a head and two workers, or another."""
        return self.keeper.create(document or star(), who, key)[0]

    def living(self) -> dict[str, SiteMachine]:
        """Machines that have not ended, by host name; there are never two of one."""
        found = [one for one in self.world.store.read(list_machines, ListFilter(), 1000)[0] if not one.state.final]
        named = {one.hostname: one for one in found}
        assert len(named) == len(found), "two machines have one host name"
        return named

    def told(self) -> list[str]:
        """The host names that the node knows of."""
        return sorted(
            one.hostname
            for one in self.world.store.read(desired_state, self.node).machines
            if one.desired is DesiredStatus.RUNNING
        )


sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""For what does not depend on the database: half the time."""


@pytest.fixture
def place(world: World) -> Place:
    """A site with one node, on SQLite and on PostgreSQL."""
    return Place(world, world.join("node"))
