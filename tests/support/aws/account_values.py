"""Accounts, instance types and prices, as values."""

from datetime import UTC, datetime

from deployer.ec2.model.accounts import Account
from deployer.ec2.model.instance_types import InstanceType
from deployer.ec2.model.pricing import Prices
from deployer.site.model.principal import Principal

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


GIB = 1 << 30


PRICES = Prices(per_hour={"t3.small": "0.02", "m5.large": "0.1"}, storage="0.73")


ACCOUNT = Account(
    name="burst",
    region="eu-central-1",
    profile="star",
    subnet="subnet-01234567",
    security_groups=("sg-01234567",),
    instance_types=("t3.small", "m5.large"),
    cap="10",
    prices=PRICES,
    cores=8,
    memory="64GiB",  # type: ignore[arg-type]  # as in a file
    disk="1TiB",  # type: ignore[arg-type]
)


OTHER = ACCOUNT.model_copy(update={"name": "pilots"})


def principal(vo: str, *groups: str) -> Principal:
    return Principal(issuer="https://issuer.example", subject="ann", vo=vo, groups=groups, means="token")


TYPES = (
    InstanceType("t3.small", 2, 2 * GIB, frozenset({"x86_64"}), frozenset({"legacy-bios", "uefi"})),
    InstanceType("m5.large", 2, 8 * GIB, frozenset({"x86_64"}), frozenset({"legacy-bios"})),
    InstanceType("t4g.small", 2, 2 * GIB, frozenset({"arm64"}), frozenset({"uefi"})),
)
