"""How long to wait before a failed step is tried again."""

FIRST_DELAY, LONGEST_DELAY = 1.0, 60.0
"""Seconds until what could not be done is tried again: doubled each time, up to the second."""


def retry_delay(tries: int) -> float:
    """Seconds until what failed so often is tried again."""
    return float(min(FIRST_DELAY * 2 ** (tries - 1), LONGEST_DELAY))
