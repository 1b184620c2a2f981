"""Images and machines as EC2 has them, where moto has something simpler: put into moto itself, in its own process.

RegisterImage keeps what it is told; names are taken once; DescribeImages tells it again. A machine gets the volumes of its
image, of which the request may change some; its image must exist and its user-data fit. Only a stopped machine gets
another type. What has ended does not start. A machine is hibernated if it was begun for it, which has its conditions. A
snapshot that an image is made of stays. Source: EC2's API reference.
"""

import base64
import os
from typing import Any

from moto.core.responses import ActionResult
from moto.core.types import Base64EncodedString
from moto.core.utils import utcnow
from moto.ec2.exceptions import EC2ClientError, InvalidAMIIdError
from moto.ec2.models import EC2Backend
from moto.ec2.models.amis import Ami
from moto.ec2.models.instances import Instance, StateReason
from moto.ec2.responses.amis import AmisResponse
from moto.ec2.responses.instances import InstanceResponse
from moto.ec2.utils import filter_dict_attribute_mapping, random_ami_id

MAX_USER_DATA = 16384


class RegisteredAmi(Ami):
    """An image as it was registered; no snapshots or volumes are made for it."""

    def __init__(self, backend: EC2Backend, request: dict[str, Any]) -> None:
        self.ec2_backend = backend
        self.id = random_ami_id()
        self.request = request
        self.name, self.description = request["Name"], request.get("Description", "")
        self.state, self.image_type, self.owner_id = "available", "machine", backend.account_id
        self.image_location = f"{backend.account_id}/{self.name}"
        self.owner_alias = self.platform = self.kernel_id = self.instance_id = None
        self.architecture = request.get("Architecture", "i386")
        self.boot_mode = request.get("BootMode")
        self.virtualization_type = request.get("VirtualizationType", "paravirtual")
        self.hypervisor, self.root_device_type = "xen", "ebs"
        self.root_device_name = request["RootDeviceName"]
        self.ena_support = str(request.get("EnaSupport", False)).lower() == "true"
        self.imds_support = request.get("ImdsSupport")
        self.sriov = self.sriov_net_support = request.get("SriovNetSupport")
        self.uefi = request.get("UefiData")
        self.product_codes: set[str] = set()
        self.launch_permissions: list[dict[str, str]] = []
        self.creation_date = utcnow()
        for specification in request.get("TagSpecifications", ()):
            self.add_tags({tag["Key"]: tag["Value"] for tag in specification.get("Tags", ())})

    @property
    def block_device_mappings(self) -> list[dict[str, Any]]:
        """As they were given."""
        return [
            {
                "DeviceName": each["DeviceName"],
                "Ebs": {
                    **each["Ebs"],
                    "VolumeSize": int(each["Ebs"]["VolumeSize"]),
                    "DeleteOnTermination": str(each["Ebs"].get("DeleteOnTermination", True)).lower() == "true",
                    "Encrypted": False,
                },
            }
            for each in self.request.get("BlockDeviceMappings", ())
        ]


def _register(response: AmisResponse) -> ActionResult:
    backend = response.ec2_backend
    names = ("Name", "Description", "Architecture", "BootMode", "VirtualizationType", "EnaSupport", "ImdsSupport")
    names += ("RootDeviceName", "BlockDeviceMappings", "TagSpecifications", "SriovNetSupport", "UefiData")
    request = {name: value for name in names if (value := response._get_param(name)) is not None}
    if any(ami.name == request["Name"] for ami in backend.amis.values()):
        raise EC2ClientError(
            "InvalidAMIName.Duplicate", f"AMI name {request['Name']} is already in use by another AMI."
        )
    for each in request.get("BlockDeviceMappings", ()):
        snapshot = each["Ebs"].get("SnapshotId")
        if snapshot and snapshot not in backend.snapshots:
            raise EC2ClientError("InvalidSnapshot.NotFound", f"The snapshot '{snapshot}' does not exist.")
    ami = RegisteredAmi(backend, request)
    backend.amis[ami.id] = ami
    return ActionResult({"ImageId": ami.id})


def _attribute(response: AmisResponse) -> ActionResult:
    ami = response.ec2_backend.amis.get(response._get_param("ImageId"))
    if ami is None:
        raise InvalidAMIIdError(response._get_param("ImageId"))
    assert response._get_param("Attribute") == "uefiData"
    value = getattr(ami, "uefi", None)
    return ActionResult({"ImageId": ami.id, "UefiData": {"Value": value} if value else {}})


def _volumes(ami: Ami | None, wanted: list[dict[str, Any]]) -> list[dict[str, Any]]:
    devices = {each["DeviceName"]: each for each in (ami.block_device_mappings if ami is not None else ())}
    return [*(devices | {each["DeviceName"]: each for each in wanted}).values()]


def _check_hibernation(backend: EC2Backend, ami: Ami, volumes: list[dict[str, Any]], kind: str) -> None:
    """An encrypted root volume with room for the memory beside what is in the image, and a type that can."""
    described = next(one for one in backend.describe_instance_types([kind]))
    root = next(each["Ebs"] for each in volumes if each["DeviceName"] == ami.root_device_name)
    own = next(each["Ebs"] for each in ami.block_device_mappings if each["DeviceName"] == ami.root_device_name)
    least = own["VolumeSize"] + described["MemoryInfo"]["SizeInMiB"] / 1024
    if (
        not described["HibernationSupported"]
        or str(root.get("Encrypted", False)).lower() != "true"
        or int(root["VolumeSize"]) < least
    ):
        raise EC2ClientError("UnsupportedHibernationConfiguration", "the prerequisites of hibernation are not met")


def _correct_machines() -> None:
    run, start, stop = EC2Backend.run_instances, Instance.start, Instance.stop
    modify = EC2Backend.modify_instance_attribute

    def run_instances(
        self: EC2Backend, image_id: str, count: int, user_data: Base64EncodedString | None, *rest: Any, **values: Any
    ) -> Any:
        if user_data is not None and len(base64.b64decode(str(user_data))) > MAX_USER_DATA:
            raise EC2ClientError("InvalidUserData", "User data is limited to 16384 bytes")
        ami = self.amis.get(image_id)
        if ami is None:
            raise InvalidAMIIdError(image_id)
        values["block_device_mappings"] = _volumes(ami, values.get("block_device_mappings", []))
        if str((values.get("hibernation_options") or {}).get("Configured", False)).lower() == "true":
            _check_hibernation(self, ami, values["block_device_mappings"], str(values.get("instance_type")))
        return run(self, image_id, count, user_data, *rest, **values)

    def in_life(instance: Instance) -> None:
        if instance.state == "terminated":
            raise EC2ClientError("IncorrectInstanceState", f"The instance '{instance.id}' is not in a state for that")

    def start_one(self: Instance) -> Any:
        in_life(self)
        return start(self)

    def stop_one(self: Instance) -> Any:
        in_life(self)
        return stop(self)

    def modify_attribute(self: EC2Backend, instance_id: str, key: str, value: Any) -> Any:
        if key == "instance_type" and self.get_instance(instance_id).state != "stopped":
            raise EC2ClientError(
                "IncorrectInstanceState", f"The instance '{instance_id}' is not in the 'stopped' state."
            )
        return modify(self, instance_id, key, value)

    EC2Backend.run_instances = run_instances  # type: ignore[method-assign]
    Instance.start, Instance.stop = start_one, stop_one  # type: ignore[method-assign]
    EC2Backend.modify_instance_attribute = modify_attribute  # type: ignore[method-assign]


def _correct_hibernation() -> None:
    stop_all = InstanceResponse.stop_instances

    def stop_some(response: InstanceResponse) -> ActionResult:
        hibernate = str(response._get_param("Hibernate", False)).lower() == "true"
        chosen = response.ec2_backend.get_multi_instances_by_id(response._get_param("InstanceIds", []))
        for instance in chosen if hibernate else ():
            if not (instance.hibernation_options or {}).get("Configured"):
                raise EC2ClientError(
                    "UnsupportedHibernationConfiguration", f"{instance.id} is not configured for hibernation"
                )
        answer: ActionResult = stop_all(response)
        for instance in chosen if hibernate else ():
            code = "Client.UserInitiatedHibernate"
            instance.state_reason = StateReason(f"{code}: User initiated hibernate", code)
        return answer

    InstanceResponse.stop_instances = stop_some  # type: ignore[method-assign]


def correct() -> None:
    """Put all of it in."""
    os.environ["MOTO_EC2_LOAD_DEFAULT_AMIS"] = "false"
    os.environ["MOTO_ENABLE_AMI_VALIDATION"] = "true"
    os.environ["MOTO_EC2_ENABLE_INSTANCE_TYPE_VALIDATION"] = "true"
    filter_dict_attribute_mapping["client-token"] = "client_token"
    AmisResponse.register_image = _register  # type: ignore[method-assign]
    AmisResponse.describe_image_attribute = _attribute  # type: ignore[method-assign]
    _correct_machines()
    _correct_hibernation()
    delete = EC2Backend.delete_snapshot

    def delete_snapshot(self: EC2Backend, snapshot_id: str) -> Any:
        for ami in self.amis.values():
            if any(each["Ebs"].get("SnapshotId") == snapshot_id for each in ami.block_device_mappings):
                raise EC2ClientError("InvalidSnapshot.InUse", f"The snapshot {snapshot_id} is in use by {ami.id}")
        return delete(self, snapshot_id)

    EC2Backend.delete_snapshot = delete_snapshot  # type: ignore[method-assign]
