"""A node's service, with real guests: what it adopts, ends, cleans up and keeps."""

import pytest

from deployer.machine import State
from tests.deployer.guests import GOODBYE, SAID
from tests.deployer.nodes import NodeProcess, wait_for

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
    assert machine.state is State.RUNNING
    assert machine.hostname == "worker"
    console = node.said(machine.uuid, SAID[-1])
    assert all(words in console for words in SAID)
    with node.client() as client:
        assert client.shutdown(machine.uuid, wait=20).state is State.STOPPED
        assert GOODBYE in node.console(machine.uuid)
        client.destroy(machine.uuid)
    assert node.records() == []
    assert list(node.machines.iterdir()) == []
    wait_for(lambda: not node.guests())
