"""How long to wait before a failed step is tried again."""

import sys

from signer.runtime.retry import RetryPolicy

RETRIES = RetryPolicy(attempts=sys.maxsize, base=1.0, most=60.0, floor=0.5)
"""Of what a node could not do: without end."""


def retry_delay(tries: int) -> float:
    """Seconds until what failed so often is tried again."""
    return RETRIES.pause(tries)
