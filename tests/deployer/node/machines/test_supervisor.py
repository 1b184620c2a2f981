"""Every machine that is said to have been deployed is said to have ended, once, however it came to that."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from deployer.machine.shape import MachineShape
from deployer.machine.state import MachineEvent, MachineState
from deployer.node.machines.supervisor import MachineSupervisor
from deployer.records.machine_store import MachineRecord, MachineStore
from deployer.records.recorder import Recorder
from signer.audit_log import read_log, verify_log
from tests.support.node.receipts import spec

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


class NoLeases:
    """A cache in which nobody holds anything."""

    def release(self, holder: str) -> object:
        return holder

    def holders(self) -> Iterable[str]:
        return ()

    def renew(self, holder: str, ttl: float) -> object:
        return holder, ttl


class Hypervisor:
    """Runs what it is told to, in name."""

    def __init__(self) -> None:
        self.running: set[str] = set()

    def found(self) -> set[str]:
        return set(self.running)

    def start(self, machine: Any) -> None:
        self.running.add(machine.uuid)

    def shutdown(self, uuid: str) -> None:
        self.running.discard(uuid)

    def destroy(self, uuid: str) -> None:
        self.running.discard(uuid)

    def state(self, uuid: str) -> MachineState | None:
        return MachineState.RUNNING if uuid in self.running else None

    def saved(self, place: Path) -> bool:
        return place.exists()


class Node:
    def __init__(self, place: Path) -> None:
        self.place, self.ended, self.hypervisor = place, list[tuple[str, str]](), Hypervisor()
        self.reopen()

    def reopen(self) -> None:
        """The service starts (again)."""
        self.keeper = MachineSupervisor(
            MachineStore(self.place),
            NoLeases(),
            lambda: NOW,
            timedelta(seconds=1),
            lambda record: self.ended.append((record.state.value, record.reason)),
        )
        self.keeper.recover(self.hypervisor)  # type: ignore[arg-type] - it behaves like one

    def make(self, state: MachineState, *, assembled: bool = True) -> str:
        record = MachineRecord(
            uuid=spec().uuid,
            name="worker",
            hostname="worker",
            image_id="sha256:" + "ab" * 32,
            title="star/worker@1.0",
            state=state,
            created=NOW,
            changed=NOW,
            expires=NOW + timedelta(hours=1),
            **MachineShape.fixed(1 << 30, 1).model_dump(),
            network="none",
            virt="qemu",
            policy="sha256:" + "12" * 32,
            spec=spec() if assembled else None,
        )
        self.keeper.begin(record)
        if state is MachineState.RUNNING:
            self.hypervisor.start(record)
        return record.uuid


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path / "machines")


@pytest.mark.parametrize(
    ("happening", "state"),
    [
        (MachineEvent.POWERED_OFF, "stopped"),
        (MachineEvent.CRASHED, "failed"),
        (MachineEvent.EXPIRED, "ended"),
        (MachineEvent.DESTROYED, "ended"),
    ],
)
def test_an_end_is_told_once(node: Node, happening: MachineEvent, state: str) -> None:
    uuid = node.make(MachineState.RUNNING)
    for _ in range(2):
        node.keeper.happened(uuid, happening, "so it was")
    assert node.ended == [(state, "so it was")]


def test_a_machine_that_stopped_is_not_told_again_when_it_is_destroyed(node: Node) -> None:
    uuid = node.make(MachineState.RUNNING)
    node.keeper.happened(uuid, MachineEvent.POWERED_OFF, "by itself")
    node.keeper.destroy(uuid)
    assert node.ended == [("stopped", "by itself")]


def test_a_pause_is_no_end(node: Node) -> None:
    uuid = node.make(MachineState.RUNNING)
    node.keeper.happened(uuid, MachineEvent.PAUSED, "")
    node.keeper.happened(uuid, MachineEvent.RESUMED, "")
    assert node.ended == []


def test_a_deployment_that_is_undone_after_its_receipt_is_told(node: Node) -> None:
    uuid = node.make(MachineState.BOOTING)
    node.keeper.undo(uuid)
    node.keeper.undo(uuid)
    assert node.ended == [("failed", "its deployment did not succeed and was undone")]


def test_one_that_is_undone_before_has_nothing_to_tell(node: Node) -> None:
    node.keeper.undo(node.make(MachineState.STAGING, assembled=False))
    assert node.ended == []


def test_what_ended_while_the_service_was_away_is_told_when_it_is_back(node: Node) -> None:
    node.make(MachineState.RUNNING)
    node.hypervisor.running.clear()
    node.reopen()
    assert node.ended == [("stopped", "it ended while the node's service was not running")]
    node.reopen()
    assert len(node.ended) == 1


def test_what_was_being_made_when_the_service_died_is_told(node: Node) -> None:
    node.make(MachineState.BOOTING)
    node.reopen()
    assert node.ended == [("failed", "it was being made when the node ended")]


def test_what_runs_on_is_not_told(node: Node) -> None:
    node.make(MachineState.RUNNING)
    node.reopen()
    assert node.ended == []


def test_an_end_that_the_service_died_over_is_told_at_the_next_start(tmp_path: Path) -> None:
    machines = [f"{number:08d}-bbbb-4ccc-8ddd-eeeeeeeeeeee" for number in range(4)]
    recorder = Recorder(tmp_path, "11111111-2222-4333-8444-555555555555", lambda: NOW)
    for machine in machines:
        facts = {"machine": machine, "name": 'a "kind":"end" of it', "image": "sha256:" + "ab" * 32, "receipt": "00"}
        recorder.audit.append("deployment", facts, NOW)
    recorder.audit.append("end", {"machine": machines[0], "state": "ended", "reason": "told"}, NOW)
    for _ in range(2):
        recorder.settle([machines[1]])
    recorder.close()

    ends = [entry.data for entry in read_log(tmp_path / "audit.jsonl") if entry.kind == "end"]
    assert [end["machine"] for end in ends] == [machines[0], machines[2], machines[3]]
    assert "had ended before the node's service started" in ends[1]["reason"]
    assert verify_log(tmp_path / "audit.jsonl").intact
