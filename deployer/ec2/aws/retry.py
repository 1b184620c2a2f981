"""How often a request is repeated, and how long to wait before: exponential, with full jitter.

Many workers that failed together must not come back together, so each waits a random part of the time ("Exponential
Backoff And Jitter", AWS Architecture Blog, 2015). Pure: who calls brings the chance and does the waiting.
"""

from dataclasses import dataclass

ATTEMPTS = 12
"""Of one request. With 5 % of all requests failing, one in 10^15 fails twelve times."""

BASE = 0.2
MOST = 20.0
"""Seconds: the longest possible first pause, and the longest of all. Twelve attempts wait a minute and a half at most,
half of it on average: long enough for "there is no such snapshot" of one that was just started."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """What one request may cost.

    Attributes:
        attempts: at least 1.
        base, most: seconds.
    """

    attempts: int = ATTEMPTS
    base: float = BASE
    most: float = MOST

    def again(self, attempt: int) -> bool:
        """Whether there is another attempt after this one, which counts from 1."""
        return attempt < self.attempts

    def pause(self, attempt: int, chance: float, least: float = 0.0) -> float:
        """Seconds to wait after an attempt.

        Args:
            attempt: counts from 1.
            chance: evenly from [0, 1).
            least: what the other side asked for, as far as `most`.
        """
        return max(chance * min(self.most, self.base * 2.0 ** (attempt - 1)), min(least, self.most))
