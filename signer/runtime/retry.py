"""Retry policies: the number of attempts and the pauses between them, exponential with jitter.

Clients that failed together must not retry together, so each waits a random part of the time ("Exponential Backoff And
Jitter", AWS Architecture Blog, 2015). Pure: the caller waits.

Not tenacity or stamina: they wrap a call that is repeated as a whole. Here a transfer continues at the byte where it broke,
a request to EC2 is repeated only if it was not sent, and agents keep the time of the next attempt in a table while they do
other things. They all share this arithmetic only.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """A number of attempts, and the pauses between them.

    Attributes:
        attempts: in all, at least 1.
        base, max_pause: seconds: the longest first pause, and the longest of all; doubling in between.
        floor: the fixed part of a pause, from 0 (full jitter) to 1 (no jitter).
    """

    attempts: int
    base: float
    max_pause: float
    floor: float = 0.0

    def has_next(self, attempt: int) -> bool:
        """Whether there is another attempt after this one, which counts from 1."""
        return attempt < self.attempts

    def pause(self, attempt: int, chance: float | None = None, min_pause: float = 0.0) -> float:
        """Return the seconds to wait after an attempt.

        Args:
            attempt: counts from 1.
            chance: uniform in [0, 1); by default drawn at random.
            min_pause: the pause that the other side asked for; at most `max_pause`.
        """
        longest = min(self.max_pause, self.base * 2.0 ** min(attempt - 1, 64))
        drawn = random.random() if chance is None else chance  # noqa: S311 - no secret
        return max(longest * (self.floor + (1 - self.floor) * drawn), min(min_pause, self.max_pause))

    def pauses(self) -> Iterator[float | None]:
        """Yield for each attempt the seconds to wait if it fails; None for the last."""
        for attempt in range(1, self.attempts):
            yield self.pause(attempt)
        yield None
