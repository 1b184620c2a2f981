"""How long jobs tell whoever watches how far they are."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

Advance = Callable[[int], None]
"""What a long job calls with the number of bytes (or steps) just done."""


def ignore_progress(done: int) -> None:
    """The Advance of callers who do not watch."""


ProgressBars = Callable[[str, int | None], AbstractContextManager[Advance]]
"""Where a job of several steps gets an Advance for each: (label, total or None); `terminal.progress` is one."""


@contextmanager
def no_progress_bars(label: str, total: int | None) -> Iterator[Advance]:  # noqa: ARG001 - the shape of Bars
    """The Bars of callers who do not watch."""
    yield ignore_progress
