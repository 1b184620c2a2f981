"""What a node decides about its machines with, and deploys them by: one value for all that do so."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from catalog.client.trusted import TrustedCatalog
from deployer.node.machines.supervisor import MachineSupervisor
from deployer.policy.revocations import RevocationState
from deployer.policy.store import RuleSet
from deployer.records.recorder import Recorder
from stager.staging import Stager


@dataclass(frozen=True)
class DeploymentContext:
    """Safe to use from several threads.

    Attributes:
        images: the catalog, verified.
        stager: brings contents to the node's cache.
        keeper: of the node's machines.
        rules: the site's policy in force, as it is at each call; raises PolicyUnusable.
        withdrawn: what has been revoked or blocked until now.
        records: where everything is put on record.
        owner: what the tags of this node's machines say.
        clock: the present, UTC.
    """

    images: TrustedCatalog
    stager: Stager
    keeper: MachineSupervisor
    rules: Callable[[], RuleSet]
    withdrawn: Callable[[], RevocationState]
    records: Recorder
    owner: str
    clock: Callable[[], datetime]
