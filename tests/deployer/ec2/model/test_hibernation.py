"""Which machines at EC2 may keep their memory while they rest, and what that costs."""

from dataclasses import replace

import pytest

from catalog.image.address import Address
from catalog.image.manifest import DirectBoot
from deployer.ec2.model.accounts import Account
from deployer.ec2.model.boot_mapping import GIB, ROOT_DEVICE, BootMapping, Volume
from deployer.ec2.model.hibernation import add_memory_space, hibernation_obstacle
from deployer.ec2.model.instance_types import InstanceType, parse_types
from deployer.ec2.model.instances import run_request
from tests.deployer.ec2.pool.test_reconciler import RUNNING
from tests.support.aws.account_values import ACCOUNT as BURST

KIND = InstanceType("m5.large", 2, 8 * GIB, frozenset({"x86_64"}), frozenset({"legacy-bios"}), hibernates=True)
ACCOUNT = BURST.model_copy(update={"hibernation": True})
KERNEL = DirectBoot(mode="direct", kernel=Address.parse("a" * 64 + "-512"), cmdline="quiet")
FOUND = BootMapping("legacy-bios", "x86_64", (Volume(ROOT_DEVICE, 3, 0), Volume("/dev/sdf", 1, 1)))


@pytest.mark.parametrize(
    ("what", "account", "kind", "found", "says"),
    [
        ("all is there", ACCOUNT, KIND, FOUND, ""),
        ("the account has none", BURST, KIND, FOUND, "the account burst does not use hibernation"),
        ("the type cannot", ACCOUNT, replace(KIND, hibernates=False), FOUND, "does not hibernate m5.large"),
        ("too much memory", ACCOUNT, replace(KIND, memory=150 * GIB), FOUND, "less than 150 GiB"),
        ("a boot disk", ACCOUNT, KIND, replace(FOUND, boot_disk=KERNEL), "has no filesystem"),
    ],
)
def test_what_keeps_a_machine_from_being_hibernated(
    what: str, account: Account, kind: InstanceType, found: BootMapping, says: str
) -> None:
    hindered = hibernation_obstacle(account, kind, found)
    assert says in hindered if says else hindered == ""


def test_the_root_volume_has_room_for_the_memory() -> None:
    assert [one.size for one in add_memory_space(FOUND.volumes, 8 * GIB)] == [11, 1]
    assert [one.size for one in add_memory_space(FOUND.volumes, GIB + 1)] == [5, 1]


def test_what_is_asked_for_names_the_root_volume_once_and_encrypted() -> None:
    root, other = add_memory_space(FOUND.volumes, 8 * GIB)
    request = run_request(
        ACCOUNT, RUNNING, ami="ami-1", instance_type="m5.large", more=(other,), user_data=b"", tags={}, hibernating=root
    )
    assert request["HibernationOptions"] == {"Configured": True}
    devices = {each["DeviceName"]: each["Ebs"] for each in request["BlockDeviceMappings"]}
    assert (devices[ROOT_DEVICE]["VolumeSize"], devices[ROOT_DEVICE]["Encrypted"]) == (11, True)
    assert "Encrypted" not in devices["/dev/sdf"]
    plain = run_request(ACCOUNT, RUNNING, ami="a", instance_type="m5.large", more=(), user_data=b"", tags={})
    assert "HibernationOptions" not in plain
    assert "BlockDeviceMappings" not in plain


def test_what_ec2_says_of_a_type_is_read() -> None:
    described = {"InstanceType": "m5.large", "VCpuInfo": {"DefaultVCpus": 2}, "MemoryInfo": {"SizeInMiB": 8192}}
    assert [one.hibernates for one in parse_types([described, described | {"HibernationSupported": True}])] == [
        False,
        True,
    ]
