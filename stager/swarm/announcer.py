"""Who meets whom: announces contents to the tracker, and learns whom it named. A thread beside the swarm."""

import logging
import sys
import threading
from collections.abc import Callable

from catalog.swarm.tracker import AnnounceEvent as Announced
from catalog.swarm.tracker import Endpoint
from signer.runtime.retry import RetryPolicy
from stager.errors import TrackerRefuses, TrackerUnavailable
from stager.swarm.torrent_state import SwarmTorrent
from stager.swarm.tracker_client import TrackerClient

log = logging.getLogger("partita.swarm")

BREATH = 0.5
"""Seconds between questions of who was told of us: several knock at once."""

AT_ONCE = 20
"""Contents that are announced before a knock is looked at again: a node that restarts may have a thousand to announce."""

RETRIES = RetryPolicy(attempts=sys.maxsize, base=2.0, most=30.0, floor=0.5)
"""Of a tracker that did not answer: without end."""

MIN_INTERVAL = 1.0
"""Seconds between two announcements, whatever a tracker says."""


class Announcer:
    """Keeps all contents announced.

    Args:
        tracker: whom to speak with.
        port: where we listen for the peers of a content.
        members: all contents, as they stand.
        introduce: called with a content and the peers that were named for it, from this thread.
        clock: seconds.
    """

    def __init__(
        self,
        tracker: TrackerClient,
        port: Callable[[SwarmTorrent], int],
        members: Callable[[], list[SwarmTorrent]],
        introduce: Callable[[SwarmTorrent, set[Endpoint]], None],
        clock: Callable[[], float],
    ) -> None:
        self._tracker, self._port, self._members, self._introduce, self._clock = (
            tracker,
            port,
            members,
            introduce,
            clock,
        )
        self._look, self._ending = threading.Event(), threading.Event()
        self._knocked = False
        self._thread = threading.Thread(target=self._run, name="meeting", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def end(self) -> None:
        """End, and tell the tracker that we leave, if it listens."""
        self._ending.set()
        self._look.set()
        self._thread.join()
        for member in self._members():
            if not self.leave(member):
                return  # one that does not answer is not asked again

    def look(self, *, knocked: bool = False) -> None:
        """Something is to be announced now; or a stranger knocked, who may have been told of us."""
        self._knocked |= knocked
        self._look.set()

    def leave(self, member: SwarmTorrent) -> bool:
        """Say that we leave one swarm; returns whether the tracker answered."""
        try:
            if member.announced is None:
                self._tracker.announce(member.address, self._port(member), member.leaves.missing, Announced.STOPPED)
        except TrackerUnavailable:
            return False
        except TrackerRefuses as exc:
            log.info("%s: %s", member.address, exc)
        return True

    def _run(self) -> None:
        asked = -BREATH
        while not self._ending.is_set():
            self._look.clear()
            now = self._clock()
            due = [member for member in self._members() if member.announce_at <= now]
            for member in due[:AT_ONCE]:
                if self._ending.is_set():
                    return
                self._announce(member)
            if self._knocked and self._clock() - asked >= BREATH:
                asked, self._knocked = self._clock(), False
                self._ask_callers()
            if len(due) <= AT_ONCE:
                self._look.wait(BREATH)

    def _announce(self, member: SwarmTorrent) -> None:
        now, event = self._clock(), member.announced or Announced.UPDATE
        try:
            heard = self._tracker.announce(member.address, self._port(member), member.leaves.missing, event)
        except (TrackerUnavailable, TrackerRefuses) as exc:
            log.info("%s: %s", member.address, exc)
            member.unanswered += 1
            member.announce_at = now + RETRIES.pause(member.unanswered)
            return
        member.unanswered, member.crowd = 0, (heard.complete, heard.incomplete)
        if member.announced == event:
            member.announced = None
        # What became true meanwhile, such as completion, is said at once.
        member.announce_at = now + max(heard.interval, MIN_INTERVAL) if member.announced is None else now
        self._introduce(member, set(heard.peers))

    def _ask_callers(self) -> None:
        by_address = {member.address: member for member in self._members()}
        try:
            ports = sorted({self._port(member) for member in by_address.values()})
            callers = [caller for port in ports for caller in self._tracker.callers(port).callers]
        except (TrackerUnavailable, TrackerRefuses) as exc:
            log.info("%s", exc)
            return
        for caller in callers:
            if member := by_address.get(caller.address):
                self._introduce(member, {Endpoint(caller.ip, caller.port)})
