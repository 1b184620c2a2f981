"""What machines at EC2 cost: estimates, what is promised, and the cap."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from deployer.ec2.model.pricing import Charge, check_within, committed_cost, estimate_cost, machine_cost
from deployer.errors import OverBudget
from tests.support.aws.account_values import NOW, PRICES


def test_an_estimate_is_the_sum_of_hours_machines_and_storage() -> None:
    # 2 h x 3 x (0.02 + 10 GiB x 0.73 / 730 h)
    assert estimate_cost(PRICES, "t3.small", 10, 7200, 3) == Decimal("0.18")
    assert estimate_cost(PRICES, "t3.small", 0, 1, 1) == Decimal("0.01")  # rounded up, never to nothing
    with pytest.raises(OverBudget, match=r"x9\.huge has no price"):
        estimate_cost(PRICES, "x9.huge", 1, 1, 1)


def test_what_is_promised_counts_from_the_beginning_of_the_month_to_the_end() -> None:
    month = datetime(2026, 11, 1, tzinfo=UTC)
    spends = [
        Charge("t3.small", 0, month - timedelta(hours=5), month + timedelta(hours=10)),  # 10 h of it in this month
        Charge("m5.large", 0, NOW, NOW + timedelta(hours=2)),
        Charge("m5.large", 0, month - timedelta(hours=5), month - timedelta(hours=1)),  # last month's
    ]
    assert committed_cost(PRICES, spends, NOW) == Decimal("0.40")
    lost = [Charge("t2.gone", 0, NOW, NOW + timedelta(hours=1))]
    assert committed_cost(PRICES, lost, NOW) == Decimal("0.10")  # what lost its price counts at the dearest
    assert machine_cost(PRICES, Charge("t3.small", 0, NOW, NOW - timedelta(hours=1))) == 0


def test_the_cap_is_kept_to_the_cent() -> None:
    check_within("burst", "10", Decimal("9.00"), Decimal("10.00"))
    with pytest.raises(OverBudget, match=r"estimated at 1\.01 USD, 9\.00 USD are spent .* the 10 USD"):
        check_within("burst", "10", Decimal("9.00"), Decimal("10.01"))
