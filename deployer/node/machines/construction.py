"""The values that a machine begins with on a node: from what its site wants to its order, its record, its specification. Pure."""

import base64
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from catalog.image.manifest import Manifest
from deployer.hypervisor.disks import AssembledDisks
from deployer.machine.properties import MachineProperties, RequestedProperties
from deployer.machine.spec import MACHINE_TYPE, DomainTag, MachineSpec, Virt
from deployer.machine.state import MachineState
from deployer.protocol.desired_state import BrokerAccess, DesiredMachine
from deployer.protocol.machine_order import MachineOrder
from deployer.records.machine_store import CONSOLE_FILE, MachineRecord
from signer.documents import validate

SEED = "seed.iso"


@dataclass(frozen=True)
class SiteAssignment:
    """The settled properties of a machine that a site wants made.

    Attributes:
        uuid: the machine's.
        site, deployment, role: whose it is and what it belongs to there.
        expires: when it expires, whenever it begins.
        reboots: that were asked for before it was made.
        vendor_data: cloud-config or script that the site adds to the seed.
        context: how the guest reaches the site's context broker.
    """

    uuid: str
    site: str
    deployment: str
    expires: datetime
    role: str = ""
    reboots: int = 0
    vendor_data: bytes | None = None
    context: BrokerAccess | None = None


def new_record(
    machine: MachineProperties, assigned: SiteAssignment | None, now: datetime, **values: Any
) -> MachineRecord:
    """The record of a machine that begins on this node.

    Args:
        machine: its properties.
        assigned: what a site has settled about it; None for a local order.
        now: the present, in whole seconds.
        values: the other members, and those that differ from what the site has settled.
    """
    known: dict[str, Any] = {"created": now, "changed": now}
    if assigned is not None:
        known |= {
            name: getattr(assigned, name) for name in ("uuid", "site", "deployment", "role", "reboots", "expires")
        }
    return MachineRecord(**(machine.properties() | known | values))


def machine_spec(
    record: MachineRecord, manifest: Manifest, assembled: AssembledDisks, directory: Path, owner: str
) -> MachineSpec:
    """The specification of an assembled machine for the hypervisor.

    Args:
        record: of the machine.
        manifest: of its image.
        assembled: its disks, and how it boots.
        directory: the machine's.
        owner: what the tags of this node's machines say.
    """
    return MachineSpec(
        **record.properties(),
        uuid=record.uuid,
        name=record.name,
        virt=cast("Virt", record.virt),
        architecture=manifest.architecture,
        machine=MACHINE_TYPE[manifest.architecture],
        boot=assembled.boot,
        disks=assembled.disks,
        seed=None if manifest.contextualization == "none" else directory / SEED,
        console=directory / CONSOLE_FILE,
        tag=DomainTag(owner=owner, image=record.image_id),
    )


def order_of(machine: DesiredMachine) -> MachineOrder:
    """The order. The image is named by its ID, so that no name has to be resolved.

    Raises:
        signer.errors.DocumentError: the site wants what no order can say.
    """
    members = machine.model_dump(mode="json", include=set(RequestedProperties.model_fields), exclude_none=True)
    order = members | {"image": machine.image_id, "hostname": machine.hostname}
    return validate(MachineOrder, order, "the desired state")


def assignment_of(machine: DesiredMachine, site: str) -> SiteAssignment:
    """What the site has settled already; `site` is its identity."""
    return SiteAssignment(
        uuid=machine.uuid,
        site=site,
        deployment=machine.deployment,
        expires=machine.expires,
        role=machine.role,
        reboots=machine.reboots,
        vendor_data=None if machine.vendor_data is None else base64.b64decode(machine.vendor_data),
        context=machine.context,
    )


def failed_record(machine: DesiredMachine, site: str, reason: str, now: datetime) -> MachineRecord:
    """The record of a machine that could not be made: it says why until the site has read it."""
    return new_record(
        machine,
        assignment_of(machine, site),
        now,
        name=machine.uuid[:8],
        hostname=machine.hostname,
        image_id=machine.image_id,
        title="",
        state=MachineState.FAILED,
        reason=reason,
        virt="",
        policy="",
        desired=machine.desired.value,
    )
