"""The site's work by the clock: it ends expired machines, warns their owners, gives up silent nodes, and places machines
that lost their node.

One look does all that is due, in one transaction for each kind of work; while nothing is due it only reads. Repeated looks are
harmless, and so are two services that look at the same database.
"""

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta

from deployer.site.db.nodes import present_nodes
from deployer.site.lifecycle.report_rules import LostPolicy
from deployer.site.operations.fencing import FencingMethod, fence_none
from deployer.site.scheduling.placement import Placer
from deployer.site.store.deadlines import DueWork, meet_deadlines, place_waiting
from deployer.site.store.store import SiteStore

log = logging.getLogger("partita.site")


@dataclass(frozen=True)
class SiteTimeouts:
    """The timeouts of a site.

    Attributes:
        lost_after: how long a node may be silent.
        warn_before: how long before their machines' end owners are warned.
        lost_machines: what becomes of the machines of a node that is lost.
    """

    lost_after: timedelta
    warn_before: timedelta
    lost_machines: LostPolicy = "wait"


@dataclass(frozen=True)
class Sweeper:
    """Does the site's due work. It has no state: any number of sweepers may run.

    Attributes:
        store: of the site.
        place: chooses nodes.
        patience: the timeouts.
        fences: finds the lost nodes that certainly run nothing; only then are their machines replaced.
        began: when this service began to listen. Nodes could not report before, so silence before it does not count.
    """

    store: SiteStore
    place: Placer
    patience: SiteTimeouts
    began: datetime
    fences: FencingMethod = fence_none

    def look(self, now: datetime) -> int:
        """Do the due work; returns the number of changes, mostly 0."""
        patience = self.patience
        silent = now - patience.lost_after
        if silent < self.began:
            silent = datetime.min.replace(tzinfo=now.tzinfo)
        fenced = self.fences(self.store.read(present_nodes)) if self.fences is not fence_none else frozenset[str]()
        done = meet_deadlines(
            self.store, DueWork(now, now + patience.warn_before, silent, patience.lost_machines, fenced)
        )
        return done + place_waiting(self.store, self.place)
