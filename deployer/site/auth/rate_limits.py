"""How often somebody may ask: token buckets, one for each person and one for each address. Pure, but for a lock.

A bucket holds so many requests and fills at a steady rate; who finds it empty is told when the next one is answered
(RFC 9110, section 10.2.3). The address comes first, so that guessing at tokens is bounded before it costs anything.
"""

import math
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from deployer.errors import TooManyRequests

REMEMBERED = 20_000
"""Buckets that are kept; the one that was not used for longest goes first. It would be full again long before."""


@dataclass(frozen=True)
class RequestRate:
    """So many requests at once, and so many more each second after that."""

    burst: float
    per_second: float

    @classmethod
    def steady(cls, per_second: float, seconds: float) -> "RequestRate":
        """That many each second, and those of so many seconds at once; one at least."""
        return cls(max(1.0, per_second * seconds), per_second)


BURSTS = 5.0, 4.0, 40.0
"""Seconds' worth of requests that may come at once: of one person (a page that looks at everything, and a script beside
it), of one address (several people behind one router; nodes behind one, too), and of failures to say who one is (a wrong
file by accident, not a search)."""

PER_PERSON, PER_ADDRESS, PER_FAILURE = RequestRate(100, 20), RequestRate(400, 100), RequestRate(20, 0.5)
"""Unless the site's settings say otherwise. Others at an address from which failures come do not suffer."""


class TokenBuckets:
    """Buckets of one kind, by whatever they are for. Safe to use from several threads.

    Args:
        rate: of each of them.
        clock: seconds, that never goes back.
        most: buckets that are kept.
    """

    def __init__(self, rate: RequestRate, clock: Callable[[], float], most: int = REMEMBERED) -> None:
        self._rate, self._clock, self._most = rate, clock, most
        self._lock = threading.Lock()
        self._held: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, key: str) -> float:
        """Take a request out of a bucket.

        Returns:
            0 where there was one; else the seconds until there is, and nothing has been taken.
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
    """What a site asks before it answers anybody.

    Args:
        clock: seconds, that never goes back.
        person, address, failure: how often each may.
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

    def knock(self, address: str) -> None:
        """Somebody is there, at this address; TooManyRequests where that is too often."""
        _answer(self._addresses.take(address), "from your address")

    def failed(self, address: str) -> None:
        """Whoever it was could not say who they are; TooManyRequests where that happens too often."""
        _answer(self._failures.take(address), "from your address that say nothing that counts")

    def ask(self, identity: str) -> None:
        """Somebody who is known asks for something; TooManyRequests where that is too often."""
        _answer(self._persons.take(identity), "of yours")


def _answer(wait: float, whose: str) -> None:
    if wait > 0:
        seconds = max(1, math.ceil(wait))
        raise TooManyRequests(f"there are too many requests {whose}; ask again in {seconds} s", seconds)
