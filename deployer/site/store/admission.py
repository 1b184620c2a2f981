"""Admitting a request, and placing machines, within the one writing transaction. What can be decided elsewhere is.

The capacity of nodes is counted, quotas are weighed and machines are written under the same lock, so no two requests are ever
promised the same core, nor the same money of an account at EC2, and a request that is refused leaves nothing.
"""

import hashlib
from datetime import timedelta
from typing import NamedTuple

from catalog.errors import Conflict
from deployer.errors import OverQuota
from deployer.machine.state import MachineState
from deployer.protocol.deployment_request import DeploymentRequest
from deployer.protocol.desired_state import DesiredStatus
from deployer.site.db import machines as store_machines
from deployer.site.db import nodes as store_nodes
from deployer.site.db.engine import Transaction
from deployer.site.model.principal import Principal
from deployer.site.model.quota import ResourceUsage
from deployer.site.model.records import CostReservation, Deployment, SiteMachine
from deployer.site.scheduling.node_capacity import Overcommit, cap_machines
from deployer.site.scheduling.placement import Placement, PlacementRequest, Placer
from deployer.site.scheduling.proposal import NO_CLUSTER, ClusterMembership, Proposal
from deployer.site.store.unit_of_work import UnitOfWork
from signer.documents import canonical


class AdmittedDeployment(NamedTuple):
    """The result of a request: `new` is false where its idempotency key had been used for the very same request."""

    deployment: Deployment
    machines: tuple[SiteMachine, ...]
    new: bool


def find_ordered(
    connection: Transaction,
    owner: Principal,
    key: str,
    request: DeploymentRequest,
    part: ClusterMembership = NO_CLUSTER,
) -> tuple[Deployment, tuple[SiteMachine, ...]] | None:
    """What an owner was given for a key before, or None; Conflict if the key asked for something else."""
    found = store_machines.find_order(connection, owner.identity, key)
    if found is None:
        return None
    digest, uuid = found
    if digest != _digest(request, part):
        raise Conflict(
            f"the idempotency key {key[:80]!r} was used for another request, deployment {uuid}; choose a new key"
        )
    return store_machines.get_deployment(connection, uuid), store_machines.machines_of(connection, uuid)


def admit_request(
    work: UnitOfWork, owner: Principal, key: str | None, proposal: Proposal, place: Placer
) -> AdmittedDeployment:
    """Admit a request: idempotency, quotas, capacity, machines with their nodes and the events, in one transaction.

    Args:
        work: the transaction.
        owner: whose it is.
        key: the same key, owner and request give the same answer again, whatever has changed since.
        proposal: what the policy accepted.
        place: chooses the nodes.

    Returns:
        The deployment, its machines, and whether they are new.

    Raises:
        Conflict: the key asked for something else.
        OverQuota: see `Proposal.limit`.
        NoCapacity: as `place_machines` says.
    """
    connection = work.connection
    if key is not None:
        done = find_ordered(connection, owner, key, proposal.request, proposal.part)
        if done is not None:
            return AdmittedDeployment(*done, new=False)
    whole = proposal.request.placement_options.whole
    _check_quota(connection, owner, proposal, proposal.placement_request.count if whole else 1)
    chosen = place_now(connection, work.overcommit, proposal.placement_request, place, proposal.most)
    if not whole:
        _check_quota(connection, owner, proposal, len(chosen.nodes))
    deployment = Deployment(
        uuid=work.new_uuid(),
        owner=owner,
        request=proposal.request,
        image_id=proposal.image_id,
        title=proposal.title,
        created=work.now,
        expires=work.now + timedelta(seconds=proposal.lifetime),
        policy=proposal.decision.policy,
        decision=proposal.decision.as_json(),
        placement=chosen.sentences,
        cluster=proposal.part.cluster,
        role=proposal.part.role,
    )
    made = tuple(
        _machine(deployment, proposal, work.new_uuid(), node, number, chosen.promises.get(node))
        for number, node in enumerate(chosen.nodes, 1)
    )
    store_machines.add_deployment(connection, deployment, proposal.placement_request, proposal.most, made)
    if key is not None:
        digest = _digest(proposal.request, proposal.part)
        store_machines.record_order(connection, owner.identity, key, digest, deployment.uuid)
    work.add_event("deployment", deployment.uuid, "admitted", proposal.title, deployment.uuid)
    work.made(made)
    return AdmittedDeployment(deployment, made, new=True)


def place_now(
    connection: Transaction, overcommit: Overcommit, ask: PlacementRequest, place: Placer, most: int | None = None
) -> Placement:
    """Where machines would run with the capacity free now; nothing is kept. NoCapacity as `place_machines` says."""
    capacities = store_nodes.node_capacities(connection, ask.addresses.keys(), overcommit)
    return place([cap_machines(capacity, most, ask.shape.max_cores) for capacity in capacities], ask)


def quota_fault(connection: Transaction, owner: Principal, proposal: Proposal, count: int) -> str | None:
    """Why an owner may not have so many of a proposal's machines in addition to the present ones, as a sentence; None if they may."""
    if proposal.limit is None:
        return None
    mine = store_machines.usage_of(connection, owner=owner)
    together = store_machines.usage_of(connection, vo=owner.vo) if owner.vo else ResourceUsage()
    return proposal.limit(mine, proposal.usage(count), together)


def _check_quota(connection: Transaction, owner: Principal, proposal: Proposal, count: int) -> None:
    if fault := quota_fault(connection, owner, proposal, count):
        raise OverQuota(fault)


def _machine(
    deployment: Deployment, proposal: Proposal, uuid: str, node: str, number: int, promise: CostReservation | None
) -> SiteMachine:
    return SiteMachine(
        **proposal.machine.properties(),
        uuid=uuid,
        deployment=deployment.uuid,
        node=node,
        number=number,
        hostname=proposal.request.name_of(number) or f"{proposal.name}-{uuid[:8]}",
        image_id=proposal.image_id,
        title=proposal.title,
        desired=DesiredStatus.RUNNING,
        state=MachineState.PENDING,
        created=deployment.created,
        changed=deployment.created,
        expires=deployment.expires,
        disk=proposal.placement_request.disk,
        role=proposal.part.role,
        held=proposal.part.held,
        reserved_cost=promise,
    )


NULL_MEMBERS = ("memory", "cores", "lifetime", "hostname", "network", "user_data")
"""Members that a key's digest has even where they are not given, as it had from the first; later ones it has where they are."""


def _digest(request: DeploymentRequest, part: ClusterMembership) -> str:
    values = dict.fromkeys(NULL_MEMBERS) | request.model_dump(mode="json", exclude_none=True)
    values["wishes"] = values.pop("placement_options")  # their name when the first digests were made
    return hashlib.sha256(canonical([values, part.cluster or "", part.role])).hexdigest()
