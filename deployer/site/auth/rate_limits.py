"""Rate limits: token buckets, one for each person and one for each address. Pure, but for a lock.

A bucket holds so many requests and fills at a steady rate; a client that finds it empty is told when to retry
(RFC 9110, section 10.2.3). The address is checked first, so that guessing at tokens is bounded before it costs anything.
"""

import math
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from deployer.errors import TooManyRequests

REMEMBERED = 20_000
"""Buckets that are kept; the least recently used is dropped first. It would be full again long before."""


@dataclass(frozen=True)
class RequestRate:
    """The size of a bucket (requests at once), and its rate of filling (requests per second)."""

    burst: float
    per_second: float

    @classmethod
    def steady(cls, per_second: float, seconds: float) -> "RequestRate":
        """A rate of `per_second`, with a burst of as many as that gives in `seconds`; one at least."""
        return cls(max(1.0, per_second * seconds), per_second)


BURSTS = 5.0, 4.0, 40.0
"""Seconds' worth of requests that may come at once: of one person (a page that loads everything, and a script beside
it), of one address (several people, or nodes, behind one router), and of failures to authenticate (a wrong
file by accident, not a search)."""

PER_PERSON, PER_ADDRESS, PER_FAILURE = RequestRate(100, 20), RequestRate(400, 100), RequestRate(20, 0.5)
"""Defaults of the site's settings. Failures from an address do not slow others at it."""


class TokenBuckets:
    """Buckets of one kind, by key. Safe to use from several threads.

    Args:
        rate: of each of them.
        clock: monotonic seconds.
        most: buckets that are kept.
    """

    def __init__(self, rate: RequestRate, clock: Callable[[], float], most: int = REMEMBERED) -> None:
        self._rate, self._clock, self._most = rate, clock, most
        self._lock = threading.Lock()
        self._held: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, key: str) -> float:
        """Take a request out of a bucket.

        Returns:
            0 where there was one; else the seconds until there is one, and nothing has been taken.
        """
        with self._lock:
            now = self._clock()
            left, then = self._held.pop(key, (self._rate.burst, now))
            left = min(self._rate.burst, left + (now - then) * self._rate.per_second)
            wait = 0.0 if left >= 1.0 else (1.0 - left) / self._rate.per_second
            self._held[key] = (left if wait else left - 1.0, now)
            while len(self._held) > self._most:
                self._held.popitem(last=False)
            return wait


class RequestLimiter:
    """Limits requests by address, by person, and failures by address.

    Args:
        clock: monotonic seconds.
        person, address, failure: the rate of each.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        person: RequestRate = PER_PERSON,
        address: RequestRate = PER_ADDRESS,
        failure: RequestRate = PER_FAILURE,
    ) -> None:
        self._persons, self._addresses = TokenBuckets(person, clock), TokenBuckets(address, clock)
        self._failures = TokenBuckets(failure, clock)

    def check_address(self, address: str) -> None:
        """Count a request from an address; TooManyRequests above its rate."""
        _answer(self._addresses.take(address), "from your address")

    def count_failure(self, address: str) -> None:
        """Count a failure to authenticate from an address; TooManyRequests above its rate."""
        _answer(self._failures.take(address), "from your address without valid credentials")

    def check_person(self, identity: str) -> None:
        """Count a request of an authenticated person; TooManyRequests above their rate."""
        _answer(self._persons.take(identity), "of yours")


def _answer(wait: float, whose: str) -> None:
    if wait > 0:
        seconds = max(1, math.ceil(wait))
        raise TooManyRequests(f"too many requests {whose}; retry in {seconds} s", seconds)
