"""A real site process for tests, on loopback with TLS, and nodes that join it; everything that was started ends with them."""

import contextlib
import logging
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import pytest

from deployer.ec2.settings import Ec2Settings
from deployer.ec2.site.extension import AccountSupervisor
from deployer.machine.state import MachineState
from deployer.node.membership.credentials import SiteMembership
from deployer.node.membership.site_client import NodeSiteClient as NodeSideClient
from deployer.protocol.deployment_request import DeploymentRequest
from deployer.protocol.desired_state import Capacity, DesiredMachine, DesiredState, NodeReport, ObservedMachine
from deployer.protocol.joining import JoinResponse
from deployer.site.client.client import SiteClient, fetch_anchors
from deployer.site.client.discovery import operator_socket
from deployer.site.client.endpoint import SiteEndpoint
from deployer.site.client.node_join import join_site
from deployer.site.daemon import serve_site
from deployer.site.schema.messages import DeploymentCreated, JoinTokenRequest
from deployer.site.schema.views import MachineView
from deployer.site.service.site import SiteExtension
from deployer.site.settings import SiteSettings
from signer.documents import validate
from tests.support import network_namespaces
from tests.support.catalog.service_process import first_root
from tests.support.forkserver import PROCESSES
from tests.support.network_namespaces import Host, inside
from tests.support.node.community import Community
from tests.support.node.service_process import NodeProcess, policy, wait_for
from tests.support.site.token_issuer import AUDIENCE, Served, issuer

PATIENCE = 60.0
"""Seconds within which everything happens, on however busy a machine."""


def _serve(
    settings: SiteSettings,
    ready: Path,
    log: Path,
    ec2: Ec2Settings | None,
    variables: Mapping[str, str],
    namespace: str,
) -> None:
    """What the site's process does; everything that it says goes to the log."""
    if namespace:
        network_namespaces.enter(namespace)
    os.environ.update(variables)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)
    logging.basicConfig(level=logging.INFO)

    def up(url: str, socket: Path, site: Any) -> None:
        print(url, socket, site.status(), flush=True)  # noqa: T201 - into the log
        ready.with_suffix(".new").write_text(url)
        ready.with_suffix(".new").rename(ready)

    serve_site(settings, up, SiteExtension() if ec2 is None else AccountSupervisor(ec2))


class SiteProcess:
    """A site's service, started by `start`, killed or stopped, started again on the same directory and port.

    Args:
        catalog: the URL of its catalog; empty for one that nobody answers.
        policy_text, rights, issuers: what its files say; the latter two need not be there.
        ec2: its section `ec2`, if it has accounts there.
        variables: of the process's environment.
        host: where it runs; loopback if not given.
        site: further settings of the section `site`.
    """

    def __init__(
        self,
        catalog: str = "",
        policy_text: str = "",
        *,
        rights: str = "",
        issuers: str = "",
        ec2: Ec2Settings | None = None,
        variables: Mapping[str, str] | None = None,
        host: Host | None = None,
        **site: object,
    ) -> None:
        self._ec2, self._variables = ec2, dict(variables or {})
        self._ip, self._namespace = (host.ip, host.namespace) if host else ("127.0.0.1", "")
        self.place = Path(tempfile.mkdtemp(prefix="ps-", dir="/tmp"))
        self.directory, self.log = self.place / "s", self.place / "log"
        self.policy, self.rights, self.issuers = (
            self.place / f"{name}.toml" for name in ("policy", "rights", "issuers")
        )
        for file, text in ((self.policy, policy_text), (self.rights, rights), (self.issuers, issuers)):
            if text:
                file.write_text(text)
        self._settings: dict[str, object] = {
            "directory": str(self.directory),
            "listen": f"{self._ip}:0",
            "names": [self._ip, "localhost"],
            "catalog": catalog or "http://127.0.0.1:9",
            "policy": str(self.policy),
            "blocked": str(self.place / "blocked.toml"),
            "rights": str(self.rights),
            "issuers": str(self.issuers),
            "network": "none",
            # A node of paper is heard when a test moves it, and a shared one may wait for minutes between two tests.
            "lost_after": "1h",
        } | site
        if catalog:
            root = inside(host, lambda: first_root(catalog)) if host else first_root(catalog)
            (self.place / "root.json").write_bytes(root)
            self._settings["tuf_root"] = str(self.place / "root.json")
        self.url = ""
        self._process: Any = None

    @property
    def settings(self) -> SiteSettings:
        """As the process has them."""
        return validate(SiteSettings, self._settings, "settings")

    def set(self, **site: object) -> None:
        """Other settings, from the next start on."""
        self._settings |= site

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        shutil.rmtree(self.place)

    def start(self) -> None:
        """Start it and wait until it answers."""
        ready = self.place / "ready"
        ready.unlink(missing_ok=True)
        arguments = (self.settings, ready, self.log, self._ec2, self._variables, self._namespace)
        self._process = PROCESSES.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()

        def answers() -> bool:
            assert self._process.is_alive() or ready.exists(), self.log.read_text()
            return ready.exists()

        wait_for(answers, PATIENCE)
        self.url = ready.read_text()
        self._settings["listen"] = f"{self._ip}:{self.url.rpartition(':')[2]}"

    def kill(self) -> None:
        """End the service as a power cut would; machines and nodes go on."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process = None

    def stop(self) -> int:
        """End the service as an operator would; returns its exit code."""
        self._process.terminate()
        self._process.join(PATIENCE)
        code = self._process.exitcode
        assert code is not None, "it did not end"
        self._process = None
        return int(code)

    def client(self) -> SiteClient:
        """The operator's client, over the socket."""
        return SiteClient(SiteEndpoint(socket=operator_socket(self.settings)))

    @property
    def ca(self) -> str:
        """The CA certificate of the site (PEM)."""
        with self.client() as client:
            status = client.status()
        return fetch_anchors(self.url, status.fingerprint).certificates

    def reach(self, *, token: str = "", certificate: Path | None = None, key: Path | None = None) -> SiteClient:
        """A client over HTTPS that shows a token, a certificate, or nothing."""
        return SiteClient(
            SiteEndpoint(url=self.url, ca=self.ca, token=token, certificate=certificate, key=key or certificate)
        )

    def token(self, name: str = "") -> str:
        """A token for a node to join with."""
        with self.client() as client:
            return client.token(JoinTokenRequest(name=name)).token

    def join(self, place: Path, name: str = "", **labels: str) -> JoinResponse:
        """Let a node join, as `partita node join` does: `place` is where its files go (DIR/site)."""
        return join_site(place, self.url, self.token(), name or f"n{uuid.uuid4().hex[:8]}", labels)

    def deploy(self, image: str = "star/hello@1.0", *, key: str = "", **values: object) -> DeploymentCreated:
        """Order machines as the operator."""
        request = validate(DeploymentRequest, {"image": image, **values}, "order")
        with self.client() as client:
            return client.create(request, key or str(uuid.uuid4()))

    def machine(self, name: str) -> MachineView:
        """A machine as the site knows it."""
        with self.client() as client:
            return client.machine(name)

    def wait(self, what: Callable[[SiteClient], Any], seconds: float = PATIENCE) -> Any:
        """The first true answer to a question that is put to the operator's client again and again."""
        with self.client() as client:
            try:
                return wait_for(lambda: what(client), seconds)
            except AssertionError:
                print(self.log.read_text()[-4000:])  # noqa: T201 - why, for whoever reads of the failure
                raise

    def wait_state(self, machine: str, *states: str, seconds: float = PATIENCE) -> MachineView:
        """A machine once it is in one of these states."""

        def there(client: SiteClient) -> MachineView | None:
            found = client.machine(machine)
            return found if found.state.value in states else None

        found = self.wait(there, seconds)
        assert isinstance(found, MachineView)
        return found


@pytest.fixture
def make_site() -> Iterator[Callable[..., SiteProcess]]:
    """Starts sites; all of them end with the test."""
    with ExitStack() as stack:

        def make(*args: Any, **values: Any) -> SiteProcess:
            return stack.enter_context(SiteProcess(*args, **values))

        yield make


@pytest.fixture(scope="module")
def bare_site() -> Iterator[SiteProcess]:
    """A site without a catalog, without people, without nodes: shared by a module's tests that leave it so."""
    with SiteProcess() as site:
        yield site


@pytest.fixture
def make_member(community: Community, warm: Path) -> Iterator[Callable[..., NodeProcess]]:
    """Starts nodes that have joined a site: `make_member(site, name, **deploy settings)`. They and their guests end with the test."""
    with ExitStack() as stack:

        def make(site: SiteProcess, name: str = "", **deploy: object) -> NodeProcess:
            node = NodeProcess(community.service.url, policy(community.star.anchor()), warm=warm, **deploy)
            stack.push(lambda *_: _end(node))
            site.join(node.directory / "n" / "site", name)
            node.start()
            return node

        yield make


def _end(node: NodeProcess) -> None:
    with contextlib.suppress(FileNotFoundError):
        node.__exit__()


GIB = 1 << 30

RIGHTS = """
[[grant]]
name = "members"
vo = "star"
groups = ["/star"]
actions = ["deploy", "read", "modify", "hold", "cancel"]
each = { machines = 4, cores = 8, memory = "8GiB", lifetime = "6h" }

[[grant]]
name = "administrators"
vo = "star"
groups = ["/star/admins"]
actions = ["read", "modify", "hold", "cancel"]
over = "vo"

[[grant]]
name = "security"
vo = "site"
groups = ["/site/security"]
actions = ["read", "hold", "cancel", "nodes", "manage-nodes", "audit"]
over = "all"
"""
"""What the people of a world may do."""


class People:
    """Two issuers that a site believes, of the VO `star` and of the site's own people, and tokens of theirs."""

    def __init__(self, star: Served, own: Served) -> None:
        self._star, self._own = star, own

    def settings(self) -> dict[str, Any]:
        """For a `SiteProcess` that believes them."""
        # Both servers' certificates are from CAs of their own.
        bundle = self._star.authorities.with_name("all.pem")
        bundle.write_bytes(self._star.authorities.read_bytes() + self._own.authorities.read_bytes())
        issuers = "".join(
            f'[[issuer]]\nissuer = "{one.url}"\nvo = "{vo}"\n'
            for one, vo in ((self._star, "star"), (self._own, "site"))
        )
        return {"issuers": issuers, "rights": RIGHTS, "issuers_ca": str(bundle), "audience": AUDIENCE}

    def star(self, name: str, *groups: str, **claims: Any) -> str:
        """A token of a member of `star`."""
        return self._token(self._star, name, ("/star", *groups), claims)

    def own(self, name: str, *groups: str, **claims: Any) -> str:
        """A token of one of the site's people."""
        return self._token(self._own, name, ("/site", *groups), claims)

    @staticmethod
    def _token(issuer: Served, name: str, groups: Sequence[str], claims: Mapping[str, Any]) -> str:
        return issuer.signer.token(datetime.now(UTC), sub=name, wlcg__groups=list(groups), **claims)


@contextmanager
def populace(place: Path) -> Iterator[People]:
    """People, while their issuers run."""
    with issuer(place / "star") as star, issuer(place / "own") as own:
        yield People(star, own)


class PaperNode:
    """A node without a hypervisor: it joins, hears what it should have over real HTTPS, and reports that it is so.

    Nothing happens but in `step`, so a test decides what the site hears, and when.
    """

    def __init__(
        self, site: SiteProcess, name: str = "", *, cores: int = 8, memory: int = 8 * GIB, **labels: str
    ) -> None:
        self.directory = site.place / f"paper-{uuid.uuid4().hex[:8]}" / "site"
        self.directory.parent.mkdir()
        self.joined = site.join(self.directory, name, **labels)
        self.capacity = Capacity(cores=cores, memory=memory, disk=100 * GIB)
        self.machines: dict[str, ObservedMachine] = {}
        self._made = datetime.now(UTC).replace(microsecond=0)
        self.step()

    @property
    def files(self) -> dict[str, Path]:
        """Certificate and key, as `SiteProcess.reach` takes them."""
        return {"certificate": self.directory / "certificate.pem", "key": self.directory / "key.pem"}

    @contextmanager
    def client(self) -> Iterator[NodeSideClient]:
        """Its connection to the site."""
        found = SiteMembership.read(self.directory)
        assert found is not None
        client = NodeSideClient(found)
        try:
            yield client
        finally:
            client.close()

    def step(self, **changes: object) -> DesiredState:
        """Have all machines as they should be, and report; `changes` are of the report."""
        with self.client() as client:
            desired = client.desired(-1, 0)
            assert desired is not None
            self.machines = {one.uuid: self._observed(one) for one in desired.machines}
            client.report(
                NodeReport(
                    revision=desired.revision,
                    architecture="x86_64",
                    accelerator="qemu",
                    capacity=self.capacity,
                    machines=tuple(self.machines.values()),
                ).model_copy(update=changes)
            )
        return desired

    def _observed(self, wanted: DesiredMachine) -> ObservedMachine:
        ran = self.machines.get(wanted.uuid)
        state = MachineState(wanted.desired.value)
        changed = ran.changed if ran is not None and ran.state is state else datetime.now(UTC).replace(microsecond=0)
        return ObservedMachine(
            uuid=wanted.uuid,
            state=state,
            reason=wanted.reason if state is MachineState.ENDED else "",
            changed=changed,
            memory=wanted.memory,
            cores=wanted.cores,
            reboots=wanted.reboots,
            virt="qemu",
        )
