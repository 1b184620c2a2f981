"""Serial consoles in files: their end, what was given up at the beginning, and whose they are."""

import base64
import uuid
from pathlib import Path

import pytest

from deployer.machine.state import MachineState
from deployer.node.machines import console as serial
from deployer.node.machines.console import ConsoleReader, read_console_end, read_console_from
from deployer.protocol.console import sanitize_output
from deployer.protocol.desired_state import ConsoleRequest, ConsoleResponse, DesiredState
from tests.support.node.fake_hypervisor import SITE, LightNode, LightSite
from tests.support.node.fake_site import machine
from tests.support.node.service_process import wait_for


def test_what_was_given_up_at_the_beginning_is_left_out(tmp_path: Path) -> None:
    """Offsets stay what they were; the end is at most so much."""
    file = tmp_path / "console.log"
    assert read_console_end(file, 10) == (0, b"")
    assert read_console_from(file, 5, 10) == (5, b"")
    with file.open("wb") as opened:
        opened.seek(1 << 20)
        opened.write(b"end")
    start, data = read_console_from(file, 0, 1 << 21)
    assert start > 0
    assert data.strip(b"\0") == b"end"
    assert read_console_end(file, 2) == ((1 << 20) + 1, b"nd")
    assert sanitize_output(b"\x1b[31mred\x1b[0m\r\n\x1b]0;title\x07") == "red\n\\x1b]0;title\\x07"


def test_a_node_tells_a_site_of_no_machine_but_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor of one that there is not; who waits is told when the time is over, or there are too many."""
    monkeypatch.setattr(serial, "MAX_WAITING", 2)
    node, site = LightNode(tmp_path / "machines"), LightSite()
    agent = node.agent(site)
    agent.start()
    reader = ConsoleReader(site, SITE, node.keeper)
    try:
        mine, other = (machine(str(uuid.uuid4())) for _ in range(2))
        site.say(DesiredState(revision=2, machines=(mine, other)))
        wait_for(lambda: len(node.made) == 2, 60)
        wait_for(lambda: all(one.state is MachineState.RUNNING for one in node.keeper.store.all()), 60)
        node.keeper.store.console(mine.uuid).write_bytes(b"secret")
        node.keeper.store.console(other.uuid).write_bytes(b"another's")
        node.keeper.change(other.uuid, site="6" * 64)

        def asked(name: str, **values: float) -> ConsoleResponse:
            ask = ConsoleRequest(id=str(uuid.uuid4()), machine=name, most=100, **values)  # type: ignore[arg-type]
            reader.asked((ask,))
            return wait_for(lambda: next((one for one in site.serials if one.id == ask.id), None), 60)  # type: ignore[no-any-return]

        assert base64.b64decode(asked(mine.uuid).data) == b"secret"
        assert (asked(other.uuid).state, asked(other.uuid).data) == (None, "")
        assert asked(str(uuid.uuid4())).state is None
        assert asked(mine.uuid, after=6, wait=0.1).data == ""
        waiting = [ConsoleRequest(id=str(uuid.uuid4()), machine=mine.uuid, most=9, after=6, wait=60) for _ in range(3)]
        reader.asked(waiting)
        wait_for(lambda: any(one.id == waiting[2].id for one in site.serials), 60)  # one too many waits for nothing
        assert not any(one.id in {waiting[0].id, waiting[1].id} for one in site.serials)
        with node.keeper.store.console(mine.uuid).open("ab") as file:
            file.write(b"!")
        wait_for(lambda: {one.id for one in waiting} <= {one.id for one in site.serials}, 60)
    finally:
        reader.close()
        agent.close()
