"""How fresh what is known of a catalog is, and what is wrong with that. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from catalog.tuf.metadata import LIFETIMES

WARN = 0.45
"""Of a lifetime: metadata that holds for less than that is overdue. It is signed afresh at half of its lifetime."""


@dataclass(frozen=True)
class Freshness:
    """How fresh what a node knows of its catalog is.

    Attributes:
        pinned: whether there is a root to believe by.
        expires: when the first of the trusted metadata expires; from then on nothing new starts. None if there is none.
        problem: what is wrong or will soon be, in a sentence.
    """

    pinned: bool
    expires: datetime | None = None
    problem: str | None = None


def assess_freshness(known: Mapping[str, datetime], now: datetime) -> Freshness:
    """How fresh metadata is under a pinned root.

    Args:
        known: when each role's trusted metadata expires; empty where nothing has been read yet.
        now: UTC.
    """
    if not known:
        return Freshness(pinned=True)
    role, expires = min(known.items(), key=lambda item: item[1])
    problem = None
    if expires <= now:
        problem = f"{role} metadata expired on {expires:%Y-%m-%d %H:%M}: nothing new starts until the catalog answers"
    else:
        for role, when in known.items():
            if when - now < LIFETIMES[role] * WARN:
                problem = f"{role} metadata expires on {when:%Y-%m-%d %H:%M}: see that the catalog answers and signs"
    return Freshness(pinned=True, expires=expires, problem=problem)
