"""The site's own agents for its accounts at EC2: each account is a node of the kind "ec2".

An agent exchanges desired state and reports with the site as a node's agent does (`deployer.node.agent.agent`), without a
network between. Credentials stay in this process.
"""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime
from decimal import Decimal
from typing import Final

from catalog.errors import Conflict
from catalog.image.manifest import Manifest
from deployer.ec2.account.open_account import OpenAccount, open_account, staging_settings
from deployer.ec2.images.image_upload import ImageUploader
from deployer.ec2.model.accounts import Account, Accounts
from deployer.ec2.model.pricing import Charge, check_within, committed_cost, list_charges
from deployer.ec2.pool.deployment import Ec2Deployer, charge_of
from deployer.ec2.pool.pool import Ec2Pool
from deployer.ec2.settings import Ec2Settings
from deployer.ec2.site.placement import CachedAccountInfo, Ec2Offer, Placer, burst_placer, find_offer, promised_charges
from deployer.ec2.snapshots.buffer_pool import BufferPool
from deployer.errors import NoAccount
from deployer.protocol.desired_state import Capacity, DesiredState, NodeReport
from deployer.records.recorder import Recorder
from deployer.site.db.nodes import list_nodes
from deployer.site.model.principal import Principal
from deployer.site.model.records import NodeState, SiteMachine
from deployer.site.operations.revocations import RevocationService
from deployer.site.scheduling.placement import EC2, MachineReservation
from deployer.site.scheduling.proposal import Proposal
from deployer.site.service.site import Site
from deployer.site.store.changes import add_node
from signer.errors import PartitaError
from stager.factory import open_stager

EVERY: Final = 5.0
"""Seconds between two looks at an idle account: EC2 allows some requests a second."""

BUSY: Final = 1.0
"""Seconds between two looks while machines are being made or changed."""

END_SECONDS = 30.0

log = logging.getLogger("partita.ec2")


class PoolAgent:
    """Runs one pool, a node of its site, in a separate thread.

    Attributes:
        account: with its settings as last read.
    """

    def __init__(
        self, pool: Ec2Pool, site: Site, node: str, account: Account, every: float = EVERY, busy: float = BUSY
    ) -> None:
        self._pool, self._site, self._node, self.account = pool, site, node, account
        self._every, self._busy = every, busy
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"ec2-{account.name}", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def follow(self, account: Account) -> None:
        """Use changed settings of the account (not its region or credentials)."""
        if account != self.account:
            log.info("account %s: changed settings are in force", account.name)
            self.account = account
            self._pool.follow(account)

    def close(self) -> None:
        """Stop the thread; machines go on."""
        self._ended.set()
        self._pool.close()
        self._thread.join(END_SECONDS)

    def _work(self) -> None:
        desired: DesiredState | None = None
        last: NodeReport | None = None
        while not self._ended.is_set():
            wait = self._busy if self._pool.busy(0) or _moving(last) else self._every
            try:
                if self._site.store.notifier.wait(
                    None, self._node, desired.revision if desired is not None else -1, wait
                ):
                    found = self._site.desired(self._node)
                    if desired is None or found.revision > desired.revision:
                        desired = found
                if desired is None:
                    self._ended.wait(wait)
                    continue
                last = self._pool.look(desired)
                self._site.absorb(self._node, last)
            except PartitaError as exc:
                log.warning("account %s: %s", self.account.name, exc)
                self._complain(desired, str(exc))
                self._ended.wait(self._every)
            except Exception:
                log.exception("polling account %s failed; retrying", self.account.name)
                self._ended.wait(self._every)

    def _complain(self, desired: DesiredState | None, problem: str) -> None:
        """Report to the site that the state of the account is unknown now, and why."""
        account = self.account
        try:
            self._site.absorb(
                self._node,
                NodeReport(
                    revision=desired.revision if desired is not None else 0,
                    architecture="",
                    accelerator="ec2",
                    capacity=Capacity(cores=account.cores, memory=account.memory, disk=account.disk),
                    problem=problem,
                    complete=False,
                ),
            )
        except PartitaError as exc:
            log.info("reporting account %s to the site failed: %s", account.name, exc)


def _moving(last: NodeReport | None) -> bool:
    """Whether a machine is starting, which EC2 soon completes."""
    return last is not None and any(machine.state in {"booting", "staging"} for machine in last.machines)


class AccountAgents:
    """The agents of all accounts of a site: `follow` opens the accounts, `close` ends the agents. Machines go on without it.

    `follow` is called by one thread; the other methods by any.

    Args:
        settings, site: of the site.
        clock: the present, UTC.

    Raises:
        Ec2RecordsUnusable, StagerError: the site's directory for EC2 cannot be used.
    """

    def __init__(self, settings: Ec2Settings, site: Site, clock: Callable[[], datetime]) -> None:
        self._settings, self._site, self._clock = settings, site, clock
        with ExitStack() as undo:
            self._stager, self._catalog = undo.enter_context(
                open_stager(staging_settings(settings, site.settings), lambda: clock().timestamp())
            )
            self._revocations = RevocationService(
                self._catalog, settings.directory, site.settings.blocked, site.policies.current, clock
            )
            self._closing = undo.pop_all()
        self._buffers = BufferPool()
        self._agents: dict[str, PoolAgent] = {}
        self._there: dict[str, OpenAccount] = {}
        self._names: dict[str, str] = {}
        self._known = CachedAccountInfo(
            lambda account: self._opened(account.name).machines.types(account.instance_types), self._committed
        )
        self.problems: tuple[str, ...] = ()
        """The problems of the accounts as last followed."""

    def follow(self, accounts: Accounts) -> None:
        """Run these accounts from now on, each with its present settings.

        A new account is opened; caps, prices, types, networks and capacity of a known one are taken over. An account with another
        region or other credentials may be another account, without its machines: that needs a restart. An account that is
        no longer listed gets no machines by `burst`, and its existing machines are still looked after.
        """
        problems = []
        for account in accounts.account:
            agent = self._agents.get(account.name)
            try:
                if agent is None:
                    self._begin(account)
                elif agent.account.reached != account.reached:
                    problems.append(
                        f"the account {account.name} has another region, profile, role or external_id than when the "
                        "service started; restart it once no machine runs there, or give the account another name"
                    )
                else:
                    agent.follow(account)
            except PartitaError as exc:
                problems.append(f"the account {account.name} cannot be opened: {exc}")
        for problem in problems:
            if problem not in self.problems:
                log.error("%s", problem)
        self.problems = tuple(problems)

    def burst(
        self, place: Placer, accounts: Accounts, who: Principal, manifest: Manifest, proposal: Proposal
    ) -> Placer:
        """A placer of a requester's machines that considers EC2 as well (`burst_placer`); the placement reports errors."""
        machine, request, lifetime = proposal.machine, proposal.request, proposal.lifetime

        def offer() -> Ec2Offer:
            cores, memory = machine.max_cores, machine.max_memory
            return find_offer(accounts, self._known, who, manifest, request, cores, memory, lifetime)

        return burst_placer(place, request, self._known, offer)

    def afford(self, accounts: Accounts, machine: SiteMachine, promised: Sequence[MachineReservation]) -> None:
        """Refuse a machine whose promised cost passes its account's cap; OverBudget."""
        name = self._names.get(machine.node or "", "")
        account = next((one for one in accounts.account if one.name == name), None)
        if account is None:
            raise NoAccount(
                f"the account of machine {machine.hostname} was removed from the site's file; the machine cannot be extended"
            )
        spends = promised_charges(promised)
        after = self._committed(account, spends)
        before = self._committed(account, {uuid: one for uuid, one in spends.items() if uuid != machine.uuid})
        check_within(account.name, account.cap, before, after)

    def close(self) -> None:
        """Stop all agents."""
        for agent in self._agents.values():
            agent.close()
        self._closing.close()

    def _begin(self, account: Account) -> None:
        rules = self._site.policies.current
        with ExitStack() as undo:
            found = undo.enter_context(open_account(self._settings, account, self._clock, buffers=self._buffers))
            node = self._register(account)
            records = Recorder(found.directory, node, self._clock)
            undo.callback(records.close)
            imaging, withdrawn = ImageUploader(found, self._stager), self._revocations.current
            makes = Ec2Deployer(found, self._catalog, imaging, records, rules, withdrawn, self._clock)
            agent = PoolAgent(
                Ec2Pool(account, found.machines, found.books, makes, self._clock), self._site, node, account
            )
            self._closing.push(undo.pop_all())
        self._there[account.name], self._names[node] = found, account.name
        self._agents[account.name] = agent
        agent.start()

    def _register(self, account: Account) -> str:
        """The UUID of an account's node at the site: the one of its name, or a new one."""
        for node in self._site.store.read(list_nodes, contents=False):
            if node.name == account.name and node.state is not NodeState.LEFT:
                if node.kind != EC2:
                    raise Conflict(f"account name {account.name} is already a node's name; choose another name")
                return node.uuid
        return self._site.store.write(add_node, account.name, {}, EC2).uuid

    def _opened(self, name: str) -> OpenAccount:
        try:
            return self._there[name]
        except KeyError:
            raise NoAccount(f"the account {name} is not open yet; try again in some seconds") from None

    def _committed(self, account: Account, promised: Mapping[str, Charge]) -> Decimal:
        booked = {one.machine: charge_of(one) for one in self._opened(account.name).books.machines()}
        return committed_cost(account.prices, list_charges(booked, promised), self._clock())
