"""A site's store: the queries and changes of the neighbouring modules run here, each in a transaction of its own.

`store.read(get_machine, uuid)` runs a query of `deployer.site.db`; `store.write(change_machine, uuid, rule)` a change of
`deployer.site.store`. Writers come one at a time (`deployer.site.db.engine`), and every commit wakes the threads that wait for changes.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Concatenate, ParamSpec, TypeVar

from deployer.site.db.engine import SiteDatabase, Transaction
from deployer.site.db.events import last_event
from deployer.site.db.nodes import revisions
from deployer.site.model.current_actor import get_actor
from deployer.site.scheduling.node_capacity import Overcommit
from deployer.site.store.change_notifier import ChangeNotifier, ChangePosition
from deployer.site.store.unit_of_work import UnitOfWork

P = ParamSpec("P")
T = TypeVar("T")


class SiteStore:
    """A site's store. Safe to use from many threads, and together with other processes on the same database.

    Args:
        database: open; the store does not close it.
        clock: the present, UTC.
        new_uuid: a fresh UUID's text.
        overcommit: how much of nodes may be allocated.

    Attributes:
        notifier: waits for the commits of this process and of others.
    """

    def __init__(
        self,
        database: SiteDatabase,
        clock: Callable[[], datetime],
        new_uuid: Callable[[], str],
        overcommit: Overcommit = Overcommit(),
    ) -> None:
        self.database, self.overcommit = database, overcommit
        self._clock, self._new_uuid = clock, new_uuid
        self.notifier = ChangeNotifier(lambda: self.read(newest))

    def now(self) -> datetime:
        """The present as records carry it: whole seconds."""
        return self._clock().replace(microsecond=0)

    def read(self, query: Callable[Concatenate[Transaction, P], T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a query in one read transaction: a consistent view that blocks no other."""
        with self.database.reading() as connection:
            return query(connection, *args, **kwargs)

    def write(self, change: Callable[Concatenate[UnitOfWork, P], T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a change; once it returns, it is durable with its events. Any error rolls it back.

        Nodes that have to act get their next revision in the same transaction, so that they learn of every order.
        """
        with self.database.writing() as connection:
            work = UnitOfWork(connection, self.now(), self._new_uuid, self.overcommit, by=get_actor())
            result = change(work, *args, **kwargs)
            touched = work.finish()
        if work.events or touched:
            self.notifier.committed(ChangePosition(work.events[-1].number if work.events else 0, touched))
        return result


def newest(connection: Transaction) -> ChangePosition:
    """The number of the last event, and the revision of each node."""
    return ChangePosition(last_event(connection), revisions(connection))
