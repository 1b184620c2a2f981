"""Whether a machine at EC2 keeps its memory while it rests. Pure.

A machine that EC2 merely stops comes back with its disks and without its memory: enough for a suspended one whose owner is
informed, but not for a paused one. EC2 hibernates a machine that was started for it: its type supports it, its root volume is
encrypted and has room for the memory beside its own bytes, and its guest writes the memory there when EC2 asks it to (the
kernel's hibernation, and EC2's agent for it). Whether the guest does cannot be seen from outside, so the site's file says
where this is wanted. Source: Amazon EC2 User Guide, "Prerequisites for EC2 instance hibernation".
"""

from dataclasses import replace
from typing import Final

from deployer.ec2.model.accounts import Account
from deployer.ec2.model.boot_mapping import GIB, BootMapping, Volume
from deployer.ec2.model.instance_types import InstanceType

MOST_MEMORY: Final = 150 * GIB
"""The memory in bytes below which EC2 hibernates Linux."""

MEMORY_NOT_KEPT: Final = "EC2 cannot keep its memory while it is paused, so it goes on running"
MEMORY_LOST: Final = "EC2 stopped it and did not hibernate it: its disks are kept, its memory is not"


def hibernation_obstacle(account: Account, kind: InstanceType, found: BootMapping) -> str:
    """Why a machine is not started so that it can be hibernated; empty if it is."""
    if not account.hibernation:
        return f"the account {account.name} does not use hibernation"
    if not kind.hibernates:
        return f"EC2 does not hibernate {kind.name}"
    if kind.memory >= MOST_MEMORY:
        return f"EC2 hibernates less than {MOST_MEMORY // GIB} GiB of memory"
    if found.boot_disk is not None:
        return "it boots from a boot disk, which has no filesystem for its memory"
    return ""


def add_memory_space(volumes: tuple[Volume, ...], memory: int) -> tuple[Volume, ...]:
    """The volumes with the first, the root device, enlarged by room for `memory` bytes."""
    root, *rest = volumes
    return (replace(root, size=root.size - (-memory // GIB)), *rest)
