"""Machines at EC2 as values: EC2's description, the request that starts one, and our state of it. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from deployer.ec2.aws.tags import (
    CATALOG_TAG,
    DEPLOYMENT_TAG,
    END_TAG,
    IMAGE_TAG,
    MACHINE_TAG,
    REBOOTS_TAG,
    RECEIPT_TAG,
    SIZE_TAG,
    Owner,
    Tags,
    end_tag_value,
    read_tags,
    size_tag_value,
    tag_specifications,
)
from deployer.ec2.model.accounts import Account
from deployer.ec2.model.boot_mapping import Volume
from deployer.machine.state import MachineState
from deployer.protocol.desired_state import DesiredMachine, DesiredStatus

GONE: Final = frozenset({"shutting-down", "terminated"})
MAX_TAG = 256
"""Characters of a tag's value."""

HIBERNATED: Final = "Client.UserInitiatedHibernate"
"""The code of the reason why EC2 stopped a machine that it hibernated."""

VOLUME_TYPE: Final = "gp3"

_STOPPED: Final = {DesiredStatus.PAUSED: MachineState.PAUSED, DesiredStatus.SUSPENDED: MachineState.SUSPENDED}


@dataclass(frozen=True)
class Instance:
    """A machine as EC2 describes it.

    Attributes:
        instance: its ID.
        state: in EC2's words.
        launched: when it was started.
        addresses: the private ones first.
        volumes: attached to it.
        reason: why it changed its state, in EC2's words.
        hibernates: whether it was started so that it can be hibernated.
        hibernated: whether it was stopped by hibernation.
    """

    instance: str
    state: str
    ami: str = ""
    instance_type: str = ""
    launched: datetime | None = None
    addresses: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    reason: str = ""
    token: str = ""
    tags: Tags = field(default_factory=dict)
    hibernates: bool = False
    hibernated: bool = False

    @property
    def machine(self) -> str:
        """The machine's UUID in its tags, or an empty text."""
        return self.tags.get(MACHINE_TAG, "")

    @property
    def live(self) -> bool:
        """Whether it may still run, or be started again."""
        return self.state not in GONE

    @property
    def reboots(self) -> int:
        """The number of reboots, from its tags."""
        text = self.tags.get(REBOOTS_TAG, "0")
        return int(text) if text.isascii() and text.isdigit() else 0


def parse_instance(described: Mapping[str, Any]) -> Instance:
    """Parse an instance in an answer of DescribeInstances or RunInstances."""
    addresses: dict[str, None] = {}
    for card in described.get("NetworkInterfaces", ()):
        addresses |= {each["PrivateIpAddress"]: None for each in card.get("PrivateIpAddresses", ())}
        addresses |= {each["Ipv6Address"]: None for each in card.get("Ipv6Addresses", ())}
    found = [described.get("PrivateIpAddress", ""), *addresses, described.get("PublicIpAddress", "")]
    volumes = (each.get("Ebs", {}).get("VolumeId", "") for each in described.get("BlockDeviceMappings", ()))
    return Instance(
        instance=str(described["InstanceId"]),
        state=str(described["State"]["Name"]),
        ami=str(described.get("ImageId", "")),
        instance_type=str(described.get("InstanceType", "")),
        launched=described.get("LaunchTime"),
        addresses=tuple(dict.fromkeys(address for address in found if address)),
        volumes=tuple(volume for volume in volumes if volume),
        reason=str(described.get("StateReason", {}).get("Message", "") or described.get("StateTransitionReason", "")),
        token=str(described.get("ClientToken", "")),
        tags=read_tags(described.get("Tags")),
        hibernates=bool(described.get("HibernationOptions", {}).get("Configured", False)),
        hibernated=described.get("StateReason", {}).get("Code") == HIBERNATED,
    )


def machine_state(instance: Instance, desired: DesiredStatus) -> MachineState:
    """Our state of an instance. EC2 has one state of rest, so that of a stopped instance follows from the desired status."""
    match instance.state:
        case "pending":
            return MachineState.BOOTING
        case "running" | "stopping":
            return MachineState.RUNNING
        case "stopped":
            return _STOPPED.get(desired, MachineState.STOPPED)
        case _:
            return MachineState.ENDED


def machine_tags(owner: Owner, machine: DesiredMachine, title: str, receipt: str) -> Tags:
    """The tags of an instance and its volumes."""
    return owner.tags | {
        "Name": machine.hostname,
        MACHINE_TAG: machine.uuid,
        DEPLOYMENT_TAG: machine.deployment,
        CATALOG_TAG: title[:MAX_TAG],
        IMAGE_TAG: machine.image_id,
        END_TAG: end_tag_value(machine.expires),
        SIZE_TAG: size_tag_value(machine.cores, machine.memory),
        REBOOTS_TAG: str(machine.reboots),
        RECEIPT_TAG: receipt,
    }


def run_request(
    account: Account,
    machine: DesiredMachine,
    *,
    ami: str,
    instance_type: str,
    more: Sequence[Volume],
    user_data: bytes,
    tags: Tags,
    hibernating: Volume | None = None,
) -> dict[str, Any]:
    """The parameters of RunInstances for one machine.

    The client token is the machine's UUID: repeated requests start one machine. IMDSv2 only, not reachable from containers.
    When the guest powers off, the machine ends, and its volumes with it.

    Args:
        more: volumes beside those of its AMI: the requested blanks.
        user_data: raw; empty for none.
        hibernating: the root device of one that can be hibernated, with room for its memory; None if it cannot.
    """
    request: dict[str, Any] = {
        "ImageId": ami,
        "InstanceType": instance_type,
        "MinCount": 1,
        "MaxCount": 1,
        "ClientToken": machine.uuid,
        "SubnetId": account.subnet,
        "SecurityGroupIds": list(account.security_groups),
        "InstanceInitiatedShutdownBehavior": "terminate",
        "MetadataOptions": {
            "HttpTokens": "required",
            "HttpPutResponseHopLimit": 1,
            "HttpEndpoint": "enabled",
            "InstanceMetadataTags": "enabled",
        },
        "TagSpecifications": tag_specifications(("instance", "volume"), tags),
    }
    changed = block_device_mappings(more, {})
    if hibernating is not None:  # its bytes come from the AMI
        (root,) = block_device_mappings((hibernating,), {})
        changed.insert(0, {**root, "Ebs": {**root["Ebs"], "Encrypted": True}})
        request["HibernationOptions"] = {"Configured": True}
    if changed:
        request["BlockDeviceMappings"] = changed
    if user_data:
        request["UserData"] = user_data  # the library encodes it
    return request


def block_device_mappings(volumes: Sequence[Volume], snapshots: Mapping[str, str]) -> list[dict[str, Any]]:
    """Block device mappings: volumes with the snapshots that they begin with, by device; blanks begin with nothing."""
    found = []
    for volume in volumes:
        ebs: dict[str, Any] = {
            "VolumeSize": volume.size,
            "VolumeType": VOLUME_TYPE,
            "DeleteOnTermination": True,
        }
        if volume.device in snapshots:
            ebs["SnapshotId"] = snapshots[volume.device]
        found.append({"DeviceName": volume.device, "Ebs": ebs})
    return found
