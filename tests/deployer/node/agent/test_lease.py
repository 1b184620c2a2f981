"""A node's lease: what it counts from, what it acts by, what outlives the service; and machines that stop with it."""

import uuid as uuids
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

from deployer.errors import BackendFailed
from deployer.machine.state import MachineState
from deployer.node.agent import reporter as reporting
from deployer.node.agent.agent import Agent
from deployer.node.agent.context import AgentContext, NodeFacts
from deployer.node.agent.lease import LEASE_FILE, LEASE_REASON, LeaseGuard, NodeLease, boot_id, since_boot
from deployer.protocol.desired_state import Capacity, DesiredState, LeaseTerms, NodeReport, ReportResponse
from tests.support.node.fake_hypervisor import SITE, LightNode, LightSite
from tests.support.node.fake_site import machine
from tests.support.node.service_process import wait_for


class Clock:
    """Seconds, as somebody set them."""

    def __init__(self) -> None:
        self.at = 100.0

    def __call__(self) -> float:
        return self.at


def told(seconds: int | None, then: Literal["pause", "end"] = "pause") -> ReportResponse:
    """A site's answer."""
    return ReportResponse(lease=None if seconds is None else LeaseTerms(seconds=seconds, then=then))


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_without_a_lease_nothing_ever_stops(clock: Clock) -> None:
    fence = NodeLease(None, clock)
    for answer in (None, ReportResponse()):
        fence.heard(clock.at, None, answer)
        clock.at += 1e6
        assert not fence.over()
        assert not fence.frozen
        assert fence.said is None
        assert fence.patience == float("inf")


def test_it_counts_from_when_the_answered_report_was_sent(clock: Clock) -> None:
    """Not from the answer, which may have been long on its way."""
    fence = NodeLease(None, clock)
    clock.at = 109.0
    fence.heard(100.0, None, told(10))
    assert fence.said == 10
    clock.at = 109.9
    assert not fence.over()
    clock.at = 110.0
    assert fence.over()
    assert fence.frozen


@pytest.mark.parametrize(
    ("what", "said", "now_told", "term"),
    [
        ("a longer one counts once the site knows that it does", 10, 60, 10),
        ("a shorter one counts at once", 60, 10, 10),
        ("one that is taken back counts until the site knows that it does not", 60, None, 60),
        ("the first one counts at once", None, 60, 60),
        ("none is none", None, None, None),
    ],
)
def test_it_acts_by_the_shorter_of_what_it_says_and_what_it_is_told(
    clock: Clock, what: str, said: int | None, now_told: int | None, term: int | None
) -> None:
    fence = NodeLease(None, clock)
    fence.heard(clock.at, said, told(now_told))
    assert fence.said == now_told, what
    clock.at += (term or 1000) - 0.5
    assert not fence.over(), what
    clock.at += 1
    assert fence.over() is (term is not None), what


def test_what_ran_out_goes_on_only_after_a_report_and_a_wish_asked_for_after_it(clock: Clock) -> None:
    fence = NodeLease(None, clock)
    fence.heard(clock.at, None, told(10))
    clock.at = 120.0
    assert fence.over()
    assert not fence.confirmed(119.0)  # the site answers, and may be migrating our machines to others
    asked = 121.0
    clock.at = 123.0
    fence.heard(122.0, 10, told(10))
    assert not fence.over()
    assert fence.frozen
    assert not fence.confirmed(asked)  # asked before the report was in
    assert fence.confirmed(123.5)
    assert not fence.frozen
    assert not fence.confirmed(124.0)  # once


def test_a_wish_that_comes_after_the_next_end_does_not_count(clock: Clock) -> None:
    fence = NodeLease(None, clock)
    fence.heard(clock.at, None, told(10))
    clock.at = 120.0
    assert fence.over()
    fence.heard(clock.at, 10, told(10))
    clock.at = 131.0
    assert not fence.confirmed(121.0)
    assert fence.frozen


def test_the_lease_outlives_the_service_and_not_the_computer(clock: Clock, tmp_path: Path) -> None:
    file = tmp_path / LEASE_FILE
    NodeLease(file, clock, "boot-1").heard(clock.at, 10, told(10, "end"))
    clock.at += 5
    again = NodeLease(file, clock, "boot-1")
    assert again.frozen  # it does not know yet what the site did meanwhile
    assert not again.confirmed(clock.at)
    assert not again.over()
    clock.at += 5
    assert again.over()
    assert again.then == "end"
    other = NodeLease(file, clock, "boot-2")
    assert not other.frozen
    assert not other.over()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"boot": "b"}', '{"boot": "b", "seconds": 3, "then": "x", "sent": "y"}']
)
def test_a_damaged_file_is_no_lease(clock: Clock, tmp_path: Path, text: str) -> None:
    (tmp_path / LEASE_FILE).write_text(text)
    assert not NodeLease(tmp_path / LEASE_FILE, clock, "b").over()


def test_the_clock_of_this_computer_goes_on_and_its_start_has_a_name() -> None:
    assert since_boot() > 0
    assert len(boot_id()) == 36


class LeasingSite(LightSite):
    """A site that answers reports with a lease."""

    def __init__(self, lease: LeaseTerms) -> None:
        super().__init__()
        self.lease: LeaseTerms | None = lease

    def report(self, report: NodeReport) -> ReportResponse:  # type: ignore[override]
        """See agent.Site."""
        super().report(report)
        return ReportResponse(lease=self.lease)


class World:
    """A site that leases, a node, the agent between them, and one machine that runs."""

    def __init__(self, place: Path, then: Literal["pause", "end"]) -> None:
        self.node, self.site, self.clock = LightNode(place), LeasingSite(LeaseTerms(seconds=60, then=then)), Clock()
        self.uuid = str(uuids.uuid4())
        self.file = place.parent / LEASE_FILE
        self.agent: Agent | None = None
        self.site.say(DesiredState(revision=1, machines=(machine(self.uuid),)))
        self.start()
        self.until(MachineState.RUNNING)
        wait_for(lambda: self.site.reports and self.site.reports[-1].lease == 60)

    def start(self) -> None:
        """The agent begins."""
        fence = NodeLease(self.file, self.clock, "boot")
        facts = NodeFacts(
            architecture="x86_64", accelerator="qemu", capacity=Capacity(cores=4, memory=1 << 30, disk=1 << 30)
        )
        node = self.node
        self.agent = Agent(
            self.site, AgentContext(SITE, node.keeper, node.verbs, node.make, lambda: facts, fence=fence)
        )
        self.agent.start()

    def stop(self) -> None:
        """It ends."""
        if self.agent is not None:
            self.agent.close()
        self.agent = None

    def until(self, state: MachineState | None) -> None:
        """Until the hypervisor has the machine so."""
        wait_for(lambda: self.node.hypervisor.machines.get(self.uuid) is state)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[World]:
    monkeypatch.setattr(reporting, "REPORT_EVERY", 0.2)
    monkeypatch.setattr("deployer.node.agent.lease.GUARD_EVERY", 0.02)
    found = World(tmp_path / "machines", getattr(request, "param", "pause"))
    yield found
    found.stop()


def test_machines_pause_when_the_site_is_away_and_go_on_when_it_is_back(world: World) -> None:
    world.site.away = True
    world.clock.at += 59
    world.clock.at += 1
    world.until(MachineState.PAUSED)
    wait_for(lambda: world.node.keeper.store.get(world.uuid).reason == LEASE_REASON)
    world.site.away = False
    world.until(MachineState.RUNNING)


def test_a_machine_that_is_elsewhere_by_then_is_ended_and_never_goes_on(world: World) -> None:
    world.site.away = True
    world.clock.at += 60
    world.until(MachineState.PAUSED)
    world.site.say(DesiredState(revision=2))
    world.site.away = False
    world.until(None)
    assert ("resume", world.uuid) not in world.node.hypervisor.done


@pytest.mark.parametrize("world", ["end"], indirect=True)
def test_machines_end_where_the_site_says_so_and_are_made_anew(world: World) -> None:
    world.site.away = True
    world.clock.at += 60
    world.until(None)
    wait_for(lambda: not world.node.keeper.store.all())
    world.site.away = False
    world.until(MachineState.RUNNING)
    assert world.node.made == [world.uuid, world.uuid]


def test_a_service_that_was_away_stops_what_should_have_stopped(world: World) -> None:
    """The site gave up meanwhile, and cannot be asked."""
    world.stop()
    world.site.away = True
    world.clock.at += 60
    world.node.open()
    world.start()
    world.until(MachineState.PAUSED)


def test_what_cannot_be_paused_is_ended(world: World) -> None:
    world.node.hypervisor.failing = "pause"
    world.site.away = True
    world.clock.at += 60
    world.until(None)


def test_what_is_being_made_is_broken_off(tmp_path: Path) -> None:
    """A guard cancels at each look, and stops what began to run between two of them."""
    cancelled: list[None] = []
    node, clock = LightNode(tmp_path), Clock()
    fence = NodeLease(None, clock)
    guard = LeaseGuard(fence, node.keeper, list, lambda: cancelled.append(None))
    guard.look()
    assert not cancelled
    fence.heard(clock.at, 5, told(5))
    clock.at += 5
    guard.look()
    guard.look()
    guard.close()
    assert len(cancelled) == 2


def test_a_hypervisor_that_fails_altogether_is_tried_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[str] = []

    def broken(uuid: str) -> None:
        tries.append(uuid)
        raise BackendFailed("it is ill")

    with monkeypatch.context() as ill:
        ill.setattr(world.node.hypervisor, "pause", broken)
        ill.setattr(world.node.hypervisor, "destroy", broken)
        world.site.away = True
        world.clock.at += 60
        wait_for(lambda: len(tries) > 4)
    world.until(MachineState.PAUSED)
