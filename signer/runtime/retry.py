"""How often something is tried again, and how long to wait before: exponential, with jitter.

Many that failed together must not come back together, so each waits a random part of the time ("Exponential Backoff And
Jitter", AWS Architecture Blog, 2015). Pure: who calls does the waiting.

Not tenacity or stamina: they wrap a call that is repeated as a whole. Here a transfer goes on at the byte where it was cut,
a request to EC2 is repeated or not by whether it was sent, and agents keep the time of the next try in a table while they
do other things. What all of them share is this arithmetic.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How something is tried again.

    Attributes:
        attempts: in all, at least 1.
        base, most: seconds: the longest first pause, and the longest of all; doubling in between.
        floor: the part of a pause that is always waited, from 0 (full jitter) to 1 (none).
    """

    attempts: int
    base: float
    most: float
    floor: float = 0.0

    def again(self, attempt: int) -> bool:
        """Whether there is another attempt after this one, which counts from 1."""
        return attempt < self.attempts

    def pause(self, attempt: int, chance: float | None = None, least: float = 0.0) -> float:
        """Seconds to wait after an attempt.

        Args:
            attempt: counts from 1.
            chance: evenly from [0, 1); drawn if it is not given.
            least: what the other side asked for, as far as `most`.
        """
        longest = min(self.most, self.base * 2.0 ** min(attempt - 1, 64))
        drawn = random.random() if chance is None else chance  # noqa: S311 - no secret
        return max(longest * (self.floor + (1 - self.floor) * drawn), min(least, self.most))

    def pauses(self) -> Iterator[float | None]:
        """For each attempt the seconds to wait when it fails; None for the last."""
        for attempt in range(1, self.attempts):
            yield self.pause(attempt)
        yield None
