"""Delays before a failed step is retried."""

import sys

from signer.runtime.retry import RetryPolicy

RETRIES = RetryPolicy(attempts=sys.maxsize, base=1.0, max_pause=60.0, floor=0.5)
"""The retries of a node: without end."""
