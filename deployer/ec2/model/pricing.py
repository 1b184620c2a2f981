"""What machines cost, estimated before they are admitted: a table of prices in the site's own file, and a cap. Pure.

An estimate is price per hour x hours x machines, and what their volumes cost in that time. It is an upper bound of what
they cost if they live until their end, by the site's own table: Partita ships no prices and asks nobody for any. Traffic
is not in it.
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
    """What one machine costs: its type, the GiB of its volumes, and from when until when."""

    instance_type: str
    gib: int
    begins: datetime
    until: datetime


def machine_cost(prices: Prices, spend: Charge) -> Decimal:
    """USD of one machine; OverBudget if its type has no price, since what has no price has no bound."""
    try:
        hourly = Decimal(prices.per_hour[spend.instance_type])
    except KeyError:
        raise OverBudget(
            f"{spend.instance_type} has no price in the site's table, so its cost is not known; add it there"
        ) from None
    hours = max(Decimal(0), Decimal((spend.until - spend.begins).total_seconds()) / HOUR)
    return hours * (hourly + Decimal(spend.gib) * Decimal(prices.storage) / MONTH_HOURS)


def estimate_cost(prices: Prices, instance_type: str, gib: int, lifetime: int, count: int) -> Decimal:
    """USD of `count` machines for `lifetime` seconds, rounded up to the cent; OverBudget without a price."""
    now = datetime.fromtimestamp(0, UTC)
    one = machine_cost(prices, Charge(instance_type, gib, now, datetime.fromtimestamp(lifetime, UTC)))
    return _cents(one * count)


def list_charges(booked: Mapping[str, Charge], promised: Mapping[str, Charge]) -> list[Charge]:
    """What machines cost, each counted once, by UUID: what was promised to one that has not ended, else what is booked."""
    return list({**booked, **promised}.values())


def month_start(now: datetime) -> datetime:
    """When the month of a cap began: UTC, as EC2 bills."""
    return now.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def committed_cost(prices: Prices, spends: Iterable[Charge], now: datetime) -> Decimal:
    """USD that machines have cost since this month began and will cost until their ends; types that have lost their
    price count at the dearest that there is, since nothing must become free by being taken out of a table."""
    since = month_start(now)
    dearest = max((Decimal(price) for price in prices.per_hour.values()), default=Decimal(0))
    known = dict(prices.per_hour)
    total = Decimal(0)
    for spend in spends:
        if spend.until <= since:
            continue
        table = Prices(
            per_hour=known | {spend.instance_type: known.get(spend.instance_type, str(dearest))}, storage=prices.storage
        )
        total += machine_cost(table, Charge(spend.instance_type, spend.gib, max(spend.begins, since), spend.until))
    return _cents(total)


def check_cap(account: str, cap: str, already: Decimal, more: Decimal) -> None:
    """Refuse what would pass a cap.

    Args:
        account: its name, for people.
        cap: USD in a month.
        already: USD that is spent or promised in this month.
        more: USD of what is asked for.

    Raises:
        OverBudget: with the sum.
    """
    check_within(account, cap, already, already + more)


def check_within(account: str, cap: str, before: Decimal, after: Decimal) -> None:
    """As `check_cap`, of what is committed before and after: what was admitted by rounded sums never fails by a cent."""
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
