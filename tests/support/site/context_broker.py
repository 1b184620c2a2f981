"""A site with a broker for tests: a real database, real machines in it, and a real HTTP service on loopback."""

import json
import ssl
import uuid as uuids
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from deployer.machine.state import MachineState
from deployer.pki.ca import CertificateAuthority, fingerprint
from deployer.protocol.deployment_request import DeploymentRequest
from deployer.protocol.desired_state import BrokerAccess, Capacity, NodeReport, ObservedMachine
from deployer.site.broker.api import create_broker_app, make_guest_limiter
from deployer.site.broker.broker import Broker, BrokerEndpoint, broker_key
from deployer.site.broker.server import serve_broker
from deployer.site.daemon import bind_address
from deployer.site.db.engine import SiteDatabase
from deployer.site.db.events import list_events
from deployer.site.db.machines import desired_state, get_machine
from deployer.site.db.nodes import list_nodes, revision_of
from deployer.site.model.cluster import Cluster, ClusterDocument, ClusterPhase, ClusterState
from deployer.site.model.principal import Principal
from deployer.site.model.records import SiteMachine
from deployer.site.scheduling.placement import PlacementRequest, place_machines
from deployer.site.scheduling.proposal import ClusterMembership, Proposal
from deployer.site.store.admission import admit_request
from deployer.site.store.changes import add_cluster, add_node
from deployer.site.store.reports import store_report
from deployer.site.store.store import SiteStore
from deployer.web.wakeup import Wakeup
from signer.documents import validate
from tests.deployer.guest.test_nocloud_seed import public_key
from tests.support.site.values import decision, properties

ALICE = Principal(issuer="https://tokens.example.org", subject="alice", vo="star")
IMAGE = "sha256:" + "5b" * 32
START = datetime(2026, 11, 22, 12, 0, 0, 250_000, tzinfo=UTC)
"""With a part of a second, as clocks have it."""

STAR = {
    "name": "star",
    "roles": {
        "head": {"image": "star/head@1.0", "provides": ["batch"]},
        "worker": {"image": "star/worker@1.0", "count": 2, "requires": ["batch"]},
    },
}
"""A head, and two workers that require it."""


@dataclass(frozen=True)
class Answer:
    """What a guest gets."""

    status: int
    body: bytes
    headers: Mapping[str, str]

    @property
    def json(self) -> Any:
        """The body, read."""
        return json.loads(self.body)

    @property
    def text(self) -> str:
        """The body, as text."""
        return self.body.decode()


class World:
    """A store, a broker, and a clock that stands still until it is moved."""

    def __init__(
        self,
        directory: Path,
        url: str = "http://127.0.0.1:1",
        shown: bytes | None = None,
        database: SiteDatabase | None = None,
    ) -> None:
        self.directory, self.now, self.url = directory, START, url
        self.database = database or SiteDatabase(f"sqlite:///{directory / 'site.db'}")
        self.store = SiteStore(self.database, lambda: self.now, lambda: str(uuids.uuid4()))
        self.authority = CertificateAuthority.make(START)
        self.bell = Wakeup()
        self.broker = Broker(
            self.store,
            self.authority,
            BrokerEndpoint(url, broker_key(directory / "context.key"), lambda: fingerprint(shown) if shown else ""),
            lambda: self.now,
            news=self.bell.notify,
        )
        known = [node.uuid for node in self.store.read(list_nodes)]
        self.nodes = known or [self.add_node(f"node{number}") for number in (1, 2)]

    def add_node(self, name: str) -> str:
        """A node with room."""
        node = self.store.write(add_node, name, {}).uuid
        self.store.write(store_report, node, report())
        return node

    def cluster(self, document: Mapping[str, Any] = STAR) -> Cluster:
        """A cluster of the document, without members yet."""
        found = validate(ClusterDocument, document, "cluster")
        state = ClusterState(
            phase=ClusterPhase.STARTING,
            changed=self.store.now(),
            expires=self.store.now() + timedelta(hours=12),
            counts={name: role.count for name, role in found.roles.items()},
        )
        return self.store.write(add_cluster, ALICE, found, state)

    def machines(
        self, count: int = 1, *, cluster: str | None = None, role: str = "", hostname: str = "lone"
    ) -> tuple[SiteMachine, ...]:
        """Machines that were admitted."""
        hostnames = tuple(f"{hostname}-{number}" for number in range(1, count + 1))
        machine = properties(memory=64 << 20)
        ask = PlacementRequest(count=count, shape=machine.shape, disk=0, architecture="x86_64", addresses={})
        proposal = Proposal(
            request=DeploymentRequest(image="star/worker@1.0", count=count, hostnames=hostnames),
            image_id=IMAGE,
            title="star/worker 1.0",
            name="worker",
            placement_request=ask,
            machine=machine,
            lifetime=3600,
            decision=decision(),
            part=ClusterMembership(cluster, role),
        )
        return self.store.write(admit_request, ALICE, None, proposal, place_machines)[1]

    def star(self) -> tuple[SiteMachine, SiteMachine, SiteMachine]:
        """A head and two workers."""
        cluster = self.cluster()
        (head,) = self.machines(1, cluster=cluster.uuid, role="head", hostname="star-head")
        one, two = self.machines(2, cluster=cluster.uuid, role="worker", hostname="star-worker")
        return head, one, two

    def context(self, machine: SiteMachine) -> BrokerAccess:
        """What a machine's node is told for its seed."""
        node = self.store.read(get_machine, machine.uuid).node
        assert node is not None
        state = self.broker.introduce(node, self.store.read(desired_state, node))
        found = next(one.context for one in state.machines if one.uuid == machine.uuid)
        assert found is not None
        return found

    def observed(self, machine: SiteMachine, *addresses: str, state: MachineState = MachineState.RUNNING) -> None:
        """Its node reports of a machine."""
        node = self.store.read(get_machine, machine.uuid).node
        assert node is not None
        seen = ObservedMachine(uuid=machine.uuid, state=state, changed=self.store.now(), addresses=addresses)
        self.store.write(store_report, node, report(seen, revision=self.store.read(revision_of, node)))

    def told(self, machine: SiteMachine) -> list[tuple[str, str]]:
        """The story of a machine: what, and why."""
        return [(event.what, event.reason) for event in self.store.read(list_events, subject=machine.uuid)]


def report(*machines: ObservedMachine, revision: int = 0) -> NodeReport:
    """A node with room for everything, that does not say that this is all it has."""
    capacity = Capacity(cores=10_000, memory=1 << 44, disk=1 << 44)
    return NodeReport(revision=revision, architecture="x86_64", capacity=capacity, machines=machines, complete=False)


class Guest:
    """A machine as it speaks with the broker: one connection for each request, as small guests have it."""

    def __init__(
        self, url: str, machine: SiteMachine, context: BrokerAccess, tls: ssl.SSLContext | None = None
    ) -> None:
        self.machine, self.context, self.session = machine, context, ""
        self._place, self._tls = urlsplit(url), tls

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        """One request, as it is: nothing of the path is escaped."""
        host, port = self._place.hostname or "", self._place.port
        made = (
            HTTPSConnection(host, port, timeout=60, context=self._tls)
            if self._tls
            else HTTPConnection(host, port, timeout=60)
        )
        shown = {"Authorization": f"Bearer {self.session}"} if self.session else {}
        try:
            made.request(method, f"/context/v1{path}", body, shown | headers)
            answer = made.getresponse()
            return Answer(answer.status, answer.read(), dict(answer.getheaders()))
        finally:
            made.close()

    def knock(self, secret: str | None = None, nonce: str | None = None, machine: str | None = None) -> Answer:
        """Show the secret, or another."""
        shown = {"machine": machine or self.machine.uuid, "secret": secret or self.context.secret}
        return self.ask("POST", "/identity", json.dumps(shown | ({"nonce": nonce} if nonce else {})).encode())

    def enter(self) -> "Guest":
        """Show the secret, and keep the session."""
        answer = self.knock()
        assert answer.status == 200, answer
        self.session = answer.json["session"]
        return self

    def publish(self, key: str, value: str | bytes) -> Answer:
        """Publish something."""
        return self.ask("PUT", f"/published/{key}", value.encode() if isinstance(value, str) else value)

    def said(self, *path_and_query: str) -> Any:
        """A document, read."""
        answer = self.ask("GET", "".join(path_and_query))
        assert answer.status == 200, answer
        return answer.json


@contextmanager
def site(
    directory: Path, *, tls: bool = False, port: int = 0
) -> Iterator[tuple[World, Callable[[SiteMachine], Guest]]]:
    """A world whose broker answers, and what makes guests of its machines."""
    listening = bind_address(f"127.0.0.1:{port}", "site.broker_listen")
    listening.listen()
    url = f"{'https' if tls else 'http'}://127.0.0.1:{listening.getsockname()[1]}"
    context, client, shown = None, None, None
    if tls:
        pair = CertificateAuthority.make(datetime.now(UTC)).server(("127.0.0.1",), datetime.now(UTC), timedelta(days=1))
        (directory / "tls.pem").write_bytes(pair.certificate + pair.key)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(directory / "tls.pem")
        client = ssl.create_default_context(cadata=pair.certificate.decode())
        client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        shown = pair.certificate
    world = World(directory, url, shown)
    app = create_broker_app(world.broker, make_guest_limiter(), world.bell)
    made = context
    try:
        with serve_broker(app, listening, world.bell, (lambda: made) if made else None):
            yield world, lambda machine: Guest(url, machine, world.context(machine), client)
    finally:
        world.database.close()


KEY = public_key(comment="root@star")
BLOB = " ".join(KEY.split(" ")[:2])
NONCE = "n" * 40

Make = Callable[[SiteMachine], Guest]
Star = tuple[World, Guest, Guest, Guest]
