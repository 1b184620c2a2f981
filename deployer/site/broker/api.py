"""The context broker's HTTP interface for guests: parse, call, render. Decides nothing.

Documents are JSON; a guest that asks for `text/plain` gets the same as lines, which a shell can read. A machine
presents its session as a bearer token. Nothing of a request but its path is ever logged, and no path contains a secret.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Annotated, Literal, TypeVar

from fastapi import APIRouter, Depends, FastAPI, Path, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from catalog.web.parameters import read_body
from catalog.web.problems import ProblemApi
from deployer.errors import DeployerError, NotAuthenticated
from deployer.site.auth.rate_limits import RequestLimiter, RequestRate
from deployer.site.broker.broker import Broker
from deployer.site.broker.rules import MAX_DATA, MAX_FAILURE_REASON
from deployer.site.broker.schema import (
    ClusterPeers,
    ContextRequest,
    ContextSession,
    GuestIdentity,
    PeerReadiness,
    hosts_lines,
    identity_text,
    known_hosts_lines,
    peers_text,
    session_text,
    with_tag,
)
from deployer.site.model.records import SiteMachine
from deployer.web.wakeup import Wakeup
from signer.documents import Document, parse
from signer.errors import PartitaError
from signer.x509.authority import MAX_SIGNING_REQUEST

PREFIX = "/context/v1"

MAX_CONTEXT_REQUEST = 2048
"""Bytes of a machine's first request."""

MAX_WAIT = 30.0
"""Seconds that a guest may wait for its peers in one request; it then repeats the request."""

LOOK_EVERY = 1.0
"""Seconds between two queries for peers without a notification: nodes' reports do not notify the broker."""

WATCH_EVERY = 5.0
"""Seconds between two such queries for guests that only wait for changes: there are as many as machines."""

PAUSE = 0.2
"""Seconds before the next query after a notification: a starting cluster publishes a thousand things in a row."""

PER_GUEST = RequestRate(burst=100, per_second=5)
"""Requests of one machine: some dozens while it finds its peers."""

PER_SOURCE = RequestRate(burst=4000, per_second=500)
"""Requests from one address, behind which all guests of a node may be: none of them should be able to silence the others.
A secret has 256 bits; what is bounded here is work, not guessing."""

TEXT = "text/plain"
PEM = "application/x-pem-file"

KEY = Annotated[str, Path(max_length=64, description="Name of the published value.", examples=["munge.key"])]
PEER = Annotated[str, Path(max_length=253, description="Host name or UUID of a peer.", examples=["star-head-1"])]
ROLE = Annotated[str | None, Query(max_length=63, description="Only peers of this role.")]
STANDING = Annotated[
    Literal["present", "ready"] | None,
    Query(description="The state that peers must have reached, instead of the required one."),
]
WAIT = Annotated[float, Query(ge=0, le=MAX_WAIT, description="Seconds to wait until there are as many as required.")]

KNOWN = Annotated[
    str | None,
    Query(
        max_length=64, description="Tag of the peers that the guest knows: waits until they change, else answers 204."
    ),
]

D = TypeVar("D", bound=Document)

log = logging.getLogger("partita.site")


def make_guest_limiter(clock: Callable[[], float] = time.monotonic) -> RequestLimiter:
    """Make the limiter of guests' requests."""
    return RequestLimiter(clock, person=PER_GUEST, address=PER_SOURCE, failure=PER_SOURCE)


def create_broker_app(broker: Broker, rates: RequestLimiter, wakeup: Wakeup) -> FastAPI:
    """Make an application of the broker alone, for an address of its own.

    Args:
        broker: that answers.
        rates: see `make_guest_limiter`.
        wakeup: is bound to the loop that runs the application; the broker's `news` notifies it.
    """

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        wakeup.bind()
        yield

    app = ProblemApi(
        log, DeployerError, title="Partita context broker", version="1", openapi_url=None, lifespan=lifespan
    )
    app.include_router(context_routes(broker, rates, wakeup), prefix=PREFIX)
    return app


def context_routes(broker: Broker, rates: RequestLimiter, wakeup: Wakeup) -> APIRouter:
    """The routes, without their prefix; `wakeup` must be bound to the loop that they run on."""
    routes = APIRouter(tags=["context"])

    def whose(request: Request) -> SiteMachine:
        source = _source(request)
        rates.check_address(source)
        try:
            machine = broker.recognise(_session(request))
        except NotAuthenticated:
            rates.count_failure(source)
            raise
        rates.check_person(machine.uuid)
        return machine

    me = Depends(whose)
    _of_identity(routes, broker, rates, me)
    _of_publishing(routes, broker, me)
    _of_peers(routes, broker, wakeup, me)
    return routes


def _of_identity(routes: APIRouter, broker: Broker, rates: RequestLimiter, me: SiteMachine) -> None:
    @routes.post(
        "/identity",
        summary="Exchange the one-shot secret for a session and the machine's identity",
        response_model=ContextSession,
    )
    async def knock(request: Request) -> Response:
        source = _source(request)
        rates.check_address(source)
        shown = parse(
            ContextRequest,
            await read_body(request, MAX_CONTEXT_REQUEST, "the request"),
            "request",
            limit=MAX_CONTEXT_REQUEST,
        )
        try:
            session = await run_in_threadpool(broker.admit, shown)
        except PartitaError:
            rates.count_failure(source)
            raise
        return _answer(request, session, session_text)

    @routes.get("/identity", summary="Read the machine's identity at its site", response_model=GuestIdentity)
    def identity(request: Request, machine: SiteMachine = me) -> Response:
        return _answer(request, broker.identity(machine), identity_text)

    @routes.post("/session", summary="Renew the session", response_model=ContextSession)
    def renew(request: Request, _machine: SiteMachine = me) -> Response:
        return _answer(request, broker.renew(_session(request)), session_text)


def _of_publishing(routes: APIRouter, broker: Broker, me: SiteMachine) -> None:
    async def publish(request: Request, key: KEY, machine: SiteMachine = me) -> Response:
        data = await read_body(request, MAX_DATA, "a published value")
        await run_in_threadpool(broker.publish, machine, key, data)
        return Response(status_code=204)

    # Two routes of one function: small guests' wget knows no PUT.
    routes.put("/published/{key}", summary="Publish a value for peers", status_code=204)(publish)
    routes.post("/published/{key}", summary="Publish a value for peers, without PUT", status_code=204)(publish)

    @routes.post("/ready", summary="Report that the machine is ready", status_code=204)
    def ready(machine: SiteMachine = me) -> Response:
        broker.ready(machine)
        return Response(status_code=204)

    @routes.post("/failed", summary="Report that the machine failed, with the reason (plain text)", status_code=204)
    async def failed(request: Request, machine: SiteMachine = me) -> Response:
        reason = await read_body(request, 16 * MAX_FAILURE_REASON, "a reason")
        await run_in_threadpool(broker.failed, machine, reason)
        return Response(status_code=204)

    @routes.post(
        "/certificate",
        summary="Issue a host certificate for a key (PKCS #10 in, PEM out), for the name and addresses that the site gave",
        response_class=Response,
    )
    async def certificate(request: Request, machine: SiteMachine = me) -> Response:
        asked = await read_body(request, MAX_SIGNING_REQUEST, "a certificate request")
        issued = await run_in_threadpool(broker.certificate, machine, asked.decode("ascii", "replace"))
        return Response(issued, media_type=PEM)


def _of_peers(routes: APIRouter, broker: Broker, wakeup: Wakeup, me: SiteMachine) -> None:
    @routes.get(
        "/peers",
        summary="List the peers that the machine requires, once there are as many as it requires",
        response_model=ClusterPeers,
    )
    async def peers(
        request: Request,
        role: ROLE = None,
        standing: STANDING = None,
        wait: WAIT = 0.0,
        known: KNOWN = None,
        machine: SiteMachine = me,
    ) -> Response:
        if known is None:
            return _answer(request, await _complete(broker, wakeup, machine, role, standing, wait), peers_text)
        found = await _changed(broker, wakeup, machine, role, standing, wait, known)
        return Response(status_code=204) if found.tag == known else _answer(request, found, peers_text)

    @routes.get("/peers/{peer}/published/{key}", summary="Read what a peer has published", response_class=Response)
    def read(peer: PEER, key: KEY, machine: SiteMachine = me) -> Response:
        return Response(broker.directory.read(machine, peer, key), media_type="application/octet-stream")

    @routes.get("/hosts", summary="Read the peers as lines of /etc/hosts", response_class=Response)
    def hosts(role: ROLE = None, standing: STANDING = None, machine: SiteMachine = me) -> Response:
        found = broker.directory.peers(machine, role, PeerReadiness(standing) if standing else None)
        return _lines(hosts_lines(found.peers))

    @routes.get(
        "/known_hosts", summary="Read the peers' SSH host keys as lines of known_hosts", response_class=Response
    )
    def known_hosts(role: ROLE = None, standing: STANDING = None, machine: SiteMachine = me) -> Response:
        found = broker.directory.peers(machine, role, PeerReadiness(standing) if standing else None)
        return _lines(
            [line for peer in found.peers for line in known_hosts_lines(peer.hostname, peer.addresses, peer.host_keys)]
        )


async def _changed(
    broker: Broker,
    wakeup: Wakeup,
    machine: SiteMachine,
    role: str | None,
    standing: str | None,
    wait: float,
    known: str,
) -> ClusterPeers:
    """The peers, once they differ from those known or the wait is over."""
    least = PeerReadiness(standing) if standing else None
    until, seen = time.monotonic() + wait, None
    while True:
        count = wakeup.count
        stamp = await run_in_threadpool(broker.directory.stamp, machine)
        if stamp != seen:
            seen = stamp
            found = with_tag(
                await run_in_threadpool(partial(broker.directory.peers, machine, role, least, patient=True))
            )
        left = until - time.monotonic()
        if found.tag != known or left <= 0 or wakeup.ended:
            return found
        await wakeup.wait(count, min(left, WATCH_EVERY))
        await asyncio.sleep(min(LOOK_EVERY, max(0.0, until - time.monotonic())))


async def _complete(
    broker: Broker, wakeup: Wakeup, machine: SiteMachine, role: str | None, standing: str | None, wait: float
) -> ClusterPeers:
    """The peers, once there are enough or the wait is over."""
    least = PeerReadiness(standing) if standing else None
    until = time.monotonic() + wait
    while True:
        count = wakeup.count
        found = await run_in_threadpool(partial(broker.directory.peers, machine, role, least, patient=wait > 0))
        left = until - time.monotonic()
        if found.complete or left <= 0 or wakeup.ended:
            return found
        await wakeup.wait(count, min(left, LOOK_EVERY))
        await asyncio.sleep(min(PAUSE, max(0.0, left - LOOK_EVERY)))


def _answer(request: Request, value: D, text: Callable[[D], str]) -> Response:
    if request.headers.get("accept", "").startswith(TEXT):
        return Response(text(value), media_type=TEXT)
    return Response(value.model_dump_json(exclude_none=True), media_type="application/json")


def _lines(lines: list[str]) -> Response:
    return Response("".join(f"{line}\n" for line in lines), media_type=TEXT)


def _session(request: Request) -> str:
    scheme, _, session = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not session:
        raise NotAuthenticated("send the session that was issued for the secret: Authorization: Bearer SESSION")
    return session.strip()


def _source(request: Request) -> str:
    return request.client.host if request.client else ""
