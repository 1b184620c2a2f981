"""Waiting for changes of a site: every commit of this process wakes the waiters, and a check each second finds those of others."""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

LOOK_EVERY = 1.0
"""Seconds between two checks for changes by other processes: one cheap query, however many waiters there are."""


@dataclass(frozen=True)
class ChangePosition:
    """The position of a site's changes: the last event's number, and each node's revision."""

    event: int = 0
    revisions: Mapping[str, int] = field(default_factory=dict)


class ChangeNotifier:
    """The newest event and revisions, and the threads that wait for newer ones. Safe to use from many threads.

    Args:
        look: reads the newest numbers from the database.
        monotonic: seconds.
    """

    def __init__(self, look: Callable[[], ChangePosition], monotonic: Callable[[], float] = time.monotonic) -> None:
        self._look, self._monotonic = look, monotonic
        self._changed = threading.Condition()
        self._event = 0
        self._revisions: dict[str, int] = {}
        self._looked = float("-inf")

    def committed(self, newest: ChangePosition) -> None:
        """Note what is committed. Late and partial positions never take anything back."""
        with self._changed:
            self._event = max(self._event, newest.event)
            for node, revision in newest.revisions.items():
                self._revisions[node] = max(self._revisions.get(node, 0), revision)
            self._changed.notify_all()

    def wait(self, after_event: int | None, node: str | None, after_revision: int, timeout: float) -> bool:
        """Until there is an event after that one, or the node's revision is another; returns whether there is.

        Args:
            after_event: None waits for no event.
            node: None waits for no revision.
            after_revision: what is known of the node.
            timeout: seconds; 0 only looks.
        """
        ends = self._monotonic() + timeout
        while True:
            with self._changed:
                now = self._monotonic()
                mine = now >= self._looked + LOOK_EVERY
                if mine:
                    self._looked = now  # one of those who wait looks for all
                elif self._is_new(after_event, node, after_revision):
                    return True
                elif now >= ends:
                    return False
                else:
                    self._changed.wait(max(0.0, min(ends - now, self._looked + LOOK_EVERY - now)))
            if mine:
                self.committed(self._look())

    def _is_new(self, after_event: int | None, node: str | None, after_revision: int) -> bool:
        if after_event is not None and self._event > after_event:
            return True
        return node is not None and self._revisions.get(node, 0) != after_revision
