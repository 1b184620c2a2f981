"""The system's clock, for commands and services; everything else takes the time as an argument."""

from datetime import UTC, datetime


def utc_now() -> datetime:
    """The current time, UTC."""
    return datetime.now(UTC)


def current_second() -> datetime:
    """The current time in whole seconds, as documents carry it."""
    return utc_now().replace(microsecond=0)
