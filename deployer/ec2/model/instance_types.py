"""Instance types, and the choice for a machine: the cheapest allowed one with enough cores and memory. Pure values.

EC2 lists the types (DescribeInstanceTypes); the account says which of them may be used and at what price. A machine never gets
less than it asks for, and mostly a little more: EC2 sells fixed sizes.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deployer.ec2.model.boot_mapping import Arch, BootMode
from deployer.ec2.model.pricing import Prices, cheapest_types
from deployer.errors import CannotBoot

MIB = 1 << 20


@dataclass(frozen=True)
class InstanceType:
    """One type: name, virtual processors, memory in bytes, supported boots, and whether EC2 can hibernate it."""

    name: str
    cores: int
    memory: int
    architectures: frozenset[str]
    boot_modes: frozenset[str]
    hibernates: bool = False


def parse_types(described: Iterable[Mapping[str, Any]]) -> tuple[InstanceType, ...]:
    """Parse the types in an answer of DescribeInstanceTypes."""
    return tuple(
        InstanceType(
            name=str(each["InstanceType"]),
            cores=int(each["VCpuInfo"]["DefaultVCpus"]),
            memory=int(each["MemoryInfo"]["SizeInMiB"]) * MIB,
            architectures=frozenset(each.get("ProcessorInfo", {}).get("SupportedArchitectures", ())),
            boot_modes=frozenset(each.get("SupportedBootModes", ())),
            hibernates=bool(each.get("HibernationSupported", False)),
        )
        for each in described
    )


def choose_type(
    types: Sequence[InstanceType], prices: Prices, cores: int, memory: int, architecture: Arch, mode: BootMode
) -> InstanceType:
    """The cheapest type that is large enough and boots the image.

    Args:
        types: that the account allows.
        prices: the site's table; a type without a price is never chosen.
        cores, memory: at least; memory in bytes.
        architecture, mode: of the image.

    Raises:
        CannotBoot: no type fits; the message says why.
    """
    fitting = [each for each in types if architecture in each.architectures and mode in each.boot_modes]
    if not fitting:
        raise CannotBoot(
            f"none of the allowed instance types ({_names(types)}) runs {architecture} images that boot with {mode}"
        )
    large = {each.name: each for each in fitting if each.cores >= cores and each.memory >= memory}
    if not large:
        raise CannotBoot(
            f"none of the allowed instance types ({_names(fitting)}) has {cores} cores and {memory // MIB} MiB of memory"
        )
    priced = cheapest_types(prices.per_hour, large)
    if not priced:
        raise CannotBoot(
            f"none of the instance types that fit ({_names(large.values())}) has a price in the site's table"
        )
    return large[priced[0]]


def _names(types: Iterable[InstanceType]) -> str:
    return ", ".join(sorted(each.name for each in types)) or "none"
