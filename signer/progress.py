"""How long jobs tell whoever watches how far they are."""

from collections.abc import Callable

Advance = Callable[[int], None]
"""What a long job calls with the number of bytes (or steps) just done."""


def nothing(done: int) -> None:
    """The Advance of callers who do not watch."""
