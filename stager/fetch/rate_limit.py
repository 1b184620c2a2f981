"""A rate limit on bytes, so that guests keep their share of link and disk."""

import threading
import time
from collections.abc import Callable

BURST = 0.25
"""Seconds of the rate that may pass at once."""


class RateLimit:
    """A limit of bytes per second over all threads; called with a number of bytes received, it waits as long as needed."""

    def __init__(
        self, rate: int, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        """`rate` is bytes per second; 0 means no limit."""
        self._rate, self._clock, self._sleep = rate, clock, sleep
        self._lock = threading.Lock()
        self._free_at = clock()

    def __call__(self, count: int) -> None:
        """Count received bytes, and wait."""
        if not self._rate:
            return
        with self._lock:
            now = self._clock()
            self._free_at = max(self._free_at, now - BURST) + count / self._rate
            wait = self._free_at - now
        if wait > 0:
            self._sleep(wait)
