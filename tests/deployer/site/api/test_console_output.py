"""A guest's serial console over the API, from the file on its node: real site, real HTTPS, real agent."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from deployer.errors import MachineConflict
from deployer.node.membership.credentials import SiteMembership
from deployer.node.membership.site_client import NodeSiteClient as NodeSideClient
from deployer.protocol.desired_state import MAX_CONSOLE_CHUNK
from deployer.site.client.client import SiteClient
from deployer.site.client.discovery import operator_socket
from deployer.site.db.engine import SiteDatabase
from deployer.site.model.principal import LOCAL_OPERATOR
from deployer.site.scheduling.node_capacity import Overcommit
from deployer.site.scheduling.placement import place_machines
from deployer.site.store.admission import admit_request
from deployer.site.store.store import SiteStore
from tests.support.grid_ca import utc_now
from tests.support.node.fake_hypervisor import LightNode
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
        with site.client() as client:
            wait_for(lambda: client.node("light").reported, 60)
        self.database = SiteDatabase(site.settings.database_url)
        self.store = SiteStore(self.database, utc_now, lambda: str(uuid.uuid4()), Overcommit())

    def close(self) -> None:
        """The node and the test let go."""
        self.agent.close()
        self.link.close()
        self.database.close()

    def machine(self) -> str:
        """A machine that runs; its UUID."""
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
    transport = httpx2.HTTPTransport(uds=str(operator_socket(guests.site.settings)))
    with httpx2.Client(transport=transport, base_url="http://site", timeout=60) as raw:
        got = raw.get(f"/v2/machines/{machine}/console")
        assert len(got.content) == 64 << 10
        assert (got.headers["partita-offset"], got.headers["partita-state"]) == (
            str(100_000 + len(SAID) - (64 << 10)),
            "running",
        )
        assert got.headers["content-type"] == "application/octet-stream"
        assert got.headers["x-content-type-options"] == "nosniff"
        for wrong in ("0", str(MAX_CONSOLE_CHUNK + 1), "x"):
            assert raw.get(f"/v2/machines/{machine}/console", params={"bytes": wrong}).status_code == 400
        for method in ("POST", "PUT", "DELETE"):  # nobody types into a console here
            assert raw.request(method, f"/v2/machines/{machine}/console").status_code in {400, 405}


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
    wait_for(lambda: client.machine(machine).removed_from_node, 60)
    with pytest.raises(MachineConflict, match="was removed"):
        client.console(machine, 10)


def test_the_page_shows_text_and_nothing_else(guests: Guests, client: SiteClient) -> None:
    """What a guest writes is neither markup nor colour."""
    machine = guests.machine()
    guests.file(machine).write_bytes(SAID + b"</pre><script>alert(1)</script>\x07")
    with httpx2.Client(base_url=guests.site.url, verify=False, timeout=60, trust_env=False) as browser:
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
