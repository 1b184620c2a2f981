"""What a site wants, as the node's own deployer takes it: an order for one machine. Pure."""

import base64
from datetime import datetime

from deployer.machine.spec import MachineState
from deployer.node.machines.deployment import SiteAssignment
from deployer.node.schema.orders import MachineOrder
from deployer.protocol.desired_state import DesiredMachine
from deployer.records.machine_store import MachineRecord
from signer.documents import validate


def order_of(machine: DesiredMachine) -> MachineOrder:
    """The order. The image is named by its ID, so that nobody has to be asked what it means.

    Raises:
        signer.errors.DocumentError: the site wants what no order can say.
    """
    wanted = {
        "image": machine.image_id,
        "memory": machine.memory,
        "cores": machine.cores,
        "hostname": machine.hostname,
        "network": machine.network,
        "user_data": machine.user_data,
        "public_keys": machine.public_keys,
        "blanks": [blank.model_dump(mode="json") for blank in machine.blanks],
        "granted_memory": machine.granted_memory,
        "granted_cores": machine.granted_cores,
        "verify": machine.verify,
    }
    return validate(
        MachineOrder, {name: value for name, value in wanted.items() if value is not None}, "what the site wants"
    )


def assignment_of(machine: DesiredMachine, site: str) -> SiteAssignment:
    """What the site has settled already; `site` is its identity."""
    return SiteAssignment(
        uuid=machine.uuid,
        site=site,
        deployment=machine.deployment,
        ends=machine.ends,
        role=machine.role,
        reboots=machine.reboots,
        vendor_data=None if machine.vendor_data is None else base64.b64decode(machine.vendor_data),
        context=machine.context,
    )


def failed_record(machine: DesiredMachine, site: str, reason: str, now: datetime) -> MachineRecord:
    """The record of a machine that could not be made: it says why until the site has read it."""
    return MachineRecord(
        uuid=machine.uuid,
        name=machine.uuid[:8],
        hostname=machine.hostname,
        image_id=machine.image_id,
        title="",
        state=MachineState.FAILED,
        reason=reason,
        created=now,
        changed=now,
        ends=machine.ends,
        memory=machine.memory,
        cores=machine.cores,
        network=machine.network,
        virt="",
        policy="",
        reboots=machine.reboots,
        site=site,
        deployment=machine.deployment,
        role=machine.role,
        wanted=machine.want.value,
    )
