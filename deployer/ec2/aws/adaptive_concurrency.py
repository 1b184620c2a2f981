"""The number of concurrent requests: fewer when the service throttles, then slowly more again."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SETTLE = 1.0
"""Seconds in which the window is halved at most once: concurrent requests are throttled together."""


class AdaptiveConcurrency:
    """A window of requests: halved when throttled, one wider after each full window that was not ("additive increase,
    multiplicative decrease", Chiu and Jain, 1989). For any number of threads."""

    def __init__(self, most: int, clock: Callable[[], float]) -> None:
        """Args: the widest window, in requests; seconds that only grow."""
        self._most, self._clock = most, clock
        self._window, self._under_way, self._cut = float(most), 0, -SETTLE
        self._room = threading.Condition()

    @property
    def window(self) -> int:
        """Requests that may be under way."""
        return int(self._window)

    @contextmanager
    def one(self) -> Iterator[None]:
        """Make a request in the block, which begins when the window has room; errors leave the window as it is."""
        with self._room:
            self._room.wait_for(lambda: self._under_way < self.window)
            self._under_way += 1
        try:
            yield
            with self._room:
                self._window = min(float(self._most), self._window + 1.0 / self._window)
        finally:
            with self._room:
                self._under_way -= 1
                self._room.notify_all()

    def throttled(self) -> None:
        """The service has throttled a request: halve the window."""
        with self._room:
            if (now := self._clock()) - self._cut >= SETTLE:
                self._window, self._cut = max(1.0, self._window / 2), now
