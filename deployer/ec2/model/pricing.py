"""The cost of machines, estimated before they are admitted by a table of prices in the site's own file, and a cap. Pure.

An estimate is price per hour x hours x machines, plus the cost of their volumes in that time. It is an upper bound of the
cost of machines that live until their end, by the site's own table: Partita ships no prices and fetches none. It leaves
traffic out.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import ROUND_UP, Decimal
from typing import Annotated, Final

from pydantic import Field

from deployer.errors import OverBudget
from signer.documents import Document

Dollars = Annotated[str, Field(pattern=r"^[0-9]{1,9}(\.[0-9]{1,6})?$")]
"""USD, exactly as written: money is never a binary fraction."""

CENT: Final = Decimal("0.01")
HOUR: Final = Decimal(3600)
MONTH_HOURS: Final = Decimal(730)
"""Hours of a month as EC2 bills storage: a twelfth of 365 days."""


class Prices(Document):
    """A site's price table.

    Attributes:
        per_hour: USD per hour of an instance type.
        storage: USD per GiB of volumes in a month.
    """

    per_hour: dict[str, Dollars]
    storage: Dollars


@dataclass(frozen=True)
class Charge:
    """The basis of a machine's cost: its type, the GiB of its volumes, its beginning and its end."""

    instance_type: str
    gib: int
    begins: datetime
    expires: datetime


def machine_cost(prices: Prices, spend: Charge) -> Decimal:
    """USD of one machine; OverBudget if its type has no price, since its cost would have no bound."""
    try:
        hourly = Decimal(prices.per_hour[spend.instance_type])
    except KeyError:
        raise OverBudget(
            f"{spend.instance_type} has no price in the site's table, so its cost is not known; add it there"
        ) from None
    hours = max(Decimal(0), Decimal((spend.expires - spend.begins).total_seconds()) / HOUR)
    return hours * (hourly + Decimal(spend.gib) * Decimal(prices.storage) / MONTH_HOURS)


def estimate_cost(prices: Prices, instance_type: str, gib: int, lifetime: int, count: int) -> Decimal:
    """USD of `count` machines for `lifetime` seconds, rounded up to the cent; OverBudget without a price."""
    now = datetime.fromtimestamp(0, UTC)
    one = machine_cost(prices, Charge(instance_type, gib, now, datetime.fromtimestamp(lifetime, UTC)))
    return _cents(one * count)


def list_charges(booked: Mapping[str, Charge], promised: Mapping[str, Charge]) -> list[Charge]:
    """The charges of machines, each counted once, by UUID: the promised one before the booked one."""
    return list({**booked, **promised}.values())


def month_start(now: datetime) -> datetime:
    """The beginning of a cap's month: UTC, as EC2 bills."""
    return now.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def committed_cost(prices: Prices, spends: Iterable[Charge], now: datetime) -> Decimal:
    """USD that machines have cost since this month began and will cost until their ends; a type without a price counts at
    the highest price in the table, since removing a price must not make machines free."""
    since = month_start(now)
    dearest = max((Decimal(price) for price in prices.per_hour.values()), default=Decimal(0))
    known = dict(prices.per_hour)
    total = Decimal(0)
    for spend in spends:
        if spend.expires <= since:
            continue
        table = Prices(
            per_hour=known | {spend.instance_type: known.get(spend.instance_type, str(dearest))}, storage=prices.storage
        )
        total += machine_cost(table, Charge(spend.instance_type, spend.gib, max(spend.begins, since), spend.expires))
    return _cents(total)


def check_within(account: str, cap: str, before: Decimal, after: Decimal) -> None:
    """Refuse a cost that would pass a cap, by the sums before and after: an admitted request never fails by a rounded cent.

    Args:
        account: its name, for the message.
        cap: USD in a month.
        before: USD that is spent or promised in this month.
        after: the same with the request.

    Raises:
        OverBudget: with the sum.
    """
    if after > Decimal(cap):
        raise OverBudget(
            f"this is estimated at {after - before} USD, {before} USD are spent or promised in this month, and together "
            f"they are more than the {cap} USD that the account {account} may spend; ask for fewer machines or less time"
        )


def cheapest_types(prices: Mapping[str, Dollars], types: Iterable[str]) -> list[str]:
    """Types that have a price, the cheapest first, equal ones by name."""
    return sorted((name for name in types if name in prices), key=lambda name: (Decimal(prices[name]), name))


def _cents(amount: Decimal) -> Decimal:
    return amount.quantize(CENT, rounding=ROUND_UP)
