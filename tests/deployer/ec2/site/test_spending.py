"""An account's cap and many who ask at once: what is admitted has its money, and everybody else is told the figures."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from deployer.ec2.account.bookkeeping import Bookkeeping, MachineEntry
from deployer.ec2.model.accounts import Account, Accounts
from deployer.ec2.model.pricing import Charge, Prices, check_within, committed_cost, list_charges
from deployer.ec2.pool.deployment import charge_of
from deployer.ec2.site.placement import ACCOUNT, CachedAccountInfo, burst_placer, find_offer, promised_charges
from deployer.errors import OverBudget
from deployer.machine.state import MachineState
from deployer.protocol.deployment_request import DeploymentRequest
from deployer.site.db.engine import SiteDatabase
from deployer.site.db.machines import get_machine, list_deployments
from deployer.site.lifecycle.verb_rules import Verb
from deployer.site.model.principal import LOCAL_OPERATOR
from deployer.site.model.records import SiteMachine
from deployer.site.operations.machine_changes import MachineService
from deployer.site.scheduling.placement import EC2, MachineReservation, Placer, place_machines
from deployer.site.scheduling.proposal import Proposal
from deployer.site.schema.messages import MachineChange
from deployer.site.store.admission import admit_request
from deployer.site.store.changes import add_node
from deployer.site.store.reports import store_report
from signer.documents import validate
from tests.support.aws.account_values import ACCOUNT as BURST
from tests.support.aws.account_values import TYPES
from tests.support.factories import manifest
from tests.support.site.admission_desk import PARTS
from tests.support.site.values import ALICE, GIB, NOW, World, capable, observed, proposal, together, world

HOUR = Prices(per_hour={"t3.small": "1.00"}, storage="0")
"""A machine costs a dollar an hour."""

ACCOUNTS = Accounts(
    account=(BURST.model_copy(update={"prices": HOUR, "instance_types": ("t3.small",), "cap": "10"}),),
    rule=(),
)
WORKER = manifest(PARTS)


class Spending:
    """A site with a pool at EC2 whose account may spend 10 USD, and the pool's books."""

    def __init__(self, site: World, books: Bookkeeping) -> None:
        self.site, self.books = site, books
        self.pool = site.store.write(add_node, "burst", {}, EC2).uuid
        site.store.write(store_report, self.pool, capable(256, 1024 * GIB, 4096 * GIB, labels={ACCOUNT: "burst"}))
        self.known = CachedAccountInfo(lambda _: TYPES, self.committed)

    def committed(self, account: Account, promised: Mapping[str, Charge]) -> Decimal:
        """As `Pools` has it."""
        booked = {one.machine: charge_of(one) for one in self.books.machines()}
        return committed_cost(account.prices, list_charges(booked, promised), self.site.clock())

    def afford(self, machine: SiteMachine, promised: Sequence[MachineReservation]) -> None:
        """As `Pools` has it."""
        assert machine.uuid in {one.machine for one in promised}
        account = ACCOUNTS.account[0]
        before = self.committed(account, {})
        check_within(account.name, account.cap, before, self.committed(account, promised_charges(promised)))

    def way(self, request: DeploymentRequest, lifetime: int = 3600) -> Placer:
        """How machines of a request are placed."""
        found: Placer = burst_placer(
            place_machines,
            request,
            self.known,
            lambda: find_offer(ACCOUNTS, self.known, LOCAL_OPERATOR, WORKER, request, 1, GIB, lifetime),
        )
        return found

    def order(self, count: int = 1, lifetime: int = 3600) -> tuple[SiteMachine, ...]:
        """Machines at EC2, or the refusal."""
        request = validate(
            DeploymentRequest, {"image": "x", "count": count, "placement_options": {"where": "ec2"}}, "request"
        )
        asked: Proposal = proposal(count, lifetime=lifetime)
        way = self.way(request, lifetime)
        asked = Proposal(**{**vars(asked), "request": request, "place": None})
        ask = replace(asked.placement_request, addresses={}, options=request.placement_options)
        return self.site.store.write(
            admit_request, ALICE, None, Proposal(**{**vars(asked), "placement_request": ask}), way
        )[1]

    def book(self, machine: SiteMachine) -> None:
        """As the pool does right before it begins a machine."""
        self.books.put_machine(
            MachineEntry(
                machine=machine.uuid,
                deployment=machine.deployment,
                image_id=machine.image_id,
                instance_type="t3.small",
                gib=1,
                began=self.site.clock(),
                expires=machine.expires,
            )
        )


@pytest.fixture
def spending(database: SiteDatabase, tmp_path: Path) -> Spending:
    return Spending(world(database), Bookkeeping(tmp_path / "books.db", "burst"))


def test_of_fifty_who_ask_at_once_ten_are_admitted_and_the_others_hear_the_figures(spending: Spending) -> None:
    admitted, refused, lock = list[SiteMachine](), list[str](), threading.Lock()

    def ask() -> None:
        try:
            (machine,) = spending.order()
        except OverBudget as exc:
            with lock:
                refused.append(str(exc))
        else:
            if machine.number % 2:  # the pool begins some at once, while others still ask
                spending.book(machine)
            with lock:
                admitted.append(machine)

    together(ask, 50)
    assert (len(admitted), len(refused)) == (10, 40)
    assert {machine.node for machine in admitted} == {spending.pool}
    (said,) = set(refused)
    assert "this is estimated at 1.00 USD, 10.00 USD are spent or promised in this month" in said
    assert "more than the 10 USD that the account burst may spend" in said
    assert len(spending.site.store.read(list_deployments)[0]) == 10  # who is refused leaves nothing


def test_what_never_begins_gives_its_money_back_and_what_ran_does_not(spending: Spending) -> None:
    made = spending.order(10)
    with pytest.raises(OverBudget):
        spending.order()
    store, act = spending.site.store, MachineService(spending.site.store, lambda: None, lambda _: ALICE, lambda _: None)  # type: ignore[arg-type, return-value]
    spending.book(made[1])
    for machine in made[:2]:
        act.act(machine.uuid, Verb.DESTROY, ALICE, "")
    with pytest.raises(OverBudget):  # its pool may have begun it meanwhile
        spending.order()
    for machine in made[:2]:
        store.write(
            store_report,
            spending.pool,
            capable(
                256,
                1024 * GIB,
                labels={ACCOUNT: "burst"},
                machines=(observed(machine, MachineState.ENDED),),
                complete=False,
            ),
        )
    spending.order()
    with pytest.raises(OverBudget):
        spending.order()


def test_an_end_is_moved_only_as_far_as_the_account_may_pay(spending: Spending) -> None:
    (machine, *_) = spending.order(8)
    act = MachineService(spending.site.store, lambda: None, lambda _: ALICE, lambda _: None, spending.afford)  # type: ignore[arg-type, return-value]
    later = MachineChange(expires=NOW + timedelta(hours=3))
    assert act.change(machine.uuid, later, LOCAL_OPERATOR).expires == NOW + timedelta(hours=3)
    with pytest.raises(OverBudget, match="more than the 10 USD"):
        act.change(machine.uuid, MachineChange(expires=NOW + timedelta(hours=3, minutes=1)), LOCAL_OPERATOR)
    assert spending.site.store.read(get_machine, machine.uuid).expires == NOW + timedelta(hours=3)
    assert act.change(
        machine.uuid, MachineChange(expires=NOW + timedelta(hours=2)), LOCAL_OPERATOR
    ).expires < NOW + timedelta(hours=3)


def test_who_may_also_run_at_home_does_so_when_the_money_is_gone(spending: Spending) -> None:
    spending.order(10)
    home = spending.site.join("home")
    request = validate(DeploymentRequest, {"image": "x", "placement_options": {"where": "local-then-ec2"}}, "request")
    way = spending.way(request)
    assert spending.site.store.write(admit_request, ALICE, None, proposal(), way)[1][0].node == home
    assert spending.site.store.write(admit_request, ALICE, None, proposal(), way)[1][0].reserved_cost is None
