"""What a site does in time: ends machines when their time has come, warns their owners, gives up nodes that are silent,
and finds nodes for machines that have none.

One look does all that is due, in as few transactions as there are kinds of it; while nothing is due it only reads. Looking
twice does no harm, and neither do two services that look at the same database.
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
    """How long is waited for what.

    Attributes:
        lost_after: how long a node may be silent.
        warn_before: how long before their machines' end owners are told.
        lost_machines: what becomes of the machines of a node that is lost.
    """

    lost_after: timedelta
    warn_before: timedelta
    lost_machines: LostPolicy = "wait"


class Sweeper:
    """Looks after everything that time does to a site. Nothing is kept here: any number of them may come and go.

    Args:
        store: of the site.
        place: chooses nodes.
        patience: see there.
        fences: who of the lost surely runs nothing; until then nothing comes in the place of their machines.
        began: when this service began to listen. Nodes could not report before, so none is lost for having been silent then.
    """

    def __init__(
        self,
        store: SiteStore,
        place: Placer,
        patience: SiteTimeouts,
        began: datetime,
        fences: FencingMethod = fence_none,
    ) -> None:
        self._store, self._place, self._patience, self._began, self._fences = store, place, patience, began, fences

    def look(self, now: datetime) -> int:
        """Do what is due; returns how much that was: 0 most of the time."""
        patience = self._patience
        silent = now - patience.lost_after
        if silent < self._began:
            silent = datetime.min.replace(tzinfo=now.tzinfo)
        fenced = self._fences(self._store.read(present_nodes)) if self._fences is not fence_none else frozenset[str]()
        done = meet_deadlines(
            self._store, DueWork(now, now + patience.warn_before, silent, patience.lost_machines, fenced)
        )
        return done + place_waiting(self._store, self._place)
