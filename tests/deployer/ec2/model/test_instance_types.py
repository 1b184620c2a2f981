"""Which instance type is chosen, and the reason where none fits."""

import pytest

from deployer.ec2.model.instance_types import choose_type
from deployer.errors import CannotBoot
from tests.support.aws.account_values import GIB, PRICES, TYPES


def test_the_cheapest_type_that_is_large_enough_is_chosen() -> None:
    assert choose_type(TYPES, PRICES, 1, GIB, "x86_64", "legacy-bios").name == "t3.small"
    assert choose_type(TYPES, PRICES, 2, 3 * GIB, "x86_64", "legacy-bios").name == "m5.large"


@pytest.mark.parametrize(
    ("what", "cores", "memory", "architecture", "mode", "says"),
    [
        ("more memory than any", 1, 16 * GIB, "x86_64", "legacy-bios", "has 1 cores and 16384 MiB"),
        ("more cores than any", 3, GIB, "x86_64", "legacy-bios", "has 3 cores"),
        ("a boot mode that the large one lacks", 1, 3 * GIB, "x86_64", "uefi", r"\(t3.small\)"),
        ("an architecture that boots otherwise", 1, GIB, "arm64", "legacy-bios", "runs arm64 images"),
        ("only one that has no price", 1, GIB, "arm64", "uefi", "has a price"),
    ],
)
def test_without_a_type_that_fits_the_reason_is_said(
    what: str, cores: int, memory: int, architecture: str, mode: str, says: str
) -> None:
    with pytest.raises(CannotBoot, match=says):
        choose_type(TYPES, PRICES, cores, memory, architecture, mode)  # type: ignore[arg-type]
