"""How fresh the trusted metadata of a catalog is, and what is wrong with it. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from catalog.tuf.metadata import LIFETIMES

WARN = 0.45
"""Fraction of a lifetime: metadata with less than that left is overdue. The catalog signs anew at half of the lifetime."""


@dataclass(frozen=True)
class Freshness:
    """How fresh a node's knowledge of its catalog is.

    Attributes:
        pinned: whether a root is pinned.
        expires: when the first of the trusted metadata expires; no machine starts after that. None without metadata.
        problem: what is wrong or soon will be, in a sentence.
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
        problem = f"{role} metadata expired on {expires:%Y-%m-%d %H:%M}: no machine starts until the catalog answers"
    else:
        for role, when in known.items():
            if when - now < LIFETIMES[role] * WARN:
                problem = f"{role} metadata expires on {when:%Y-%m-%d %H:%M}: check that the catalog answers and signs"
    return Freshness(pinned=True, expires=expires, problem=problem)
