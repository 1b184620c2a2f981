"""A guest's serial console, from the file on its node to whoever may read it at the site: real site, real HTTPS, real agent."""

import asyncio
import base64
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from deployer.errors import MachineConflict, SiteUnavailable
from deployer.machine.spec import MachineState
from deployer.node.machines import console as serial
from deployer.node.machines.console import ConsoleReader, read_console_end, read_console_from
from deployer.node.membership.credentials import SiteMembership
from deployer.node.membership.site_client import NodeSiteClient as NodeSideClient
from deployer.protocol.console import sanitize_output
from deployer.protocol.desired_state import MAX_CONSOLE_CHUNK, ConsoleRequest, ConsoleResponse, DesiredState
from deployer.site.client.client import SiteClient
from deployer.site.client.discovery import operator_socket
from deployer.site.db.engine import SiteDatabase
from deployer.site.model.principal import LOCAL_OPERATOR
from deployer.site.operations import console_requests as asking
from deployer.site.operations.console_requests import PER_NODE, ConsoleRequestQueue
from deployer.site.scheduling.node_capacity import Overcommit
from deployer.site.scheduling.placement import place_machines
from deployer.site.store.admission import admit_request
from deployer.site.store.store import SiteStore
from tests.support.grid_ca import utc_now
from tests.support.node.fake_hypervisor import SITE, LightNode, LightSite
from tests.support.node.fake_site import machine
from tests.support.node.service_process import wait_for
from tests.support.site.service_process import SiteProcess
from tests.support.site.values import proposal

SAID = b"booting\r\n\x1b[1mlogin: \x1b[0m<b>"


class Guests:
    """A site with one node, whose machines are files."""

    def __init__(self, site: SiteProcess, place_: Path) -> None:
        self.site = site
        site.join(place_ / "site", "light")
        membership = SiteMembership.read(place_ / "site")
        assert membership is not None
        self.link = NodeSideClient(membership)
        self.node = LightNode(place_ / "machines")
        self.agent = self.node.agent(self.link)
        self.agent.start()
        self.database = SiteDatabase(site.settings.database_url)
        self.store = SiteStore(self.database, utc_now, lambda: str(uuid.uuid4()), Overcommit())

    def close(self) -> None:
        """The node and the test let go."""
        self.agent.close()
        self.link.close()
        self.database.close()

    def machine(self) -> str:
        """A machine that runs; its UUID."""
        with self.site.client() as client:
            wait_for(lambda: client.node("light").reported, 60)
        values = proposal(cores=1, memory=16 << 20, disk=1 << 20)
        (made,) = self.store.write(admit_request, LOCAL_OPERATOR, None, values, place_machines)[1]
        self.site.wait_state(made.uuid, "running")
        return made.uuid

    def file(self, machine: str) -> Path:
        """Where its guest writes."""
        return self.node.keeper.store.console(machine)


@pytest.fixture(scope="module")
def guests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guests]:
    """One site and one node for all tests."""
    with SiteProcess() as site:
        found = Guests(site, tmp_path_factory.mktemp("light"))
        yield found
        found.close()


@pytest.fixture
def client(guests: Guests) -> Iterator[SiteClient]:
    """The operator's."""
    with guests.site.client() as client:
        yield client


def test_the_end_of_a_console_comes_as_the_guest_wrote_it(guests: Guests, client: SiteClient) -> None:
    """Escape sequences too; how much, and where it begins, is said."""
    machine = guests.machine()
    assert client.console(machine, 100) == b""
    guests.file(machine).write_bytes(b"x" * 100_000 + SAID)
    assert client.console(machine, len(SAID)) == SAID
    transport = httpx.HTTPTransport(uds=str(operator_socket(guests.site.settings)))
    with httpx.Client(transport=transport, base_url="http://site", timeout=60) as raw:
        got = raw.get(f"/v1/machines/{machine}/console")
        assert len(got.content) == 64 << 10
        assert (got.headers["partita-offset"], got.headers["partita-state"]) == (
            str(100_000 + len(SAID) - (64 << 10)),
            "running",
        )
        assert got.headers["content-type"] == "application/octet-stream"
        assert got.headers["x-content-type-options"] == "nosniff"
        for wrong in ("0", str(MAX_CONSOLE_CHUNK + 1), "x"):
            assert raw.get(f"/v1/machines/{machine}/console", params={"bytes": wrong}).status_code == 400
        for method in ("POST", "PUT", "DELETE"):  # nobody types into a console here
            assert raw.request(method, f"/v1/machines/{machine}/console").status_code in {400, 405}


def test_a_console_is_followed_to_the_machines_end(guests: Guests, client: SiteClient) -> None:
    """Each byte once, as it is written; the stream ends with the machine."""
    machine = guests.machine()
    guests.file(machine).write_bytes(b"one\n")
    heard = b""
    for piece in client.follow_console(machine, 1000):
        heard += piece
        if heard == b"one\n":
            with guests.file(machine).open("ab") as file:
                file.write(b"two\n")
        elif heard == b"one\ntwo\n":
            with guests.file(machine).open("ab") as file:
                file.write(b"bye\n")
            guests.node.hypervisor.shutdown(machine)
    assert heard == b"one\ntwo\nbye\n"
    client.do(machine, "destroy")
    wait_for(lambda: client.machine(machine).gone, 60)
    with pytest.raises(MachineConflict, match="went with it"):
        client.console(machine, 10)


def test_the_page_shows_text_and_nothing_else(guests: Guests, client: SiteClient) -> None:
    """What a guest writes is neither markup nor colour."""
    machine = guests.machine()
    guests.file(machine).write_bytes(SAID + b"</pre><script>alert(1)</script>\x07")
    with httpx.Client(base_url=guests.site.url, verify=False, timeout=60, trust_env=False) as browser:  # noqa: S501 - loopback
        code = client.login_link().url.rpartition("=")[2]
        assert browser.post("/console/login", data={"code": code}).status_code == 303
        assert f"/console/machines/{machine}/console" in browser.get(f"/console/machines/{machine}").text
        text = browser.get(f"/console/machines/{machine}/console").text
    assert "booting\nlogin: &lt;b&gt;&lt;/pre&gt;&lt;script&gt;" in text
    assert "\\x07" in text
    assert "<script>alert" not in text


def test_a_machine_without_a_console_has_none(guests: Guests, client: SiteClient) -> None:
    """Before its node has begun to make it."""
    values = proposal(cores=1, memory=16 << 20, disk=1 << 20, held=True)
    (held,) = guests.store.write(admit_request, LOCAL_OPERATOR, None, values, place_machines)[1]
    with pytest.raises(MachineConflict, match="no console yet"):
        client.console(held.uuid, 10)


# The parts


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


def test_questions_are_answered_by_the_node_that_was_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once; another node's word does not count; a silent node is said to be; too many questions are refused."""
    monkeypatch.setattr(asking, "PATIENCE", 0.3)

    async def work() -> None:
        serials = ConsoleRequestQueue()
        machine = str(uuid.uuid4())
        called = asyncio.ensure_future(serials.called("n1", 60))
        question = asyncio.ensure_future(serials.ask("n1", machine, 10, wait=60))
        await asyncio.wait_for(called, 60)
        (asked,) = serials.taken("n1")
        assert (asked.machine, asked.most, serials.taken("n1"), serials.taken("n2")) == (machine, 10, (), ())
        serials.answered("n2", ConsoleResponse(id=asked.id, state=MachineState.RUNNING, data="Zm9yZ2Vk"))
        serials.answered("n1", ConsoleResponse(id=str(uuid.uuid4()), state=MachineState.RUNNING))
        await asyncio.sleep(0)
        assert not question.done()
        serials.answered("n1", ConsoleResponse(id=asked.id, state=MachineState.RUNNING, data="b2s="))
        serials.answered("n1", ConsoleResponse(id=asked.id, state=MachineState.RUNNING, data="YWdhaW4="))
        assert (await question).data == "b2s="
        with pytest.raises(SiteUnavailable, match="does not tell"):
            await serials.ask("n1", machine, 10)
        assert serials.taken("n1") == ()  # nobody waits for that any more
        many = [asyncio.ensure_future(serials.ask("n1", machine, 10, wait=60)) for _ in range(PER_NODE)]
        await asyncio.sleep(0)
        with pytest.raises(SiteUnavailable, match="too many"):
            await serials.ask("n1", machine, 10)
        other = asyncio.ensure_future(serials.ask("n2", machine, 10, wait=60))
        await asyncio.sleep(0)
        assert len(serials.taken("n1")) == PER_NODE
        for one in (*many, other):
            one.cancel()
        await asyncio.gather(*many, other, return_exceptions=True)
        assert serials._open == {}

    ended: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(work())
        except BaseException as exc:  # noqa: BLE001 - raised below
            ended.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(60)
    if ended:
        raise ended[0]
