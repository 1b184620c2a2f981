"""A real site process for tests, on loopback with TLS, and nodes that join it; everything that was started ends with them."""

import contextlib
import logging
import multiprocessing
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import pytest

from deployer.site.authority import fingerprint, new_request
from deployer.site.cli_join import keep
from deployer.site.client import SiteClient, Way, first_contact
from deployer.site.joining import parse_token
from deployer.site.reaching import socket_of
from deployer.site.records import SiteMachine
from deployer.site.request import DeploymentRequest
from deployer.site.serving import serve
from deployer.site.settings import SiteSettings
from deployer.site.wire import Joined, JoinRequest, Ordered, TokenRequest
from signer.documents import validate
from tests.catalog.service import first_root
from tests.deployer.conftest import Community
from tests.deployer.nodes import NodeProcess, policy, wait_for

# Each site is a process of its own; they are forked from one that has imported the libraries once.
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(
    [
        "pytest",
        "catalog.serving",
        "tests.catalog.service",
        "deployer.node_serving",
        "tests.deployer.nodes",
        "deployer.site.serving",
        "tests.site.worlds",
    ]
)

PATIENCE = 60.0
"""Seconds within which everything happens, on however busy a machine."""


def _serve(settings: SiteSettings, ready: Path, log: Path) -> None:
    """What the site's process does; everything that it says goes to the log."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)
    logging.basicConfig(level=logging.INFO)

    def up(url: str, socket: Path, site: Any) -> None:
        print(url, socket, site.status(), flush=True)  # noqa: T201 - into the log
        ready.with_suffix(".new").write_text(url)
        ready.with_suffix(".new").rename(ready)

    serve(settings, up)


class SiteProcess:
    """A site's service, started by `start`, killed or stopped, started again on the same directory and port.

    Args:
        catalog: the URL of its catalog; empty for one that nobody answers.
        policy_text, rights, issuers: what its files say; the latter two need not be there.
        site: further settings of the section `site`.
    """

    def __init__(
        self, catalog: str = "", policy_text: str = "", *, rights: str = "", issuers: str = "", **site: object
    ) -> None:
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
            "listen": "127.0.0.1:0",
            "names": ["127.0.0.1", "localhost"],
            "catalog": catalog or "http://127.0.0.1:9",
            "policy": str(self.policy),
            "blocked": str(self.place / "blocked.toml"),
            "rights": str(self.rights),
            "issuers": str(self.issuers),
            "network": "none",
        } | site
        if catalog:
            (self.place / "root.json").write_bytes(first_root(catalog))
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
        self._process = _PROCESSES.Process(target=_serve, args=(self.settings, ready, self.log), daemon=True)
        self._process.start()

        def answers() -> bool:
            assert self._process.is_alive() or ready.exists(), self.log.read_text()
            return ready.exists()

        wait_for(answers, PATIENCE)
        self.url = ready.read_text()
        self._settings["listen"] = f"127.0.0.1:{self.url.rpartition(':')[2]}"

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
        return SiteClient(Way(socket=socket_of(self.settings)))

    @property
    def ca(self) -> str:
        """By what the site is believed (PEM)."""
        with self.client() as client:
            status = client.status()
        return first_contact(self.url, status.fingerprint).certificates

    def reach(self, *, token: str = "", certificate: Path | None = None, key: Path | None = None) -> SiteClient:
        """A client over HTTPS that shows a token, a certificate, or nothing."""
        return SiteClient(Way(url=self.url, ca=self.ca, token=token, certificate=certificate, key=key or certificate))

    def token(self, name: str = "") -> str:
        """A token for a node to join with."""
        with self.client() as client:
            return client.token(TokenRequest(name=name)).token

    def join(self, place: Path, name: str = "", **labels: str) -> Joined:
        """Let a node join, as `partita node join` does: `place` is where its files go (DIR/site)."""
        secret, wanted = parse_token(self.token())
        anchors = first_contact(self.url, wanted)
        assert fingerprint(anchors.certificates.encode()) == wanted
        key, request = new_request()
        with SiteClient(Way(url=self.url, ca=anchors.certificates)) as client:
            joined = client.join(
                JoinRequest(token=secret, request=request, name=name or f"n{uuid.uuid4().hex[:8]}", labels=labels)
            )
        keep(place, joined.certificate, key, anchors.certificates, self.url)
        return joined

    def deploy(self, image: str = "star/hello@1.0", *, key: str = "", **values: object) -> Ordered:
        """Order machines as the operator."""
        request = validate(DeploymentRequest, {"image": image, **values}, "order")
        with self.client() as client:
            return client.create(request, key or str(uuid.uuid4()))

    def machine(self, name: str) -> SiteMachine:
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

    def wait_state(self, machine: str, *states: str, seconds: float = PATIENCE) -> SiteMachine:
        """A machine once it is in one of these states."""

        def there(client: SiteClient) -> SiteMachine | None:
            found = client.machine(machine)
            return found if found.state.value in states else None

        found = self.wait(there, seconds)
        assert isinstance(found, SiteMachine)
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
