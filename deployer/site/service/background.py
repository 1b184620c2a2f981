"""What a site's service does without being asked: threads that sweep, ring for whoever waits, and look at the catalog."""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime

from catalog.client.trusted import TrustedCatalog
from catalog.errors import CatalogError
from deployer.errors import SiteUnavailable
from deployer.site.store.store import SiteStore, newest
from deployer.web.wakeup import Wakeup
from signer.errors import PartitaError

TICK = 1.0
"""Seconds between two looks at what has to be done in time."""

GATHER_SECONDS = 0.05
"""How long news are gathered: a thousand events in a row do not wake a thousand nodes a thousand times."""

LATE = 60.0
"""Seconds without such a look after which the service is not ready: something holds it up."""

FRESHNESS_SECONDS = 600.0
"""How often a site looks at what is current when nobody orders machines: often against a lifetime of a day."""

END_SECONDS = 10.0

PeriodicTask = Callable[[datetime], object]
"""Something that has to be done in time, called each second; twice does no harm."""

log = logging.getLogger("partita.site")


class BackgroundThreads:
    """The threads.

    Args:
        store: of the site.
        catalog: that its images come from.
        bells: rung when there is news.
        duties: what is done each second.

    Attributes:
        revisions: of each node's desired state, as of the last ring of the bells.
    """

    def __init__(
        self, store: SiteStore, catalog: TrustedCatalog, bells: Sequence[Wakeup], duties: Sequence[PeriodicTask]
    ) -> None:
        self._store, self._catalog, self._bells, self._duties = store, catalog, bells, duties
        self.revisions: Mapping[str, int] = {}
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []
        self._looked: float | None = None

    def start(self) -> None:
        """Begin."""
        for name, work in (("sweeper", self._sweep), ("ringer", self._ring), ("freshness", self._stay_fresh)):
            thread = threading.Thread(target=work, name=name, daemon=True)
            thread.start()
            self._threads.append(thread)

    def close(self) -> None:
        """End, and wait for that."""
        self._ended.set()
        for thread in self._threads:
            thread.join(END_SECONDS)

    def check(self) -> None:
        """Raise SiteUnavailable unless what has to be done in time is done."""
        if self._looked is None or time.monotonic() - self._looked > LATE:
            raise SiteUnavailable("background tasks are failing; see the service's log")

    def _sweep(self) -> None:
        """Each second every duty; what one of them fails over keeps no other from being done, and is tried again."""
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

    def _ring(self) -> None:
        """Wake whoever waits for news. However many wait, one query tells what is new for which node."""
        last = 0
        while not self._ended.wait(GATHER_SECONDS):
            try:
                self._store.wait(last, None, 0, TICK)
                now = self._store.read(newest)
            except PartitaError as exc:
                log.warning("news of the site cannot be looked for: %s", exc)
                self._ended.wait(TICK)
                continue
            if now.event != last or now.revisions != self.revisions:
                last, self.revisions = now.event, now.revisions
                for bell in self._bells:
                    bell.notify()

    def _stay_fresh(self) -> None:
        """Look at the catalog now and then, so that what is about to expire is said before it keeps machines from starting."""
        told: str | None = None
        while not self._ended.wait(FRESHNESS_SECONDS):
            with suppress(CatalogError):  # said by the status, and by whoever orders a machine
                self._catalog.refresh()
            problem = self._catalog.freshness().problem
            if problem is not None and problem != told:
                log.warning("%s", problem)
            told = problem


def run_every(seconds: float, work: Callable[[], object], clock: Callable[[], float] = time.monotonic) -> PeriodicTask:
    """A duty that is done only so often; the first time after as many seconds."""
    last = clock()

    def duty(_now: datetime) -> None:
        nonlocal last
        if clock() - last >= seconds:
            last = clock()
            work()

    return duty
