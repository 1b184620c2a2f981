"""An agent beside a site and a node in this process: what fails, what comes late, what is away."""

import uuid as uuids
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from deployer.machine.spec import MachineSpec
from deployer.machine.state import MachineEvent, MachineState
from deployer.node import backoff
from deployer.node.agent import agent as agents
from deployer.node.agent import reporter as reporting
from deployer.node.agent.agent import Agent
from deployer.protocol.desired_state import DesiredMachine, DesiredState, DesiredStatus, ObservedMachine
from tests.support.node.fake_hypervisor import SITE, LightNode, LightSite
from tests.support.node.fake_site import machine
from tests.support.node.service_process import wait_for


class World:
    """A site, a node, and the agent between them."""

    def __init__(self, place: Path) -> None:
        self.node, self.site = LightNode(place), LightSite()
        self.machines: dict[str, DesiredMachine] = {}
        self.agent: Agent | None = None

    def start(self) -> None:
        """The agent begins."""
        self.agent = self.node.agent(self.site)
        self.agent.start()

    def stop(self) -> None:
        """It ends, as when the service is told to."""
        if self.agent is not None:
            self.agent.close()
        self.agent = None

    def want(self, uuid: str = "", **changes: Any) -> str:
        """Want a machine, or one otherwise."""
        name = uuid or str(uuids.uuid4())
        known = self.machines.get(name)
        self.machines[name] = known.model_copy(update=changes) if known else machine(name, **changes)
        self.say()
        return name

    def say(self) -> None:
        """All that is wanted, as the next revision."""
        self.site.say(DesiredState(revision=self.site.state.revision + 1, machines=tuple(self.machines.values())))

    def seen(self, uuid: str) -> ObservedMachine | None:
        """A machine in the last report."""
        reports = self.site.reports[-1:]
        return next((one for report in reports for one in report.machines if one.uuid == uuid), None)

    def until(self, uuid: str, state: MachineState, reason: str = "") -> ObservedMachine:
        """A machine, once it is reported in a state and with a reason that holds these words."""

        def found() -> ObservedMachine | None:
            seen = self.seen(uuid)
            return seen if seen and seen.state is state and reason in seen.reason else None

        answer: ObservedMachine = wait_for(found, 60)
        return answer

    def gone(self, uuid: str) -> None:
        """Wait until a report of the present revision lacks a machine."""
        wait_for(lambda: self.site.reports[-1].revision == self.site.state.revision and self.seen(uuid) is None, 60)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """Everything that waits waits a tenth as long."""
    monkeypatch.setattr(backoff, "RETRIES", replace(backoff.RETRIES, base=0.1, max_pause=1.0))
    monkeypatch.setattr(agents, "LOOK_EVERY", 0.1)
    monkeypatch.setattr(reporting, "LOOK_EVERY", 0.1)
    monkeypatch.setattr(reporting, "TELL_EVERY", 0.01)
    monkeypatch.setattr(reporting, "FACTS_EVERY", 0.2)
    world = World(tmp_path / "machines")
    world.start()
    yield world
    world.stop()


def test_what_the_policy_refuses_has_failed_and_is_not_tried_again(world: World) -> None:
    world.node.refuse = "the policy refuses star/hello@1.0"
    uuid = world.want()
    assert world.until(uuid, MachineState.FAILED).reason == "the policy refuses star/hello@1.0"
    world.node.refuse = ""
    world.stop()
    world.node.open()  # nor after the service was started again
    world.start()
    world.until(uuid, MachineState.FAILED)
    world.want(uuid, reboots=1)
    wait_for(lambda: world.site.reports[-1].revision == world.site.state.revision)
    assert world.node.made == []
    del world.machines[uuid]
    world.say()
    world.gone(uuid)
    assert world.node.keeper.store.all() == []


def test_what_cannot_be_had_for_now_is_tried_again_and_said_to_be_pending(world: World) -> None:
    world.node.unavailable = 3
    uuid = world.want()
    assert world.until(uuid, MachineState.PENDING, "does not answer").changed is not None
    assert world.until(uuid, MachineState.RUNNING).reason == ""
    assert world.node.made == [uuid]


def test_progress_is_told_while_a_machine_is_made(world: World) -> None:
    world.node.hold = agents.threading.Event()
    uuid = world.want()
    seen = world.until(uuid, MachineState.STAGING)
    wait_for(lambda: (one := world.seen(uuid)) and (one.fetched, one.total) == (3, 7))
    assert seen.uuid == uuid
    world.node.hold.set()
    world.until(uuid, MachineState.RUNNING)


@pytest.mark.parametrize("how", ["ended", "forgotten"])
def test_a_machine_that_nobody_wants_any_more_is_not_made_to_its_end(world: World, how: str) -> None:
    world.node.hold = agents.threading.Event()
    uuid = world.want()
    world.until(uuid, MachineState.STAGING)
    if how == "ended":
        world.want(uuid, desired=DesiredStatus.ENDED)
    else:
        del world.machines[uuid]
        world.say()
    world.gone(uuid)
    assert world.node.hypervisor.machines == {}
    assert world.node.keeper.store.all() == []
    assert world.node.leases.held == {}


def test_what_comes_late_counts_no_more(world: World) -> None:
    uuid = world.want()
    world.until(uuid, MachineState.RUNNING)
    late = DesiredState(revision=world.site.state.revision - 1)
    world.site.say(late)
    asked = len(world.site.asked)
    wait_for(lambda: len(world.site.asked) > asked + 2)
    assert world.until(uuid, MachineState.RUNNING).state is MachineState.RUNNING
    assert world.site.reports[-1].revision == late.revision + 1
    assert len(world.site.asked) < asked + 50, "it asks without a pause"


def test_machines_go_on_while_the_site_is_away_and_end_at_their_time(world: World) -> None:
    expires = (datetime.now(UTC) + timedelta(seconds=2)).replace(microsecond=0)
    short, long = world.want(expires=expires), world.want()
    world.until(short, MachineState.RUNNING)
    world.until(long, MachineState.RUNNING)
    world.site.away = True
    heard = len(world.site.reports)

    def ended() -> bool:
        world.node.keeper.tick()
        return world.node.keeper.store.get(short).state is MachineState.ENDED

    wait_for(ended, 60)
    assert world.node.hypervisor.machines == {long: MachineState.RUNNING}
    assert len(world.site.reports) == heard
    world.site.away = False
    world.until(short, MachineState.ENDED)
    world.until(long, MachineState.RUNNING)


def test_machines_of_others_and_local_orders_are_left_alone(world: World) -> None:
    keeper = world.node.keeper
    other = world.want()
    world.until(other, MachineState.RUNNING)
    keeper.change(other, site="6" * 64)
    del world.machines[other]
    local = world.want()
    world.until(local, MachineState.RUNNING)
    keeper.change(local, site="")
    del world.machines[local]
    world.say()
    wait_for(lambda: world.site.reports[-1].revision == world.site.state.revision)
    wait_for(lambda: world.site.reports[-1].machines == ())
    assert set(world.node.hypervisor.machines) == {other, local}


def test_a_machine_that_its_operator_destroyed_is_told_and_not_made_again(world: World) -> None:
    uuid = world.want()
    world.until(uuid, MachineState.RUNNING)
    world.node.keeper.destroy(uuid)
    assert world.until(uuid, MachineState.ENDED).reason == "destroyed on request"
    assert world.node.made == [uuid]


def test_a_guest_that_powered_itself_off_stays_off_until_somebody_wants_it(world: World) -> None:
    uuid = world.want()
    world.until(uuid, MachineState.RUNNING)
    world.node.hypervisor.shutdown(uuid)
    world.until(uuid, MachineState.STOPPED)
    world.want(uuid, reboots=1)  # a change that says nothing of that
    wait_for(lambda: world.site.reports[-1].revision == world.site.state.revision)
    world.until(uuid, MachineState.STOPPED)
    world.want(uuid, desired=DesiredStatus.STOPPED, reboots=0)
    wait_for(lambda: world.node.keeper.store.get(uuid).desired == "stopped")
    world.want(uuid, desired=DesiredStatus.RUNNING)
    world.until(uuid, MachineState.RUNNING)


def test_what_the_node_holds_is_not_resumed_for_its_site(world: World) -> None:
    uuid = world.want()
    world.until(uuid, MachineState.RUNNING)
    world.node.refuse = "it was revoked"
    world.node.keeper.hold(uuid, "it was revoked")
    world.until(uuid, MachineState.PAUSED, "it was revoked")
    assert world.node.hypervisor.machines == {uuid: MachineState.PAUSED}
    world.node.refuse = ""  # the policy changed
    world.until(uuid, MachineState.RUNNING)
    assert world.node.keeper.store.get(uuid).pause_reason == ""


def test_what_an_emulator_refuses_is_tried_again_with_the_reason_told(world: World) -> None:
    uuid = world.want(max_memory=64 << 20)
    world.until(uuid, MachineState.RUNNING)
    world.node.hypervisor.failing = "suspend"
    world.want(uuid, desired=DesiredStatus.SUSPENDED)
    world.until(uuid, MachineState.RUNNING, "the emulator says no")
    assert not world.node.keeper.store.memory(uuid).exists()
    world.node.hypervisor.failing = None
    world.until(uuid, MachineState.SUSPENDED)
    world.want(uuid, desired=DesiredStatus.RUNNING, memory=48 << 20)
    wait_for(lambda: (seen := world.seen(uuid)) and (seen.state, seen.memory) == (MachineState.RUNNING, 48 << 20))


def test_addresses_are_told_of_networks_where_they_mean_something(world: World) -> None:
    there, nowhere = world.want(network="network:default"), world.want(network="user")
    world.until(nowhere, MachineState.RUNNING)
    wait_for(lambda: (seen := world.seen(there)) and seen.addresses == ("192.0.2.7",))
    assert world.until(nowhere, MachineState.RUNNING).addresses == ()


def test_an_end_that_is_over_already_has_its_grace(world: World) -> None:
    world.node.hypervisor.deaf = True
    world.node.keeper._grace = timedelta(seconds=3)
    expires = (datetime.now(UTC) + timedelta(seconds=1)).replace(microsecond=0)
    uuid = world.want(expires=expires)
    world.until(uuid, MachineState.RUNNING)
    wait_for(lambda: datetime.now(UTC) > expires)
    world.want(uuid, desired=DesiredStatus.ENDED, reason="it expired")
    world.node.hypervisor.deaf = False

    def ended() -> bool:
        world.node.keeper.tick()
        return world.node.keeper.store.get(uuid).state.final or not world.node.hypervisor.machines

    wait_for(ended, 60)
    assert ("shutdown", uuid) in world.node.hypervisor.done


def test_duplicates_change_nothing(world: World) -> None:
    uuid = world.want()
    world.until(uuid, MachineState.RUNNING)
    done = list(world.node.hypervisor.done)
    assert world.agent is not None
    for _ in range(5):
        world.agent.reconcile()
    assert world.node.hypervisor.done == done
    assert [record.site for record in world.agent.records()] == [SITE]


def deployed(world: World, **changes: Any) -> str:
    """A machine that runs, in the hands of nobody but the test."""
    uuid = world.want(**changes)
    world.until(uuid, MachineState.RUNNING)
    world.stop()
    return uuid


def test_a_guest_that_does_not_boot_again_when_it_is_asked_to_is_reset(world: World) -> None:
    uuid = deployed(world)
    world.node.hypervisor.deaf = True
    assert world.node.verbs.reboot(uuid).reboots == 1
    assert world.node.hypervisor.done[-1] == ("reset", uuid)
    world.node.hypervisor.deaf = False
    assert world.node.verbs.reboot(uuid, 7).reboots == 7
    assert world.node.hypervisor.done[-1] == ("reboot", uuid)


def test_a_guest_that_does_not_power_off_has_its_power_cut(world: World) -> None:
    uuid = deployed(world)
    world.node.hypervisor.deaf = True
    assert "its power was cut" in world.node.verbs.stop(uuid).reason
    assert world.node.hypervisor.machines == {}
    world.node.keeper.told(uuid, MachineEvent.DESTROYED, "of the life before")  # late
    assert world.node.keeper.store.get(uuid).state is MachineState.STOPPED
    world.node.verbs.reactivate(uuid)
    world.node.keeper.told(uuid, MachineEvent.POWERED_OFF, "of the life before")
    world.node.keeper.told(uuid, MachineEvent.PAUSED, "of the life before")
    assert world.node.keeper.store.get(uuid).state is MachineState.RUNNING


def test_the_memory_of_a_suspended_machine_that_is_stopped_is_given_up(world: World) -> None:
    uuid = deployed(world)
    world.node.verbs.suspend(uuid)
    memory = world.node.keeper.store.memory(uuid)
    assert memory.read_bytes() == b"whole"
    assert world.node.verbs.stop(uuid).state is MachineState.STOPPED
    assert not memory.exists()
    assert world.node.keeper.store.directory(uuid).joinpath("disk0.qcow2").exists()


def test_a_machine_that_is_ended_while_it_is_let_go_on_stays_ended(world: World) -> None:
    uuid = deployed(world)
    node = world.node
    node.verbs.stop(uuid)
    start = node.hypervisor.start

    def start_and_end(spec: MachineSpec) -> None:
        start(spec)
        node.keeper.end(uuid, "meanwhile")
        node.hypervisor.machines[uuid] = MachineState.RUNNING  # the end came a moment before the start

    node.hypervisor.start = start_and_end  # type: ignore[method-assign]
    assert node.verbs.reactivate(uuid).state is MachineState.ENDED
    assert node.hypervisor.machines == {}


@pytest.mark.parametrize(
    ("state", "runs", "expected"),
    [
        (MachineState.RUNNING, MachineState.RUNNING, MachineState.RUNNING),
        (MachineState.RUNNING, MachineState.PAUSED, MachineState.PAUSED),
        (MachineState.PAUSED, MachineState.RUNNING, MachineState.RUNNING),
        (MachineState.RUNNING, None, MachineState.STOPPED),
        (MachineState.STOPPED, MachineState.RUNNING, MachineState.RUNNING),
        (MachineState.STOPPED, None, MachineState.STOPPED),
        (MachineState.SUSPENDED, MachineState.RUNNING, MachineState.RUNNING),
        (MachineState.SUSPENDED, None, MachineState.SUSPENDED),
        (MachineState.ENDED, MachineState.RUNNING, MachineState.ENDED),
        (MachineState.BOOTING, MachineState.RUNNING, None),
        (MachineState.STAGING, None, None),
    ],
)
def test_the_service_finds_machines_as_they_are(
    world: World, state: MachineState, runs: MachineState | None, expected: MachineState | None
) -> None:
    uuid = deployed(world)
    node = world.node
    node.keeper.store.change(uuid, node.keeper.now(), state=state)
    node.hypervisor.machines = {uuid: runs} if runs else {}
    node.open()
    found = {record.uuid: record.state for record in node.keeper.store.all()}
    assert found == ({uuid: expected} if expected else {})
    lives = expected in {MachineState.RUNNING, MachineState.PAUSED}
    assert node.hypervisor.machines == ({uuid: runs} if lives else {})
