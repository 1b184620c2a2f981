"""What can be done to machines that run and rest: with real guests, over kills of the service, and with what is refused."""

import os
import signal
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from catalog.client import transfer
from catalog.errors import Misused
from catalog.image.bundle import Bundle
from deployer.errors import BackendFailed, MachineConflict, Refused
from deployer.machine.state import MachineState
from deployer.node.schema.machines import ResizeRequest, SaveOrder
from tests.deployer.node.test_node import holders
from tests.support.node.boot_sector_guest import GOODBYE, SAID
from tests.support.node.community import Community
from tests.support.node.service_process import NodeProcess, policy, wait_for

pytestmark = pytest.mark.guest
MIB = 1 << 20
GREETING = SAID[0]


def boots(node: NodeProcess, uuid: str) -> int:
    """How often a guest has said hello."""
    return node.console(uuid).count(GREETING)


def test_a_machine_is_paused_suspended_stopped_and_goes_on_over_kills(node: NodeProcess) -> None:
    uuid = node.deploy().machines[0].uuid
    node.said(uuid, SAID[-1])
    with node.client() as client:
        assert client.do(uuid, "pause").state is MachineState.PAUSED
        with pytest.raises(MachineConflict, match="is paused and cannot be paused"):
            client.do(uuid, "pause")
    node.kill()
    node.start()
    assert node.state(uuid) is MachineState.PAUSED
    with node.client() as client:
        assert client.do(uuid, "resume").state is MachineState.RUNNING
        suspended = client.do(uuid, "suspend")
    assert (suspended.state, suspended.reason) == (MachineState.SUSPENDED, "suspended on request")
    assert node.guests() == []
    memory = node.machines / uuid / "memory"
    assert memory.stat().st_size > MIB // 2
    node.kill()
    node.start()
    assert node.state(uuid) is MachineState.SUSPENDED
    assert holders(node) == {f"machine:{uuid}"}
    with node.client() as client:
        assert client.do(uuid, "reactivate").state is MachineState.RUNNING
        assert not memory.exists()
        assert boots(node, uuid) == 1  # it went on, and did not begin anew
        assert client.do(uuid, "stop").state is MachineState.STOPPED
        assert GOODBYE in node.console(uuid)
        wait_for(lambda: not node.guests())
        assert client.do(uuid, "reactivate").state is MachineState.RUNNING
        wait_for(lambda: boots(node, uuid) == 2)
        # Its own disk: the sector that it wrote the first time is what it reads first now.
        wait_for(lambda: node.console(uuid).count(SAID[-1]) == 2)
        rebooted = client.do(uuid, "reboot")
        assert (rebooted.state, rebooted.reboots) == (MachineState.RUNNING, 1)
        wait_for(lambda: boots(node, uuid) == 3)
        client.destroy(uuid)
    assert list(node.machines.iterdir()) == []


@pytest.mark.slow
def test_the_power_of_a_machine_that_does_not_listen_is_cut(make_node: Callable[..., NodeProcess]) -> None:
    node = make_node(grace="1s")
    uuid = node.deploy().machines[0].uuid
    node.said(uuid, SAID[-1])
    with node.client() as client:
        (guest,) = node.guests()
        os.kill(guest, signal.SIGSTOP)  # deaf
        with pytest.raises(BackendFailed, match="does not answer"):
            client.do(uuid, "reboot")
        stopped = client.do(uuid, "stop")
        assert (stopped.state, stopped.reason) == (
            MachineState.STOPPED,
            "its power was cut: the guest did not power off",
        )
        wait_for(lambda: not node.guests())
        assert client.do(uuid, "reactivate").state is MachineState.RUNNING
        wait_for(lambda: boots(node, uuid) == 2)


@pytest.mark.slow
def test_what_was_saved_is_worth_nothing_once_the_disks_were_written(node: NodeProcess) -> None:
    uuid = node.deploy().machines[0].uuid
    node.said(uuid, SAID[-1])
    with node.client() as client:
        client.do(uuid, "suspend")
        os.utime(node.machines / uuid / "disk0.qcow2")  # as if it had run since
        with pytest.raises(MachineConflict, match="reactivate it to boot it again"):
            client.do(uuid, "reactivate")
        assert client.machine(uuid).state is MachineState.STOPPED
        client.do(uuid, "reactivate")
        wait_for(lambda: boots(node, uuid) == 2)


@pytest.mark.slow
def test_memory_that_had_just_been_saved_when_the_service_died_is_found(node: NodeProcess) -> None:
    uuid = node.deploy().machines[0].uuid
    node.said(uuid, SAID[-1])
    with node.client() as client:
        client.do(uuid, "suspend")
    node.kill()
    record = node.machines / uuid / "machine.json"
    record.write_text(record.read_text().replace('"state":"suspended"', '"state":"running"'))
    node.start()
    assert node.state(uuid) is MachineState.SUSPENDED
    node.kill()
    record.write_text(record.read_text().replace('"state":"suspended"', '"state":"running"'))
    memory = node.machines / uuid / "memory"
    with memory.open("r+b") as file:  # what libvirt writes there while it is not whole
        file.write(b"LibvirtQemudPart")
    node.start()
    assert node.state(uuid) is MachineState.STOPPED


def test_a_suspended_machine_is_ended_when_its_time_has_come(node: NodeProcess) -> None:
    uuid = node.deploy(lifetime=600).machines[0].uuid
    with node.client() as client:
        client.do(uuid, "suspend")
        expires = client.extend(uuid, 1).expires
        assert expires - datetime.now(UTC) <= timedelta(seconds=1)
        wait_for(lambda: client.machine(uuid).state is MachineState.ENDED)
    wait_for(lambda: holders(node) == set())
    assert {path.name for path in (node.machines / uuid).iterdir()} == {"machine.json", "console.log"}


def test_a_life_is_as_long_as_the_policy_allows(node: NodeProcess) -> None:
    uuid = node.deploy(lifetime=600).machines[0].uuid
    with node.client() as client:
        later = client.extend(uuid, 7200).expires
        assert later - datetime.now(UTC) > timedelta(seconds=7000)
        with pytest.raises(Refused, match=r"limits\.lifetime"):
            client.extend(uuid, 13 * 3600)
        assert client.machine(uuid).expires == later


@pytest.mark.slow
def test_a_machine_grows_within_what_it_was_granted(node: NodeProcess, community: Community) -> None:
    uuid = node.deploy(memory=32 * MIB, max_memory=64 * MIB, cores=1, max_cores=2).machines[0].uuid
    with node.client() as client:
        record = client.resize(uuid, ResizeRequest(memory=48 * MIB, cores=2))
        assert (record.memory, record.cores) == (48 * MIB, 2)
        for sized in (ResizeRequest(memory=65 * MIB), ResizeRequest(cores=3)):
            with pytest.raises(Misused, match="may have at most 64 MiB and 2 cores"):
                client.resize(uuid, sized)
        client.do(uuid, "stop")
        assert client.resize(uuid, ResizeRequest(cores=1)).cores == 1  # from its next boot on
        client.do(uuid, "reactivate")
        assert client.do(uuid, "suspend").state is MachineState.SUSPENDED
        with pytest.raises(MachineConflict, match="is suspended and cannot be resized"):
            client.resize(uuid, ResizeRequest(cores=2))
    with pytest.raises(Refused, match=r"limits\.memory"):
        node.deploy(max_memory=2 << 30)
    with pytest.raises(Misused, match="ask for a larger maximum, or let it begin smaller"):
        node.deploy(memory=64 * MIB, max_memory=32 * MIB)


def test_what_the_policy_no_longer_accepts_does_not_run_again(node: NodeProcess, community: Community) -> None:
    stopped, suspended = (node.deploy().machines[0].uuid for _ in range(2))
    with node.client() as client:
        client.do(stopped, "stop")
        client.do(suspended, "suspend")
        node.policy.write_text(policy(community.star.anchor(), threshold=2))
        for uuid in (stopped, suspended):
            with pytest.raises(Refused, match="1 of 2 endorsers"):
                client.do(uuid, "reactivate")
        node.policy.write_text(policy(community.star.anchor(), machines=1))
        client.do(stopped, "reactivate")
        with pytest.raises(Refused, match=r"limits\.machines"):
            client.do(suspended, "reactivate")
        assert [client.machine(uuid).state for uuid in (stopped, suspended)] == [
            MachineState.RUNNING,
            MachineState.SUSPENDED,
        ]


@pytest.mark.slow
def test_contents_that_were_damaged_meanwhile_are_brought_again(node: NodeProcess) -> None:
    uuid = node.deploy().machines[0].uuid
    node.said(uuid, SAID[-1])
    with node.client() as client:
        client.do(uuid, "stop")
        for path in (node.directory / "n" / "cache" / "partitions").rglob("*-*"):
            os.utime(path)
        client.do(uuid, "reactivate")
        wait_for(lambda: boots(node, uuid) == 2)


def test_extra_disks_are_blank_and_count_against_the_policy(node: NodeProcess) -> None:
    blanks = [{"size": 8 * MIB, "filesystem": "ext4", "label": "more"}, {"size": 4 * MIB, "filesystem": "none"}]
    machine = node.deploy(blanks=blanks).machines[0]
    node.said(machine.uuid, SAID[-1])
    assert machine.spec is not None
    assert [disk.serial for disk in machine.spec.disks] == ["disk0", "data", "scratch", "disk3", "disk4"]
    assert len(machine.blanks) == 2
    with pytest.raises(Refused, match=r"limits\.blank"):
        node.deploy(blanks=[{"size": 1 << 30, "filesystem": "none"}])


def test_a_machine_is_saved_as_the_next_version_and_runs(
    node: NodeProcess, community: Community, tmp_path: Path
) -> None:
    uuid = node.deploy().machines[0].uuid
    node.said(uuid, SAID[-1])
    target = tmp_path / "saved"
    with node.client() as client:
        with pytest.raises(MachineConflict, match="stop, pause or suspend it"):
            client.save(uuid, SaveOrder(directory=target, version="1.1"))
        client.do(uuid, "pause")
        with pytest.raises(MachineConflict, match="give another version"):
            client.save(uuid, SaveOrder(directory=target, version="1.0"))
        assert list(tmp_path.iterdir()) == []
        saved = client.save(uuid, SaveOrder(directory=target, version="1.1"))
    parent = community.hello.manifest
    assert (saved.title, saved.parent, saved.changed) == ("star/hello@1.1", parent.image_id, ("part1",))
    bundle = Bundle.open(target)
    before, after = list(parent.partitions()), list(bundle.manifest.partitions())
    assert [old.content == new.content for old, new in zip(before, after, strict=True)] == [False, *[True] * 4]
    assert [link.href for link in bundle.manifest.provenance if link.rel == "parent"] == [parent.image_id]
    assert bundle.manifest.contents()
    assert after[0].content is not None
    first = bundle.content(after[0].content).read_bytes()
    old = community.hello.content(before[0].content).read_bytes()  # type: ignore[arg-type] - it has content
    sector = (4095 - 2048) * 512
    assert first[:sector] == old[:sector]
    assert first[sector : sector + 32] == b"Wontent of the first partition\r\n"
    with community.service.client() as catalog:
        transfer.publish_image(catalog, community.star.endorse(bundle))
    again = node.deploy("star/hello@1.1").machines[0]
    node.said(again.uuid, SAID[-1])


@pytest.mark.slow
def test_a_table_that_the_guest_changed_is_no_part_of_an_image(node: NodeProcess, tmp_path: Path) -> None:
    uuid = node.deploy().machines[0].uuid
    node.said(uuid, SAID[-1])
    with node.client() as client:
        client.do(uuid, "stop")
        overlay = node.machines / uuid / "disk0.qcow2"
        _write(overlay, 600)
        with pytest.raises(MachineConflict, match="changed its partition table"):
            client.save(uuid, SaveOrder(directory=tmp_path / "saved", version="1.1"))
    assert list(tmp_path.iterdir()) == []


def _write(overlay: Path, offset: int) -> None:
    """What a guest does that writes a byte there."""
    command = ["qemu-io", "-f", "qcow2", "-c", f"write -P 7 {offset // 512 * 512} 512", str(overlay)]
    subprocess.run(command, check=True, capture_output=True)
