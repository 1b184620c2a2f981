"""Callbacks with which long jobs report their progress."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

Advance = Callable[[int], None]
"""A long job calls it with the number of bytes (or steps) just done."""


def ignore_progress(done: int) -> None:
    """The Advance of callers who do not show progress."""


ProgressBars = Callable[[str, int | None], AbstractContextManager[Advance]]
"""Gives a job of several steps an Advance for each: (label, total or None); `terminal.progress` is one."""


@contextmanager
def no_progress_bars(label: str, total: int | None) -> Iterator[Advance]:  # noqa: ARG001 - a ProgressBars
    """The ProgressBars of callers who do not show progress."""
    yield ignore_progress
