"""The room on a node: what it has, times overcommit, less what is promised; and why there is none."""

import pytest

from deployer.protocol.desired_state import Capacity
from deployer.site.model.records import NodeState, SiteNode
from deployer.site.scheduling.node_capacity import Overcommit, UsedCapacity, cap_machines, capacity_of
from deployer.site.scheduling.placement import NodeCapacity
from tests.support.site.values import GIB, NOW

NODE = SiteNode(
    uuid="00000000-0000-4000-8000-000000000003",
    name="n1",
    state=NodeState.READY,
    joined=NOW,
    reported=NOW,
    capacity=Capacity(cores=4, memory=8 * GIB, disk=100 * GIB, taken_cores=1, taken_memory=GIB),
    labels={"rack": "7"},
    cached=frozenset({"a"}),
    architecture="x86_64",
)


def test_a_room_is_what_is_left() -> None:
    """Overcommit is of what the node has; what it runs beside, and what is promised, counts in full."""
    room = capacity_of(NODE, UsedCapacity(2, 3, 2 * GIB, 10 * GIB), Overcommit(2.0, 1.5))
    assert room == NodeCapacity(
        uuid=NODE.uuid,
        name="n1",
        cores=4,
        memory=9 * GIB,
        disk=90 * GIB,
        labels={"rack": "7"},
        cached=frozenset({"a"}),
        machines=2,
    )


def test_a_node_that_shrank_has_less_than_nothing() -> None:
    """So nothing more is placed there until it has room again."""
    assert capacity_of(NODE, UsedCapacity(9, 9, 90 * GIB), Overcommit()).cores == -6


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"state": NodeState.LOST, "draining": True}, "it has not reported for too long"),
        ({"state": NodeState.LEFT}, "it has left the site"),
        ({"state": NodeState.DRAINING, "draining": True}, "it is draining"),
        ({"reported": None}, "it has not reported yet"),
        ({"problem": "libvirt does not answer"}, "it says: libvirt does not answer"),
        ({}, ""),
    ],
)
def test_why_a_node_takes_no_machines(changes: dict[str, object], problem: str) -> None:
    """In half a sentence."""
    room = capacity_of(NODE.model_copy(update=changes), UsedCapacity(), Overcommit())
    assert (room.problem, room.ready) == (problem, not problem)


def test_the_policys_limit_makes_rooms_smaller() -> None:
    """By cores, which is what every machine takes; nodes at EC2 have their own caps."""
    room = capacity_of(NODE, UsedCapacity(2, 0, 0), Overcommit())
    assert cap_machines(room, None, 1) == room
    assert cap_machines(room, 9, 1) == room
    assert cap_machines(room, 3, 2).cores == 2
    full = cap_machines(room, 2, 1)
    assert (full.ready, full.problem) == (False, "it has 2 machines, and the policy allows 2 on one node")
    cloud = capacity_of(NODE.model_copy(update={"kind": "ec2"}), UsedCapacity(2), Overcommit())
    assert cap_machines(cloud, 2, 1) == cloud
