"""A site's background threads: they run periodic tasks, wake waiting requests, and keep the TUF metadata current."""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial

from catalog.client.trusted import TrustedCatalog, keep_fresh
from deployer.errors import SiteUnavailable
from deployer.site.store.store import SiteStore, newest
from deployer.web.wakeup import Wakeup
from signer.errors import PartitaError

TICK = 1.0
"""Seconds between two runs of the periodic tasks."""

GATHER_SECONDS = 0.05
"""How long changes are collected: a thousand events in a row do not wake a thousand nodes a thousand times."""

LATE = 60.0
"""Seconds without a successful run after which the service is not ready."""

END_SECONDS = 10.0

PeriodicTask = Callable[[datetime], object]
"""A periodic task, called each second; must be idempotent."""

log = logging.getLogger("partita.site")


class BackgroundThreads:
    """The threads.

    Args:
        store: of the site.
        catalog: that its images come from.
        wakeups: notified of changes.
        duties: the periodic tasks.

    Attributes:
        revisions: of each node's desired state, as of the last notification.
    """

    def __init__(
        self, store: SiteStore, catalog: TrustedCatalog, wakeups: Sequence[Wakeup], duties: Sequence[PeriodicTask]
    ) -> None:
        self._store, self._catalog, self._wakeups, self._duties = store, catalog, wakeups, duties
        self.revisions: Mapping[str, int] = {}
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []
        self._looked: float | None = None

    def start(self) -> None:
        """Start the threads."""
        fresh = partial(keep_fresh, self._catalog, self._ended, log)
        for name, work in (("sweeper", self._sweep), ("notifier", self._notify), ("freshness", fresh)):
            thread = threading.Thread(target=work, name=name, daemon=True)
            thread.start()
            self._threads.append(thread)

    def close(self) -> None:
        """End the threads, and wait for them."""
        self._ended.set()
        for thread in self._threads:
            thread.join(END_SECONDS)

    def check(self) -> None:
        """Raise SiteUnavailable unless all periodic tasks succeeded lately."""
        if self._looked is None or time.monotonic() - self._looked > LATE:
            raise SiteUnavailable("background tasks are failing; see the service's log")

    def _sweep(self) -> None:
        """Run every task each second; a failure of one does not keep others from running, and is retried."""
        while True:
            now, well = self._store.now(), True
            for duty in self._duties:
                try:
                    duty(now)
                except PartitaError as exc:
                    well = False
                    log.warning("background task failed: %s", exc)
                except Exception:
                    well = False
                    log.exception("background task failed; continuing")
            if well:
                self._looked = time.monotonic()
            if self._ended.wait(TICK):
                return

    def _notify(self) -> None:
        """Wake waiting requests after changes. However many wait, one query finds what changed for which node."""
        last = 0
        while not self._ended.wait(GATHER_SECONDS):
            try:
                self._store.notifier.wait(last, None, 0, TICK)
                now = self._store.read(newest)
            except PartitaError as exc:
                log.warning("watching the site's database failed; retrying: %s", exc)
                self._ended.wait(TICK)
                continue
            if now.event != last or now.revisions != self.revisions:
                last, self.revisions = now.event, now.revisions
                for wakeup in self._wakeups:
                    wakeup.notify()


def run_every(seconds: float, work: Callable[[], object], clock: Callable[[], float] = time.monotonic) -> PeriodicTask:
    """A periodic task that runs every so many seconds; first after as many."""
    last = clock()

    def duty(_now: datetime) -> None:
        nonlocal last
        if clock() - last >= seconds:
            last = clock()
            work()

    return duty
