"""What is proposed to a site's store: a request with everything that was found out about it, ready to be admitted."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deployer.machine.properties import MachineProperties
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
class Proposal:
    """A request that the policy has accepted.

    Attributes:
        request: as asked.
        image_id, title: what its reference means now.
        name: what host names begin with where the request gives none.
        ask: its machines as placement sees them.
        machine: what each of them is.
        lifetime: seconds.
        policy, decision: the digest of what accepted it, and the decision as JSON.
        limit: quotas, or None where there are none.
        most: machines on one node that the policy allows, or None.
        cluster, role: what it belongs to.
        held: its machines get their room, and their nodes do not hear of them yet.
        place: chooses their nodes, where that depends on who asks; None for the site's usual way.
    """

    request: DeploymentRequest
    image_id: str
    title: str
    name: str
    ask: PlacementRequest
    machine: MachineProperties
    lifetime: int
    policy: str
    decision: Mapping[str, Any]
    limit: UsageLimit | None = None
    most: int | None = None
    cluster: str | None = None
    role: str = ""
    held: bool = False
    place: Placer | None = None

    def usage(self, count: int) -> ResourceUsage:
        """What so many of its machines add to what their owner holds."""
        return ResourceUsage(count, count * self.machine.max_cores, count * self.machine.max_memory, self.lifetime)
