"""The site's own agents for its accounts at EC2: each account is a node of the kind "ec2", and this is what works it.

It speaks to the site as a node's agent does (`deployer.agent`), only without a network between: what should be, and what
is. Credentials stay in this process.
"""

import logging
import threading
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime
from typing import Final, Protocol, Self

from catalog.errors import CatalogError
from catalog.manifest import Manifest
from deployer.ec2.accounts import Account, Accounts
from deployer.ec2.bursting import Known, Place, Quoted, bursting
from deployer.ec2.deploying import Ec2Deployer, spend_of
from deployer.ec2.imaging import Imaging
from deployer.ec2.opening import OpenAccount, open_account, staging
from deployer.ec2.pool import Ec2Pool
from deployer.ec2.pricing import committed
from deployer.ec2.settings import Ec2Settings
from deployer.errors import DeployerError
from deployer.policy_store import RuleSet
from deployer.recording import Recorder
from deployer.site.desired import Capacity, DesiredState, NodeReport
from deployer.site.principal import Principal
from deployer.site.proposal import Proposal
from deployer.site.settings import SiteSettings
from deployer.site.withdrawing import Withdrawing
from signer.errors import SignerError
from stager.errors import StagerError
from stager.opening import opened

EVERY: Final = 5.0
"""Seconds between two looks at an account when nobody asks for anything: EC2 allows some requests a second."""

BUSY: Final = 1.0
"""Seconds between two looks while machines are being made or changed."""

END_SECONDS = 30.0

log = logging.getLogger("partita.ec2")


class Site(Protocol):
    """The other side, as for `deployer.agent.Agent`."""

    def desired(self, after: int, wait: float) -> DesiredState | None:
        """What the pool should have, when its revision is another than `after`; perhaps None when nothing is new."""

    def report(self, report: NodeReport) -> None:
        """Say how the pool is."""


class PoolAgent:
    """Works one pool for its site, in a thread of its own."""

    def __init__(self, pool: Ec2Pool, site: Site, account: Account, every: float = EVERY, busy: float = BUSY) -> None:
        self._pool, self._site, self._account = pool, site, account
        self._every, self._busy = every, busy
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"ec2-{account.name}", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def close(self) -> None:
        """Stop; machines go on."""
        self._ended.set()
        self._pool.close()
        self._thread.join(END_SECONDS)

    def _work(self) -> None:
        desired: DesiredState | None = None
        last: NodeReport | None = None
        while not self._ended.is_set():
            wait = self._busy if self._pool.busy(0) or _moving(last) else self._every
            try:
                found = self._site.desired(desired.revision if desired is not None else -1, wait)
                if found is not None and (desired is None or found.revision >= desired.revision):
                    desired = found
                if desired is None:
                    self._ended.wait(wait)
                    continue
                last = self._pool.look(desired)
                self._site.report(last)
            except (DeployerError, SignerError, CatalogError, StagerError) as exc:
                log.warning("the account %s: %s", self._account.name, exc)
                self._complain(desired, str(exc))
                self._ended.wait(self._every)
            except Exception:
                log.exception("the account %s cannot be looked at; it is tried again", self._account.name)
                self._ended.wait(self._every)

    def _complain(self, desired: DesiredState | None, problem: str) -> None:
        """Tell the site that nothing is known just now, and why."""
        account = self._account
        try:
            self._site.report(
                NodeReport(
                    revision=desired.revision if desired is not None else 0,
                    architecture="",
                    accelerator="ec2",
                    capacity=Capacity(cores=account.cores, memory=account.memory, disk=account.disk),
                    problem=problem,
                    complete=False,
                )
            )
        except DeployerError as exc:
            log.info("a report did not get through: %s", exc)


def _moving(last: NodeReport | None) -> bool:
    """Whether something is under way that EC2 will have done soon."""
    return last is not None and any(machine.state in {"booting", "staging"} for machine in last.machines)


class Pools:
    """All accounts of a site at work: open with `Pools.open`, close when done. Machines go on without it."""

    def __init__(self, accounts: Accounts, agents: list[PoolAgent], known: Known, closing: ExitStack) -> None:
        self._accounts, self._agents, self._known, self._closing = accounts, agents, known, closing

    def burst(self, place: Place, who: Principal, manifest: Manifest, proposal: Proposal) -> Place:
        """A way to place somebody's machines that minds EC2 as well; see `bursting`. Errors are told by the placement."""
        ask = proposal.ask
        return bursting(
            place,
            self._accounts,
            self._known,
            who,
            manifest,
            proposal.request,
            ask.cores,
            ask.memory,
            proposal.lifetime,
        )

    @classmethod
    def open(
        cls,
        settings: Ec2Settings,
        site: SiteSettings,
        rules: Callable[[], RuleSet],
        connect: Callable[[Account], tuple[str, Site]],
        clock: Callable[[], datetime],
    ) -> Self:
        """Open every account of the file, and begin to work.

        Args:
            settings, site: of the site.
            rules: the policy in force; raises PolicyUnusable.
            connect: has the site know an account as a node of its own; returns the node's UUID and the way to the site.
            clock: the present, UTC.

        Raises:
            PolicyUnusable: the accounts' file cannot be used.
            LedgerUnusable, StagerError: the site's directory for EC2 cannot be used.
        """
        accounts = Accounts.load(settings.accounts)
        with ExitStack() as undo:
            stager, catalog = undo.enter_context(opened(staging(settings, site), lambda: clock().timestamp()))
            withdrawing = Withdrawing(catalog, settings.directory, site.blocked, rules, clock)
            agents = []
            there: dict[str, OpenAccount] = {}
            for account in accounts.account:
                found = undo.enter_context(open_account(settings, account, clock))
                there[account.name] = found
                node, link = connect(account)
                records = Recorder(found.directory, node, clock)
                undo.callback(records.close)
                imaging = Imaging(found, stager, stager.cache)
                makes = Ec2Deployer(found, catalog, imaging, records, rules, withdrawing.current, clock)
                pool = Ec2Pool(account, found.machines, found.books, makes, clock)
                agents.append(PoolAgent(pool, link, account))
            closing = undo.pop_all()
        for agent in agents:
            agent.start()
        known = Quoted(
            lambda account: there[account.name].machines.types(account.instance_types),
            lambda account: committed(account.prices, map(spend_of, there[account.name].books.machines()), clock()),
        )
        return cls(accounts, agents, known, closing)

    def close(self) -> None:
        """Stop all of them."""
        for agent in self._agents:
            agent.close()
        self._closing.close()
