"""Sizes of machines are whole MiB, and a machine never has more than its maximum."""

import pytest
from pydantic import ValidationError

from deployer.machine.shape import MEMORY_UNIT, MIN_MEMORY, MachineShape, whole_units


@pytest.mark.parametrize(
    ("size", "memory"),
    [
        (0, MIN_MEMORY),
        (MIN_MEMORY, MIN_MEMORY),
        (MIN_MEMORY + 1, MIN_MEMORY + MEMORY_UNIT),
        ((1 << 30) - 1, 1 << 30),
        (1 << 30, 1 << 30),
    ],
)
def test_memory_is_rounded_up_to_whole_mebibytes(size: int, memory: int) -> None:
    """Never down, and never below what any machine needs."""
    assert whole_units(size) == memory


def test_a_fixed_shape_is_its_own_maximum() -> None:
    """It may not be resized."""
    shape = MachineShape.fixed(1 << 30, 2)
    assert (shape.max_memory, shape.max_cores) == (1 << 30, 2)
    assert shape.shape == shape


@pytest.mark.parametrize("change", [{"max_memory": 1 << 29}, {"max_cores": 1}, {"memory": (1 << 30) + 1}, {"cores": 0}])
def test_a_shape_that_cannot_be_is_refused(change: dict[str, int]) -> None:
    """More than the maximum, half a MiB, or no processor at all."""
    with pytest.raises(ValidationError):
        MachineShape.model_validate(MachineShape.fixed(1 << 30, 2).model_dump() | change)
