"""Clusters and their members, as values: what plans are made of."""

from datetime import UTC, datetime, timedelta
from typing import Any

from deployer.machine.state import MachineState
from deployer.protocol.desired_state import DesiredStatus
from deployer.site.model.cluster import Cluster, ClusterDocument, ClusterPhase, ClusterState
from deployer.site.model.principal import LOCAL_OPERATOR
from deployer.site.model.records import SiteMachine
from signer.documents import validate

START = datetime(2026, 11, 22, 12, tzinfo=UTC)
IMAGE = "sha256:" + "1" * 64
HEAD_AND_WORKERS = {
    "head": {"provides": ["batch"]},
    "worker": {"count": 3, "requires": ["batch"]},
}


def uuid(number: int) -> str:
    """A UUID for tests."""
    return f"{number:08x}-0000-4000-8000-000000000000"


def cluster(roles: dict[str, dict[str, Any]] | None = None, **values: Any) -> Cluster:
    """A cluster of head and workers (or other roles), starting."""
    known = {name: {"image": "star/x"} | role for name, role in (roles or HEAD_AND_WORKERS).items()}
    document = validate(ClusterDocument, {"name": "c", "roles": known} | values, "cluster")
    counts = {name: role.count for name, role in document.roles.items()}
    return Cluster(
        uuid=uuid(0),
        owner=LOCAL_OPERATOR,
        name="c",
        document=document,
        created=START,
        state=ClusterState(
            phase=ClusterPhase.STARTING, changed=START, expires=START + timedelta(hours=12), counts=counts
        ),
    )


def with_state(one: Cluster, **values: Any) -> Cluster:
    """The cluster in another state."""
    return one.model_copy(update={"state": one.state.model_copy(update=values)})


def member(
    role: str, slot: int, state: MachineState = MachineState.RUNNING, ready: str | None = "ready", **values: Any
) -> SiteMachine:
    """A member of it; its UUID follows from role, slot and `again`."""
    again = values.pop("again", 0)
    fresh = SiteMachine(
        uuid=uuid(({"head": 1, "worker": 2}.get(role, 3) << 20) + (slot << 8) + again),
        deployment=uuid(99),
        node=uuid(1),
        number=1,
        hostname=f"c-{role}-{slot}",
        image_id=IMAGE,
        title="star/x@1",
        network="none",
        desired=DesiredStatus.RUNNING,
        state=state,
        created=START + timedelta(seconds=again),
        changed=START,
        expires=START + timedelta(hours=12),
        memory=64 << 20,
        cores=1,
        max_memory=64 << 20,
        max_cores=1,
        role=role,
        ready=ready,
    )
    return fresh.model_copy(update=values)


def held(role: str, slot: int) -> SiteMachine:
    """A member that has its room and waits."""
    return member(role, slot, MachineState.PENDING, None, held=True)
