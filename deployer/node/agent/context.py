"""What an agent works with on its node: one value for the agent, its executor and its reporter."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from deployer.node.agent.lease import NodeLease
from deployer.node.agent.migration_runner import MigrationRunner
from deployer.node.images.candidate_upload import CandidateUploader
from deployer.node.machines.construction import SiteAssignment
from deployer.node.machines.operations import MachineOperations
from deployer.node.machines.supervisor import MachineSupervisor
from deployer.node.schema.orders import DeploymentResult, DeploymentStep
from deployer.protocol.desired_state import NodeStatus
from deployer.protocol.machine_order import MachineOrder

MachineMaker = Callable[
    [MachineOrder, Callable[[DeploymentStep], None], threading.Event, SiteAssignment | None], DeploymentResult
]
"""Makes machines as `Deployer.deploy` does."""


class NodeFacts(NodeStatus):
    """A node's status as far as it is known without its agent, and the contents that are whole in its cache."""

    cached: tuple[str, ...] = ()


@dataclass(frozen=True)
class AgentContext:
    """Safe to use from several threads.

    Attributes:
        site: the identity of the site; the records of its machines name it.
        keeper, verbs, make: of the node.
        facts: how the node is now.
        clock: seconds that only grow.
        offers: saves machines for the site; None where machines are not saved.
        fence: the site's lease on its machines; by default one that is not written to a file.
        migration: migrates machines between nodes; None where machines do not migrate.
    """

    site: str
    keeper: MachineSupervisor
    verbs: MachineOperations
    make: MachineMaker
    facts: Callable[[], NodeFacts]
    clock: Callable[[], float] = time.monotonic
    offers: CandidateUploader | None = None
    fence: NodeLease = field(default_factory=lambda: NodeLease(None))
    migration: MigrationRunner | None = None
