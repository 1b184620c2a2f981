"""Machines of one order have host names that tell them apart."""

import pytest

from deployer.protocol.machine_order import MAX_COUNT, MachineOrder, numbered


def test_a_number_follows_the_name_where_several_machines_share_it() -> None:
    """One machine alone has the name itself."""
    assert numbered("worker", 1, 1) == "worker"
    assert [numbered("worker", number, 3) for number in (1, 2, 3)] == ["worker-1", "worker-2", "worker-3"]


@pytest.mark.parametrize(
    ("hostname", "count", "names"),
    [(None, 3, ()), ("worker", 1, ("worker",)), ("worker", 12, ("worker-12",))],
)
def test_an_order_gives_its_longest_name(hostname: str | None, count: int, names: tuple[str, ...]) -> None:
    """What is valid for this one is valid for all."""
    assert MachineOrder(image="grid/worker", count=count, hostname=hostname).names() == names


@pytest.mark.parametrize("count", [0, MAX_COUNT + 1])
def test_counts_have_limits(count: int) -> None:
    """At least one machine, and no more than a slip of the finger."""
    with pytest.raises(ValueError, match="count"):
        MachineOrder(image="grid/worker", count=count)
