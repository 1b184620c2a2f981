"""Which entries give way. Pure: values in, a choice out."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EvictionCandidate:
    """Something that takes room in the cache.

    Attributes:
        key: what it is.
        allocated: bytes that leave with it.
        last_used: seconds since the epoch.
        leased_until: when its last lease ends, in seconds since the epoch; None without one.
        busy: whether this process is working with it now.
        vos: whose images have it.
        trashed: it has left the cache already, and only its file is still there.
    """

    key: str
    allocated: int
    last_used: float
    leased_until: float | None = None
    busy: bool = False
    vos: frozenset[str] = frozenset()
    trashed: bool = False

    def held(self, now: float) -> bool:
        """Whether somebody needs it."""
        return self.busy or (self.leased_until is not None and self.leased_until > now)


@dataclass(frozen=True, slots=True)
class EvictionPlan:
    """What to evict. `freed` is less than what was needed when even everything that nobody holds is too little; then
    there are no victims, for evicting them would help nobody. `held` is what cannot go, in bytes."""

    victims: tuple[str, ...]
    freed: int
    held: int


def choose_victims(
    candidates: Iterable[EvictionCandidate],
    need: int,
    now: float,
    shares: Mapping[str, int] | None = None,
    vo: str = "",
) -> EvictionPlan:
    """Trash first, then the least recently used of what nobody holds, as many as it takes to free `need` bytes, no more.

    Args:
        candidates: everything that takes room.
        need: bytes.
        now: seconds since the epoch.
        shares: bytes that are a VO's own, by VO: what it has within them gives way to nobody else. What several VOs have
            counts for each, and stays for each.
        vo: whose need it is.
    """
    known = list(candidates)
    used: Counter[str] = Counter()
    for one in known:
        for owner in () if one.trashed else one.vos:
            used[owner] += one.allocated
    held = sum(one.allocated for one in known if one.held(now))
    victims, freed, available = [], 0, 0
    for one in sorted(known, key=lambda one: (not one.trashed, one.last_used, one.key)):
        if one.held(now) or not one.allocated:
            continue
        owners = frozenset() if one.trashed else one.vos
        if any(owner != vo and used[owner] <= (shares or {}).get(owner, 0) for owner in owners):
            held += one.allocated
            continue
        if freed < need:
            victims.append(one.key)
            freed += one.allocated
        used.subtract(dict.fromkeys(owners, one.allocated))
        available += one.allocated
    # Evicting what does not do helps nobody.
    return EvictionPlan(tuple(victims), freed, held) if available >= need else EvictionPlan((), available, held)
