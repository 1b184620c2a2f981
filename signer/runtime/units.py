"""Sizes and durations as people write them in policies, settings, recipes and commands: a whole number and its unit.

Not pydantic's ByteSize: it reads 256M as 256 000 000 bytes, less than is meant by that for a machine's memory, and a bare 4
as 4 bytes.
"""

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Annotated, Final

from pydantic import AfterValidator, BeforeValidator, Field

SIZE_UNITS: Final = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
DURATION_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400, "y": 365 * 86400}

MAX_SIZE: Final = 64 << 40
"""The largest size in bytes."""

MAX_DURATION: Final = 100 * 365 * 86400
"""Seconds. A hundred years: longer than any real duration, and dates can still be computed with it."""

_AMOUNT = re.compile(r"([0-9]{1,15})\s?([A-Za-z]+)")


def parse_size(text: object) -> int:
    """Read a size such as `512MiB` or `4GiB` in bytes; ValueError if it is malformed or more than 64 TiB."""
    size = _amount(text, SIZE_UNITS, "a size such as '512MiB' or '4GiB'")
    if size > MAX_SIZE:
        raise ValueError(f"{text} is more than the 64TiB allowed")
    return size


def parse_duration(text: object) -> int:
    """Read a duration such as `90s`, `30m`, `12h`, `30d`, `2w`, `2y` (a year has 365 days) in seconds; ValueError if it is
    malformed or more than a hundred years."""
    seconds = _amount(text, DURATION_UNITS, "a duration such as '30m', '12h' or '30d'")
    if seconds > MAX_DURATION:
        raise ValueError(f"{text} is longer than a hundred years")
    return seconds


def size_text(size: int) -> str:
    """Write a size in the shortest exact form, which `parse_size` reads back as the same number."""
    return _text(size, SIZE_UNITS)


def duration_text(duration: int | timedelta) -> str:
    """Write whole seconds in the shortest exact form, which `parse_duration` reads back as the same number."""
    seconds = int(duration.total_seconds()) if isinstance(duration, timedelta) else duration
    # In days at most: 7d should not come back as 1w.
    return _text(seconds, {unit: factor for unit, factor in DURATION_UNITS.items() if unit not in {"w", "y"}})


Size = Annotated[int, BeforeValidator(parse_size), Field(ge=0)]
Duration = Annotated[int, BeforeValidator(parse_duration), Field(ge=0)]


def _or_number(parse: Callable[[object], int]) -> BeforeValidator:
    return BeforeValidator(lambda value: parse(value) if isinstance(value, str) else value)


ByteSetting = Annotated[int, _or_number(parse_size), Field(ge=0)]
SecondSetting = Annotated[int, _or_number(parse_duration), Field(ge=0)]
"""Settings that were numbers of bytes and of seconds before they could be written with a unit, and still can be."""


def _duration(text: str) -> str:
    parse_duration(text)
    return text


DurationText = Annotated[str, AfterValidator(_duration)]
"""A duration that is kept as it was written."""


def _amount(text: object, units: dict[str, int], wanted: str) -> int:
    match = _AMOUNT.fullmatch(text) if isinstance(text, str) else None
    if not match or match[2] not in units:
        raise ValueError(f"{str(text)[:40]!r} is not {wanted}: a whole number and one of {', '.join(units)}")
    return int(match[1]) * units[match[2]]


def _text(amount: int, units: dict[str, int]) -> str:
    unit, factor = next(
        ((unit, factor) for unit, factor in reversed(units.items()) if amount and amount % factor == 0),
        next(iter(units.items())),
    )
    return f"{amount // factor}{unit}"
