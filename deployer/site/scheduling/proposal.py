"""What is proposed to a site's store: a request with everything that was found out about it, ready to be admitted."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from deployer.machine.properties import MachineProperties
from deployer.policy.decision import Decision
from deployer.protocol.deployment_request import DeploymentRequest
from deployer.site.model.quota import ResourceUsage
from deployer.site.model.records import SiteMachine
from deployer.site.scheduling.placement import MachineReservation, PlacementRequest, Placer

UsageLimit = Callable[[ResourceUsage, ResourceUsage, ResourceUsage], str | None]
"""May so much more be had? Of what the owner has, what is to come, and what all of the owner's VO have: a sentence with
what is exceeded, or None. `allowances.Quota.check` is one. Called within the transaction, too."""

CostCheck = Callable[[SiteMachine, Sequence[MachineReservation]], None]
"""Raises where a machine at EC2, with all that is promised in its pool, costs too much. Called within the transaction, too."""


@dataclass(frozen=True)
class ClusterMembership:
    """The cluster and role of the machines of a request, and whether they are withheld from their nodes at first."""

    cluster: str | None = None
    role: str = ""
    held: bool = False


NO_CLUSTER = ClusterMembership()


@dataclass(frozen=True)
class Proposal:
    """A request, with the policy's decision on it.

    Attributes:
        request: as asked.
        image_id, title: what its reference means now.
        name: what host names begin with where the request gives none.
        placement_request: its machines as placement sees them.
        machine: what each of them is.
        lifetime: seconds.
        decision: of the policy in force.
        limit: quotas, or None where there are none.
        most: machines on one node that the policy allows, or None.
        part: the cluster of its machines.
        place: chooses their nodes, where that depends on who asks; None for the site's usual way.
    """

    request: DeploymentRequest
    image_id: str
    title: str
    name: str
    placement_request: PlacementRequest
    machine: MachineProperties
    lifetime: int
    decision: Decision
    limit: UsageLimit | None = None
    most: int | None = None
    part: ClusterMembership = NO_CLUSTER
    place: Placer | None = None

    def usage(self, count: int) -> ResourceUsage:
        """What so many of its machines add to what their owner holds."""
        return ResourceUsage(count, count * self.machine.max_cores, count * self.machine.max_memory, self.lifetime)
