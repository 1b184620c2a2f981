"""A node's membership of a site: checks whether it has joined one, starts an agent for it, and renews its certificate.

`partita node join` may come while the service runs, a certificate may be renewed: the files in DIR/site are looked at
regularly, and the agent is restarted when one of them changes.
"""

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from catalog.errors import Misused
from deployer.errors import SiteUnavailable
from deployer.node.agent.agent import Agent
from deployer.node.membership.credentials import CERTIFICATE_FILE, KEY_FILE, SiteMembership
from deployer.node.membership.site_client import NodeSiteClient
from deployer.pki.ca import is_server_certificate, needs_renewal, request_for, validity_period
from signer.runtime import files

LOOK_EVERY = 2.0
"""Seconds between two looks at the files."""

RENEW_EVERY = 3600.0
"""Seconds between two attempts to renew a certificate: there is a third of its time for it."""

log = logging.getLogger("partita.node")


class MembershipService:
    """A node's membership of a site, for as long as its service runs.

    Args:
        directory: of the files.
        work_for: makes the agent that works for a site.
        now: the present, UTC.
        listens: whether other nodes connect to this one, which takes a certificate that says so.
    """

    def __init__(
        self,
        directory: Path,
        work_for: Callable[[NodeSiteClient, SiteMembership], Agent],
        now: Callable[[], datetime],
        *,
        listens: bool = False,
    ) -> None:
        self._directory, self._work_for, self._now, self._listens = directory, work_for, now, listens
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="membership")
        self._working: tuple[Agent, NodeSiteClient, SiteMembership] | None = None
        self._problem = ""
        self._tried = 0.0

    @property
    def site(self) -> str | None:
        """The URL of the site that the node works for, if it does."""
        working = self._working
        return working[2].url if working else None

    @property
    def problem(self) -> str | None:
        """Why the node cannot work for its site, or does not reach it."""
        working = self._working
        return self._problem or (working[0].problem if working else "") or None

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """Stop working for the site; machines go on."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        self._stop()

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                self._look()
                self._problem = ""
            except SiteUnavailable as exc:
                if str(exc) != self._problem:
                    log.warning("%s", exc)
                self._problem = str(exc)
            except Exception:
                log.exception("looking after the node's membership failed; it goes on")
            self._ended.wait(LOOK_EVERY)

    def _look(self) -> None:
        found = SiteMembership.read(self._directory)
        if found is None:
            if self._working is not None:
                log.warning("%s: site membership removed", self._directory)
            self._stop()
        elif self._working is None or found.stamp != self._working[2].stamp:
            self._stop()
            client = NodeSiteClient(found)
            agent = self._work_for(client, found)
            self._working = agent, client, found
            agent.start()
            log.info("this node works for the site %s", found.url)
        else:
            self._renew(self._working[1], found)

    def _stop(self) -> None:
        if self._working is not None:
            agent, client, _ = self._working
            self._working = None
            agent.close()
            client.close()

    def _renew(self, client: NodeSiteClient, found: SiteMembership) -> None:
        """Renew the certificate, for the same key, when a third of its validity is left."""
        place = found.directory / CERTIFICATE_FILE
        with suppress(Misused, FileNotFoundError):
            now = self._now()
            fit = is_server_certificate(place.read_bytes()) or not self._listens
            if (fit and not needs_renewal(place.read_bytes(), now)) or now.timestamp() < self._tried + RENEW_EVERY:
                return
            self._tried = now.timestamp()
            fresh = client.renew(request_for((found.directory / KEY_FILE).read_bytes()))
            until = validity_period(fresh.encode())[1]
            files.write(place, fresh, mode=0o600)
            log.info("this node's certificate was renewed; it holds until %s", f"{until:%Y-%m-%d}")
