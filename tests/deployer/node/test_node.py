"""A node's service, with real guests: what it adopts, ends, cleans up and keeps."""

import os
import shutil
import signal
import sqlite3
import stat
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from deployer.errors import MachineConflict, MachineNotFound, NodeUnavailable
from deployer.machine.state import MachineState
from deployer.node.client import NodeClient
from deployer.node.node import Node
from deployer.node.settings import DeploySettings
from signer.documents import validate
from stager.errors import CacheBusy
from stager.settings import NodeSettings
from tests.support.node.boot_sector_guest import GOODBYE, SAID
from tests.support.node.service_process import NodeProcess, wait_for

pytestmark = pytest.mark.guest


def test_a_guest_boots_from_its_partitions_and_powers_off_when_asked(node: NodeProcess) -> None:
    steps = node.steps(hostname="worker")
    assert [step.step for step in steps if step.step != "staging"] == [
        "resolved",
        "decided",
        "staged",
        "verified",
        "assembled",
        "running",
        "done",
    ]
    (machine,) = node.records()
    assert machine.state is MachineState.RUNNING
    assert machine.hostname == "worker"
    console = node.said(machine.uuid, SAID[-1])
    assert all(words in console for words in SAID)
    with node.client() as client:
        assert client.shutdown(machine.uuid, wait=20).state is MachineState.STOPPED
        assert GOODBYE in node.console(machine.uuid)
        client.destroy(machine.uuid)
    assert node.records() == []
    assert list(node.machines.iterdir()) == []
    wait_for(lambda: not node.guests())


def test_machines_outlive_the_service_and_are_adopted_after_kill_9(node: NodeProcess) -> None:
    first = node.deploy().machines[0]
    node.said(first.uuid, SAID[-1])
    (guest,) = node.guests()
    node.kill()
    assert node.guests() == [guest]
    node.start()
    assert node.state(first.uuid) is MachineState.RUNNING
    second = node.deploy().machines[0]
    with node.client() as client:
        assert client.shutdown(first.uuid, wait=20).state is MachineState.STOPPED
        assert client.shutdown(second.uuid, wait=20).state is MachineState.STOPPED
        assert GOODBYE in node.console(first.uuid)


def test_a_clean_end_leaves_machines_running_too(node: NodeProcess) -> None:
    machine = node.deploy().machines[0]
    assert node.stop() == 0
    assert not node.socket.exists()
    assert len(node.guests()) == 1
    node.start()
    assert node.state(machine.uuid) is MachineState.RUNNING


def test_what_ended_while_the_service_was_away_is_known_afterwards(node: NodeProcess) -> None:
    machine = node.deploy().machines[0]
    node.said(machine.uuid, SAID[-1])
    node.kill()
    (guest,) = node.guests()
    os.kill(guest, signal.SIGKILL)
    wait_for(lambda: not node.guests())
    node.start()
    with node.client() as client:
        record = client.machine(machine.uuid)
    assert record.state is MachineState.STOPPED
    assert record.reason == "it ended while the node's service was not running"
    assert SAID[-1] in node.console(machine.uuid)
    left = {path.name for path in (node.machines / machine.uuid).iterdir()}
    assert {"machine.json", "console.log", "disk0.qcow2"} <= left  # until it expires it may boot again
    assert holders(node) == {f"machine:{machine.uuid}"}


def test_half_made_machines_and_orphans_are_removed_at_the_start(node: NodeProcess) -> None:
    whole, half, unknown, torn = (node.deploy().machines[0] for _ in range(4))
    node.kill()
    record = node.machines / half.uuid / "machine.json"
    record.write_text(record.read_text().replace('"state":"running"', '"state":"booting"'))
    shutil.rmtree(node.machines / unknown.uuid)
    (node.machines / torn.uuid / "machine.json").write_bytes(b'{"uuid": "')
    (node.machines / ".removed-x").mkdir()
    assert len(node.guests()) == 4
    node.start()
    assert [record.uuid for record in node.records()] == [whole.uuid]
    assert [path.name for path in node.machines.iterdir()] == [whole.uuid]
    wait_for(lambda: len(node.guests()) == 1)
    assert holders(node) == {f"machine:{whole.uuid}"}


def test_a_machine_ends_when_its_time_has_come(node: NodeProcess) -> None:
    machine = node.deploy(lifetime=3).machines[0]
    assert machine.expires - machine.changed <= timedelta(seconds=3)
    node.said(machine.uuid, SAID[-1])
    wait_for(lambda: node.state(machine.uuid) is MachineState.ENDED, 20)
    assert GOODBYE in node.console(machine.uuid)  # it was asked before it was ended
    with node.client() as client:
        assert "it expired" in client.machine(machine.uuid).reason
    wait_for(lambda: holders(node) == set())  # released right after the state was written


def test_a_guest_that_does_not_listen_is_ended_after_its_grace(
    make_node: Callable[..., NodeProcess],
) -> None:
    node = make_node(grace="1s")
    machine = node.deploy(lifetime=1).machines[0]
    (guest,) = node.guests()
    os.kill(guest, signal.SIGSTOP)  # deaf to its power button
    wait_for(lambda: node.state(machine.uuid) is MachineState.ENDED, 20)
    os.kill(guest, signal.SIGCONT)
    wait_for(lambda: not node.guests())


def test_a_machine_that_is_killed_from_outside_has_failed(node: NodeProcess) -> None:
    machine = node.deploy().machines[0]
    (guest,) = node.guests()
    os.kill(guest, signal.SIGKILL)
    wait_for(lambda: node.state(machine.uuid) is MachineState.FAILED)
    wait_for(lambda: holders(node) == set())  # released right after the state was written
    with node.client() as client, pytest.raises(MachineConflict, match="is failed and cannot be asked"):
        client.shutdown(machine.uuid)


def test_two_services_never_share_a_directory(quiet: NodeProcess) -> None:
    with pytest.raises(CacheBusy, match="in use by the running process"):
        Node.open(
            validate(NodeSettings, {"directory": str(quiet.directory / "n"), "cache_quota": 1 << 30}, "node"),
            DeploySettings(policy=quiet.policy, accelerator="tcg"),
        )


def test_consoles_are_read_from_any_offset_and_followed_to_the_end(node: NodeProcess) -> None:
    machine = node.deploy().machines[0]
    whole = node.said(machine.uuid, SAID[-1])
    with node.client() as client:
        assert b"".join(client.console(machine.uuid[:8], offset=20)) == whole[20:]
        assert b"".join(client.console(machine.name, offset=1 << 20)) == b""
        followed: list[bytes] = []

        def follow() -> None:
            with node.client() as other:
                followed.extend(other.console(machine.uuid, follow=True))

        thread = threading.Thread(target=follow)
        thread.start()
        client.shutdown(machine.uuid)
        thread.join(20)
        assert not thread.is_alive()
    assert b"".join(followed).endswith(GOODBYE + b"\r\n")


def test_a_console_that_grows_without_end_gives_back_its_beginning(node: NodeProcess) -> None:
    machine = node.deploy().machines[0]
    node.said(machine.uuid, SAID[-1])
    console = node.machines / machine.uuid / "console.log"
    with console.open("ab") as file:  # what a talkative guest does
        file.write(b"x" * (17 << 20) + b"the end")
    wait_for(lambda: console.stat().st_blocks * 512 < 2 << 20)
    with node.client() as client:
        said = b"".join(client.console(machine.uuid))
    assert len(said) <= (1 << 20) + 4096
    assert said.endswith(b"the end")


def test_machines_that_do_not_exist(quiet: NodeProcess) -> None:
    with quiet.client() as client:
        for name in ("00000000-0000-4000-8000-000000000000", "nobody", "%2e%2e", "x?wait=1", "a b"):
            with pytest.raises(MachineNotFound, match="no such machine"):
                client.machine(name)


def test_a_node_says_how_it_is(node: NodeProcess) -> None:
    node.deploy()
    with node.client() as client:
        status = client.status()
    assert status.machines == {"running": 1}
    assert status.hypervisor.startswith("libvirt ")
    assert "QEMU" in status.hypervisor
    assert status.accelerator.virt == "qemu"
    assert status.policy_digest is not None
    assert stat.S_IMODE(node.socket.stat().st_mode) == 0o600


def test_no_node_is_one_sentence(tmp_path: Path) -> None:
    with NodeClient(tmp_path / "node.sock") as client, pytest.raises(NodeUnavailable, match="start one with"):
        client.status()


def holders(node: NodeProcess) -> set[str]:
    """Who holds leases in the node's cache: the ledger is read beside the service."""
    with sqlite3.connect(f"file:{node.directory}/n/cache/ledger.db?mode=ro", uri=True) as ledger:
        return {row[0] for row in ledger.execute("SELECT DISTINCT holder FROM leases")}
