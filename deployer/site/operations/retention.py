"""The use case: a site removes objects that ended long ago, some at a time.

What has ended is kept for `keep` after it expires: deployments with their machines, idempotency keys and events, clusters,
events of nodes, join tokens, what guests published. Events with an actor are kept for `keep_audit`. Objects that live ones
refer to are kept for as long as these live.

Each step is a short transaction, so that no request waits for it, and finds what it removes by an index; killed at any instant,
the next one finds the rest.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, TypeVar

from deployer.site.db import prune as store_prune
from deployer.site.db.engine import SiteDatabase, Transaction
from deployer.site.settings import SiteSettings
from signer.runtime.units import parse_duration

T = TypeVar("T")

MACHINES_AT_ONCE: Final = 200
"""Machines that are looked at in one transaction; a deployment goes whole, with a thousand at most."""

EVENTS_AT_ONCE: Final = 2000
"""Events in one transaction."""

STEPS_AT_ONCE: Final = 10
"""Transactions of one look: some seconds of work at most."""

LOOK_SECONDS: Final = 60.0
"""How often a site looks whether something is to be forgotten."""

REST: Final = timedelta(hours=1)
"""How long nothing is looked for when all has been looked at."""


@dataclass(frozen=True)
class RetentionPeriods:
    """For how long what is kept: of what has ended, and of what people did."""

    over: timedelta
    audit: timedelta


def retention_periods(settings: SiteSettings) -> RetentionPeriods:
    """The periods of a site's settings."""
    over, audit = (timedelta(seconds=parse_duration(text)) for text in (settings.keep, settings.keep_audit))
    return RetentionPeriods(over, audit)


class Pruner:
    """Forgets. One of them is enough; two do no harm.

    Args:
        database: of the site.
        keeping: see there.
        dry: only count what would be removed.
    """

    def __init__(self, database: SiteDatabase, keeping: RetentionPeriods, *, dry: bool = False) -> None:
        self._database, self._keeping, self._dry = database, keeping, dry
        self._steps: Iterator[dict[str, int]] | None = None
        self._rest_until: datetime | None = None

    def look(self, now: datetime) -> Counter[str]:
        """Go on where the last look ended, for some steps; what was removed, by kind. Rests when all has been looked at."""
        removed = Counter[str]()
        if self._rest_until is not None and now < self._rest_until:
            return removed
        steps = self._steps or self._pass(now)
        self._steps, self._rest_until = steps, None
        for _ in range(STEPS_AT_ONCE):
            done = next(steps, None)
            if done is None:
                self._steps, self._rest_until = None, now + REST
                break
            removed.update(done)
        return removed

    def everything(self, now: datetime) -> Counter[str]:
        """Look at all, once; what was removed, or would be."""
        removed = Counter[str]()
        for done in self._pass(now):
            removed.update(done)
        return removed

    def _pass(self, now: datetime) -> Iterator[dict[str, int]]:
        """A step for each transaction."""
        before, audit = now - self._keeping.over, now - max(self._keeping.over, self._keeping.audit)
        yield from self._deployments(before)
        yield from self._clusters(before)
        yield from self._events(before, deeds=False)
        yield from self._events(audit, deeds=True)
        with self._database.reading() as connection:
            tokens = store_prune.old_tokens(connection, before)
        yield self._forget("tokens", tokens, lambda connection, _: store_prune.forget_tokens(connection, before))

    def _forget(
        self, kind: str, found: Sequence[T], remove: Callable[[Transaction, Sequence[T]], dict[str, int]]
    ) -> dict[str, int]:
        """Remove what was found, or only count it; writes only where there is something."""
        if self._dry or not found:
            return {kind: len(found)}
        with self._database.writing() as connection:
            return remove(connection, found)

    def _deployments(self, before: datetime) -> Iterator[dict[str, int]]:
        after, counted = None, set[str]()
        while True:
            with self._database.reading() as connection:
                rows = store_prune.old_machines(connection, before, after, MACHINES_AT_ONCE)
                found = store_prune.removable_deployments(connection, {uuid for _, uuid in rows} - counted, before)
                machines = len(store_prune.machines_in(connection, found)) if self._dry and found else 0
            if not rows:
                return
            after = rows[-1][0]
            if self._dry:
                counted.update(found)
                yield {"deployments": len(found), "machines": machines}
            else:
                yield self._forget(
                    "deployments",
                    found,
                    lambda connection, uuids: store_prune.forget_deployments(connection, uuids, before),
                )

    def _clusters(self, before: datetime) -> Iterator[dict[str, int]]:
        after = 0
        while True:
            with self._database.reading() as connection:
                rows = store_prune.ended_clusters(connection, after, MACHINES_AT_ONCE)
            if not rows:
                return
            after = rows[-1][0]
            found = [one.uuid for _, one, kept in rows if not kept and one.state.changed < before]
            yield self._forget("clusters", found, store_prune.forget_clusters)

    def _events(self, before: datetime, *, deeds: bool) -> Iterator[dict[str, int]]:
        after: int | None = 0
        while after is not None:
            with self._database.reading() as connection:
                found, after = store_prune.old_events(connection, before, after, EVENTS_AT_ONCE, deeds=deeds)
            yield self._forget("events", found, store_prune.forget_events)
