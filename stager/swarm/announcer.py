"""Announces contents to the tracker and passes on the peers that it names. Runs in a thread of its own."""

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
"""Seconds between queries for the peers to which the tracker named us: several connect at once."""

AT_ONCE = 20
"""Contents that are announced between two such queries: a node that restarts may have a thousand to announce."""

RETRIES = RetryPolicy(attempts=sys.maxsize, base=2.0, max_pause=30.0, floor=0.5)
"""Of a tracker that did not answer, without a limit."""

MIN_INTERVAL = 1.0
"""Seconds between two announcements, even if the tracker asks for less."""


class Announcer:
    """Keeps all contents announced.

    Args:
        tracker: the tracker's client.
        port: returns the port on which we listen for peers of a content.
        torrents: returns all contents.
        add_peers: called with a content and the peers that were named for it, from this thread.
        clock: seconds.
    """

    def __init__(
        self,
        tracker: TrackerClient,
        port: Callable[[SwarmTorrent], int],
        torrents: Callable[[], list[SwarmTorrent]],
        add_peers: Callable[[SwarmTorrent, set[Endpoint]], None],
        clock: Callable[[], float],
    ) -> None:
        self._tracker, self._port, self._torrents = tracker, port, torrents
        self._add_peers, self._clock = add_peers, clock
        self._wake, self._ending = threading.Event(), threading.Event()
        self._unknown_caller = False
        self._thread = threading.Thread(target=self._run, name="announcer", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread, and tell the tracker that we leave, if it answers."""
        self._ending.set()
        self._wake.set()
        self._thread.join()
        for torrent in self._torrents():
            if not self.leave(torrent):
                return  # a tracker that does not answer is not asked again

    def wake(self, *, caller: bool = False) -> None:
        """Wake the thread: there is a content to announce now, or an unknown peer connected to which the tracker may have named us."""
        self._unknown_caller |= caller
        self._wake.set()

    def leave(self, torrent: SwarmTorrent) -> bool:
        """Announce that we leave one swarm; returns whether the tracker answered."""
        try:
            if torrent.announced is None:
                self._tracker.announce(torrent.address, self._port(torrent), torrent.leaves.missing, Announced.STOPPED)
        except TrackerUnavailable:
            return False
        except TrackerRefuses as exc:
            log.info("%s: %s", torrent.address, exc)
        return True

    def _run(self) -> None:
        asked = -BREATH
        while not self._ending.is_set():
            self._wake.clear()
            now = self._clock()
            due = [torrent for torrent in self._torrents() if torrent.announce_at <= now]
            for torrent in due[:AT_ONCE]:
                if self._ending.is_set():
                    return
                self._announce(torrent)
            if self._unknown_caller and self._clock() - asked >= BREATH:
                asked, self._unknown_caller = self._clock(), False
                self._ask_callers()
            if len(due) <= AT_ONCE:
                self._wake.wait(BREATH)

    def _announce(self, torrent: SwarmTorrent) -> None:
        now, event = self._clock(), torrent.announced or Announced.UPDATE
        try:
            response = self._tracker.announce(torrent.address, self._port(torrent), torrent.leaves.missing, event)
        except (TrackerUnavailable, TrackerRefuses) as exc:
            log.info("%s: %s", torrent.address, exc)
            torrent.unanswered += 1
            torrent.announce_at = now + RETRIES.pause(torrent.unanswered)
            return
        torrent.unanswered, torrent.crowd = 0, (response.complete, response.incomplete)
        if torrent.announced == event:
            torrent.announced = None
        # A change during the announce, such as completion, is announced at once.
        torrent.announce_at = now + max(response.interval, MIN_INTERVAL) if torrent.announced is None else now
        self._add_peers(torrent, set(response.peers))

    def _ask_callers(self) -> None:
        by_address = {torrent.address: torrent for torrent in self._torrents()}
        try:
            ports = sorted({self._port(torrent) for torrent in by_address.values()})
            callers = [caller for port in ports for caller in self._tracker.callers(port).callers]
        except (TrackerUnavailable, TrackerRefuses) as exc:
            log.info("%s", exc)
            return
        for caller in callers:
            if torrent := by_address.get(caller.address):
                self._add_peers(torrent, {Endpoint(caller.ip, caller.port)})
