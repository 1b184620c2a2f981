"""Which entries give way. Pure: values in, a choice out."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Candidate:
    """Something that takes room in the cache.

    Attributes:
        key: what it is.
        allocated: bytes that leave with it.
        last_used: seconds since the epoch.
        leased_until: when its last lease ends, in seconds since the epoch; None without one.
        busy: whether this process is working with it now.
    """

    key: str
    allocated: int
    last_used: float
    leased_until: float | None = None
    busy: bool = False

    def held(self, now: float) -> bool:
        """Whether somebody needs it."""
        return self.busy or (self.leased_until is not None and self.leased_until > now)


@dataclass(frozen=True, slots=True)
class Choice:
    """What to evict. `freed` is less than what was needed when even everything that nobody holds is too little; then
    there are no victims, for evicting them would help nobody. `held` is what cannot go, in bytes."""

    victims: tuple[str, ...]
    freed: int
    held: int


def choose_victims(candidates: Iterable[Candidate], need: int, now: float) -> Choice:
    """The least recently used of what nobody holds, as many as it takes to free `need` bytes, and no more."""
    known = list(candidates)
    held = sum(one.allocated for one in known if one.held(now))
    free = sorted((one for one in known if not one.held(now)), key=lambda one: (one.last_used, one.key))
    available = sum(one.allocated for one in free)
    if available < need:
        return Choice((), available, held)
    victims, freed = [], 0
    for one in free:
        if freed >= need:
            break
        if one.allocated:
            victims.append(one.key)
            freed += one.allocated
    return Choice(tuple(victims), freed, held)
