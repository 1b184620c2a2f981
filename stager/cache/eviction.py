"""Chooses the entries to evict. Pure: values in, a plan out."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EvictionCandidate:
    """A file that allocates space in the cache.

    Attributes:
        key: its name.
        allocated: bytes that evicting it frees.
        last_used: seconds since the epoch.
        leased_until: when its last lease ends, in seconds since the epoch; None without one.
        busy: whether this process is working with it now.
        vos: the VOs whose images use it.
        trashed: whether it is in the trash.
    """

    key: str
    allocated: int
    last_used: float
    leased_until: float | None = None
    busy: bool = False
    vos: frozenset[str] = frozenset()
    trashed: bool = False

    def held(self, now: float) -> bool:
        """Whether it must not be evicted."""
        return self.busy or (self.leased_until is not None and self.leased_until > now)


@dataclass(frozen=True, slots=True)
class EvictionPlan:
    """What to evict. If evicting everything that is not held would free too little, `freed` is less than needed and there
    are no victims, since evicting them would not help. `held` is the bytes that cannot be evicted."""

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
    """Choose the trash first, then the least recently used entries that are not held, until `need` bytes are freed.

    Args:
        candidates: all files that allocate space.
        need: bytes.
        now: seconds since the epoch.
        shares: bytes reserved for each VO: its entries within them are not evicted for other VOs. An entry of several VOs
            counts for each of them, and is kept for each.
        vo: the VO that needs the space.
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
    # Evicting too little would not help.
    return EvictionPlan(tuple(victims), freed, held) if available >= need else EvictionPlan((), available, held)
