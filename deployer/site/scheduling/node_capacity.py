"""The free capacity of a node: what it reported, times the site's overcommit, less what is allocated. Pure."""

import operator
from dataclasses import astuple, dataclass, replace

from deployer.site.model.records import NodeState, SiteNode
from deployer.site.scheduling.placement import EC2, MachineReservation, NodeCapacity


@dataclass(frozen=True, slots=True)
class Overcommit:
    """How much of a node's cores and memory may be promised: 1.0 is what it has. Disk is never promised twice."""

    cores: float = 1.0
    memory: float = 1.0


@dataclass(frozen=True, slots=True)
class UsedCapacity:
    """What the site's own machines on a node may have at most, all those that it may still have; bytes."""

    machines: int = 0
    cores: int = 0
    memory: int = 0
    disk: int = 0

    def __add__(self, other: "UsedCapacity") -> "UsedCapacity":
        return UsedCapacity(*map(operator.add, astuple(self), astuple(other)))


def capacity_of(
    node: SiteNode, taken: UsedCapacity, overcommit: Overcommit, promised: tuple[MachineReservation, ...] = ()
) -> NodeCapacity:
    """A node as placement sees it.

    What the node runs in addition to the site's machines counts in full. Capacity may be negative where a node shrank.
    """
    has = node.capacity
    problem = _problem(node)
    return NodeCapacity(
        uuid=node.uuid,
        name=node.name,
        cores=int(has.cores * overcommit.cores) - has.taken_cores - taken.cores,
        memory=int(has.memory * overcommit.memory) - has.taken_memory - taken.memory,
        disk=has.disk - taken.disk,
        labels=node.labels,
        cached=node.cached,
        machines=taken.machines,
        kind=node.kind,
        architecture=node.architecture,
        ready=not problem,
        problem=problem,
        promised=promised,
    )


def _problem(node: SiteNode) -> str:
    if node.state is NodeState.LOST:
        return "it has not reported for too long"
    if node.state is NodeState.LEFT:
        return "it has left the site"
    if node.draining:
        return "it is draining"
    if node.reported is None:
        return "it has not reported yet"
    return f"it says: {node.problem}" if node.problem else ""


def cap_machines(node: NodeCapacity, most: int | None, cores: int) -> NodeCapacity:
    """A node's capacity with no more than `most` machines in all, each of so many cores, as the policy's limit on one node has it."""
    if most is None or node.kind == EC2:
        return node
    left = most - node.machines
    if left <= 0:
        full = f"it has {node.machines} machines, and the policy allows {most} on one node"
        return replace(node, ready=False, problem=node.problem or full)
    return replace(node, cores=min(node.cores, left * cores))
