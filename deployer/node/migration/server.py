"""Where a node gives machines away: HTTPS at an address of its own, for nodes of its site that show their certificates.

GET /v2/migrations/MACHINE/NUMBER            what is offered
GET /v2/migrations/MACHINE/NUMBER/FILE       a file of it as it travels (`manifest`); `?start=` an offset to begin at
A client without a node's certificate of the site's CA fails in the handshake or is refused; a node gets
only the offers to itself.
"""

import logging
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

from fastapi import FastAPI, Path, Query, Request, Response
from fastapi.responses import StreamingResponse

from catalog.web import server as answering
from catalog.web.problems import ProblemApi, problem_response
from deployer.errors import DeployerError, MigrationFailed, NotAuthenticated, SiteUnavailable
from deployer.node.membership.credentials import CA_FILE, CERTIFICATE_FILE, KEY_FILE, SiteMembership
from deployer.node.migration.source import MigrationSource
from deployer.pki.ca import CertificateAuthority, certificate_of
from deployer.pki.tls_peer import PeerProtocol, peer_of
from deployer.web.server_thread import serve_in_thread
from signer.documents import canonical
from signer.runtime.clock import utc_now

CONNECTIONS = 64
"""Connections at once: each machine that goes takes one, for one file after the other. More are answered 503."""

IDLE_SECONDS = 30
END_SECONDS = 5

UUID = Annotated[str, Path(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
NUMBER = Annotated[int, Path(ge=1, le=1 << 31)]

log = logging.getLogger("partita.node")


def create_migration_app(giver: MigrationSource, authority: CertificateAuthority) -> FastAPI:
    """The application: `authority` is the site's CA, by which nodes are known; its key is not needed."""
    app = ProblemApi(log, DeployerError, retired=("v1",), title="Partita: machines that migrate", openapi_url=None)

    @app.exception_handler(OSError)
    def unread(_request: Request, error: OSError) -> Response:
        log.warning("machine to be migrated cannot be read: %s", error)
        return problem_response(MigrationFailed("the node cannot read the machine to be migrated; see its log"))

    def who(request: Request) -> str:
        node = authority.node_of(peer_of(request).chain, utc_now())
        if node is None:
            raise NotAuthenticated("only nodes of the site are answered here")
        return node

    @app.get("/v2/migrations/{machine}/{number}")
    def offer(request: Request, machine: UUID, number: NUMBER) -> Response:
        return Response(canonical(giver.offer(machine, number, who(request))), media_type="application/json")

    @app.get("/v2/migrations/{machine}/{number}/{name}")
    def file(
        request: Request,
        machine: UUID,
        number: NUMBER,
        name: Annotated[str, Path(max_length=128)],
        start: Annotated[int, Query(ge=0, le=1 << 50)] = 0,
    ) -> Response:
        found = giver.runs(machine, number, name, who(request), start)
        return StreamingResponse(found, media_type="application/octet-stream")

    return app


def tls_context(membership: SiteMembership) -> tuple[ssl.SSLContext, CertificateAuthority]:
    """What a node shakes hands with, and by whose CA it knows others; SiteUnavailable where its files cannot be used."""
    place = membership.directory
    try:
        authority = CertificateAuthority(certificate_of((place / CA_FILE).read_bytes(), 0), b"")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=authority.certificate.decode("ascii"))
        context.load_cert_chain(place / CERTIFICATE_FILE, place / KEY_FILE)
    except (OSError, ssl.SSLError) as exc:
        raise SiteUnavailable(f"{place}: the node cannot listen with the site's credentials: {exc}") from exc
    return context, authority


def open_migration_socket(where: str) -> socket.socket:
    """A socket at ADDRESS:PORT; SiteUnavailable if it cannot be opened."""
    host, _, port = where.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host.strip("[]"), int(port)), family=family, backlog=CONNECTIONS)
    except (OSError, OverflowError) as exc:
        raise SiteUnavailable(
            f"{where}: cannot be listened on ({exc}); choose another with deploy.migration_listen"
        ) from exc


@contextmanager
def serve_migrations(app: FastAPI, listening: socket.socket, context: ssl.SSLContext) -> Iterator[str]:
    """Answer in a thread while the block runs; gives the URL."""
    config = answering.server_config(
        app,
        ending=END_SECONDS,
        http=PeerProtocol,
        lifespan="off",
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=IDLE_SECONDS,
        ssl_context_factory=lambda _config, _default: context,
    )
    host, port = listening.getsockname()[:2]
    otherwise = "the migration server does not answer; see the node's log"
    with serve_in_thread(config, listening, "migrations", otherwise):
        yield f"https://{f'[{host}]' if ':' in host else host}:{port}"
