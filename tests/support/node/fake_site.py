"""A site that behaves, for tests of a node's agent: real HTTPS with client certificates, and a memory in this process."""

import json
import ssl
import tempfile
import threading
import time
import uuid as uuids
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from deployer.machine.state import MachineState
from deployer.pki.ca import CertificateAuthority, create_request
from deployer.protocol.desired_state import DesiredMachine, DesiredState, DesiredStatus, NodeReport, ObservedMachine
from deployer.protocol.joining import NodeCertificate
from deployer.site.schema.messages import CertificateRequest
from signer.documents import canonical, parse, validate
from tests.support.node.service_process import wait_for

MIB = 1 << 20
DEPLOYMENT = "dddddddd-0000-4000-8000-000000000001"
LIFE = timedelta(days=1)


class SiteDouble:
    """Wants what a test says, hears what the node reports; on loopback, with a CA of its own."""

    def __init__(self) -> None:
        now = datetime.now(UTC)
        self.authority = CertificateAuthority.make(now)
        self.pair = self.authority.server(["127.0.0.1"], now, LIFE)
        self.machines: dict[str, DesiredMachine] = {}
        self.revision = 1
        self.reports: list[NodeReport] = []
        self.renewed = 0
        self.broken: int | None = None
        self.broken_answer = b""
        """The status that all requests are answered with, if any."""
        self._news = threading.Condition()
        self._server: ThreadingHTTPServer | None = None
        self.port = 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Answer, at the same port as before."""
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), type("Handler", (_Handler,), {"site": self}))
        self._server.daemon_threads = True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=self.authority.certificate.decode())
        with tempfile.NamedTemporaryFile(prefix="pd-") as file:
            file.write(self.pair.key + self.pair.certificate)
            file.flush()
            context.load_cert_chain(file.name)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        """Answer no more."""
        if self._server is not None:
            server, self._server = self._server, None
            with self._news:
                self._news.notify_all()
            server.shutdown()
            server.server_close()

    @property
    def there(self) -> bool:
        """Whether it answers."""
        return self._server is not None

    @property
    def url(self) -> str:
        """Where it is."""
        return f"https://127.0.0.1:{self.port}"

    def take_in(self, directory: Path, life: timedelta = LIFE) -> None:
        """Leave in a node's directory what `partita node join` leaves; the certificate holds from an hour ago."""
        key, request = create_request()
        place = directory / "site"
        place.mkdir(parents=True)
        (place / "key.pem").write_bytes(key)
        certificate = self.authority.node(request, str(uuids.uuid4()), datetime.now(UTC), life)
        (place / "certificate.pem").write_text(certificate)
        (place / "site.pem").write_bytes(self.authority.certificate)
        (place / "url").write_text(self.url + "\n")

    # What it wants

    def want(self, uuid: str | None = None, **changes: Any) -> str:
        """Want a machine, or one that is wanted otherwise; returns its UUID."""
        with self._news:
            if uuid is None:
                uuid = str(uuids.uuid4())
                self.machines[uuid] = machine(uuid, **changes)
            else:
                self.machines[uuid] = self.machines[uuid].model_copy(update=changes)
            self.revision += 1
            self._news.notify_all()
        return uuid

    def forget(self, uuid: str) -> None:
        """Say no more of a machine."""
        with self._news:
            del self.machines[uuid]
            self.revision += 1
            self._news.notify_all()

    def desired(self) -> DesiredState:
        """As the node is told."""
        return DesiredState(revision=self.revision, machines=tuple(self.machines.values()))

    def wait(self, after: int, seconds: float) -> DesiredState:
        """What is wanted, once it is another."""
        with self._news:
            self._news.wait_for(lambda: self.revision != after or self._server is None, seconds)
            return self.desired()

    # What it hears

    def heard(self, report: NodeReport) -> None:
        """A report came."""
        with self._news:
            self.reports.append(report)
            self._news.notify_all()

    def seen(self, uuid: str) -> ObservedMachine | None:
        """A machine as it was last reported."""
        if not self.reports:
            return None
        return next((machine for machine in self.reports[-1].machines if machine.uuid == uuid), None)

    def until(self, uuid: str, *states: MachineState, seconds: float = 60.0) -> ObservedMachine:
        """A machine, once it is reported in one of the states."""
        began = time.monotonic()
        while (found := self.seen(uuid)) is None or found.state not in states:
            assert time.monotonic() < began + seconds, f"{uuid} is {found}, not {states}"
            time.sleep(0.05)
        return found

    def until_gone(self, uuid: str) -> None:
        """Wait until a report that knows the present revision says nothing of a machine."""
        wait_for(lambda: self.reports[-1].revision == self.revision and self.seen(uuid) is None, 60)


def machine(uuid: str, **changes: Any) -> DesiredMachine:
    """A machine that is wanted to run for an hour."""
    expires = (datetime.now(UTC) + timedelta(hours=1)).replace(microsecond=0)
    fields: dict[str, Any] = {
        "uuid": uuid,
        "deployment": DEPLOYMENT,
        "desired": DesiredStatus.RUNNING,
        "image_id": "sha256:" + "0" * 64,
        "hostname": f"m-{uuid[:8]}",
        "network": "none",
        "memory": 32 * MIB,
        "cores": 1,
        "expires": expires,
    }
    fields |= changes
    return DesiredMachine(**{"max_memory": fields["memory"], "max_cores": fields["cores"]} | fields)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: SiteDouble

    def setup(self) -> None:
        self.request.settimeout(60)
        super().setup()

    def handle(self) -> None:
        with suppress(OSError):  # the node was killed while it asked
            super().handle()

    def finish(self) -> None:
        with suppress(OSError):
            super().finish()

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        place = urlsplit(self.path)
        if self._broken():
            return
        assert place.path == "/v2/agent/desired"
        asked = parse_qs(place.query)
        found = self.site.wait(int(asked["after"][0]), float(asked["wait"][0]))
        if not self._broken():
            self._answer(200, canonical(found))

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self._broken():
            return
        if self.path == "/v2/agent/certificate":
            request = parse(CertificateRequest, body, "request").request
            fresh = self.site.authority.node(request, str(uuids.uuid4()), datetime.now(UTC), LIFE)
            self.site.renewed += 1
            self._answer(200, canonical(NodeCertificate(certificate=fresh)))
            return
        assert self.path == "/v2/agent/report"
        self.site.heard(validate(NodeReport, json.loads(body), "report"))
        self._answer(204, b"")

    def _broken(self) -> bool:
        if not self.site.there:  # connections that were open when it stopped
            self.close_connection = True
            return True
        if self.site.broken is not None:
            self._answer(self.site.broken, self.site.broken_answer)
        return self.site.broken is not None

    def _answer(self, status: int, body: bytes) -> None:
        with suppress(OSError):  # the node that asked was killed
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
