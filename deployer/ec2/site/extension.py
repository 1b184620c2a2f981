"""A site's accounts at EC2 as nodes of its own: their agents work in the service's process, with no network between."""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING

from catalog.image.manifest import Manifest
from deployer.ec2.model.accounts import Accounts
from deployer.ec2.settings import Ec2Settings
from deployer.ec2.site.placement import placer_without_accounts
from deployer.errors import NoAccount, PolicyUnusable
from deployer.policy.policy_files import reloaded_policy_file
from deployer.site.model.principal import Principal
from deployer.site.model.records import SiteMachine
from deployer.site.scheduling.placement import MachineReservation, Placer
from deployer.site.scheduling.proposal import Proposal
from deployer.site.service.site import Site, SiteExtension
from signer.errors import PartitaError
from signer.runtime.clock import utc_now

if TYPE_CHECKING:
    from deployer.ec2.site.agents import AccountAgents

EVERY = 5.0
"""Seconds between two looks at the accounts file, until a new account is opened. Changed permissions count at once."""

log = logging.getLogger("partita.ec2")


class AccountSupervisor(SiteExtension):
    """Runs the accounts of a site's file, which is read again when it has changed.

    If the file becomes unusable, the previous accounts stay in force, and `problems` says what is wrong. Without a file there
    are no machines at EC2; once it exists its accounts are opened.
    """

    def __init__(self, settings: Ec2Settings, clock: Callable[[], datetime] = utc_now, every: float = EVERY) -> None:
        """Args: of the site; the present, UTC; seconds between two looks at the file."""
        self._settings, self._clock, self._every = settings, clock, every
        self._file = reloaded_policy_file("accounts", settings.accounts, Accounts.load_present, None, log)
        self._pools: AccountAgents | None = None
        self._problem = ""
        self._ended = threading.Event()

    @contextmanager
    def run(self, site: Site) -> Iterator[None]:
        """Run all accounts of the file while the block runs; without a file, wait for one.

        Raises:
            PolicyUnusable: the file is unusable at the start.
            Ec2RecordsUnusable, StagerError: the site's directory for EC2 cannot be used.
        """
        thread = threading.Thread(target=self._work, args=(site,), name="ec2-accounts", daemon=True)
        try:
            self._look(site)
            if self._file.problem:
                raise PolicyUnusable(self._file.problem)
            thread.start()
            yield
        finally:
            self._ended.set()
            if thread.is_alive():
                thread.join()
            if self._pools is not None:
                self._pools.close()

    def _look(self, site: Site) -> None:
        """Apply the present file."""
        accounts = self._file.current()
        if accounts is None:
            return
        if self._pools is None:
            from deployer.ec2.site.agents import AccountAgents  # loads AWS's library: only where there is an account

            self._pools = AccountAgents(self._settings, site, self._clock)
        self._pools.follow(accounts)

    def problems(self) -> Sequence[str]:
        """Why parts of the present file are not in force."""
        self._file.current()
        unused = (
            f"changes of the EC2 accounts file are not in force: {self._file.problem}" if self._file.problem else ""
        )
        pools = self._pools.problems if self._pools is not None else ()
        return [problem for problem in (unused, self._problem, *pools) if problem]

    def burst(self, place: Placer, who: Principal, manifest: Manifest, proposal: Proposal) -> Placer:
        """A placer of a requester's machines that considers EC2 as well, by the present file."""
        accounts = self._file.current()
        if accounts is None or self._pools is None:
            return placer_without_accounts(place, proposal.request)
        return self._pools.burst(place, accounts, who, manifest, proposal)

    def afford(self, machine: SiteMachine, promised: Sequence[MachineReservation]) -> None:
        """Refuse a machine that costs more than its account may spend by the present file; OverBudget, NoAccount."""
        accounts = self._file.current()
        if accounts is None or self._pools is None:
            raise NoAccount("the site has no accounts at EC2 now; the machine keeps its present end")
        self._pools.afford(accounts, machine, promised)

    def _work(self, site: Site) -> None:
        while not self._ended.wait(self._every):
            try:
                self._look(site)
                self._problem = ""
            except PartitaError as exc:
                if str(exc) != self._problem:
                    log.warning("opening the accounts at EC2 failed: %s", exc)
                self._problem = str(exc)
            except Exception:
                log.exception("reading the accounts at EC2 failed; retrying")
