"""The routes of nodes: listing, joining, draining and removing them, and the reports of their agents."""

import logging
import time
from datetime import timedelta
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from catalog.errors import Conflict, Malformed, Misused
from deployer.errors import Forbidden, JoinRefused, NodeNotFound, NotAuthenticated, SiteUnavailable, TooManyRequests
from deployer.pki.tls_peer import peer_of
from deployer.protocol.desired_state import MAX_REPORT, DesiredState, NodeReport, ReportResponse
from deployer.protocol.joining import JoinRequest, JoinResponse, NodeCertificate
from deployer.site.api.parameters import (
    NodeParameter,
    SiteRouter,
    action,
    answer,
    no_content,
    read_document,
    read_optional_body,
)
from deployer.site.auth.grants import SiteAction
from deployer.site.auth.rate_limits import RequestLimiter, RequestRate
from deployer.site.db.nodes import find_node, list_nodes, revision_of
from deployer.site.model.principal import Principal
from deployer.site.model.records import NodeState, SiteNode
from deployer.site.model.swarm_map import site_feeds
from deployer.site.operations.console_requests import wait_for_first
from deployer.site.schema.messages import (
    MAX_WAIT,
    CertificateRequest,
    JoinToken,
    JoinTokenRequest,
    NodeList,
    NodeVerbRequest,
    SiteAnchors,
    SwarmMap,
)
from deployer.site.service.site import Site

VERB_STATES: dict[str, NodeState] = {"drain": NodeState.DRAINING, "undrain": NodeState.READY, "remove": NodeState.LEFT}

PER_ADDRESS, PER_FAILURE = RequestRate(burst=200, per_second=5), RequestRate(burst=20, per_second=0.2)
"""Rate of requests to join: a hall of nodes may be switched on at once, and few of their requests are mistakes."""

log = logging.getLogger("partita.site")

AGENT_ERRORS = (NotAuthenticated, Forbidden, JoinRefused, SiteUnavailable)


def node_routes(site: Site) -> APIRouter:
    """Under /v2/nodes, /v2/join and /v2/ca."""
    routes, joining = SiteRouter("", "nodes"), SiteRouter("", "nodes", always=())
    rates = RequestLimiter(time.monotonic, address=PER_ADDRESS, failure=PER_FAILURE)
    store, access = site.store, site.access
    who_asks = Annotated[Principal, Depends(access.who)]

    @routes.operation("GET /nodes", "List nodes", NodeList)
    @action(SiteAction.NODES, Forbidden)
    def nodes(request: Request, who: who_asks) -> Response:
        """By name, without their cached contents, which the answer for one node has."""
        access.demand(who, SiteAction.NODES)
        items = store.read(list_nodes, contents=False)
        return answer(request, NodeList(items=items))

    @routes.operation("GET /nodes/{node}", "Get a node", SiteNode)
    @action(SiteAction.NODES, Malformed, NodeNotFound, Forbidden)
    def node(request: Request, who: who_asks, node: NodeParameter) -> Response:
        """Its hardware, capacity and cached contents."""
        access.demand(who, SiteAction.NODES)
        return answer(request, store.read(find_node, node))

    @routes.operation("GET /swarm", "List transfers between nodes", SwarmMap)
    @action(SiteAction.NODES, Forbidden)
    def swarm(request: Request, who: who_asks) -> Response:
        """The sources of contents that are arriving at nodes or arrived lately: other nodes, the catalog, other peers."""
        access.demand(who, SiteAction.NODES)
        return answer(request, SwarmMap(items=site_feeds(store.read(list_nodes))))

    @routes.operation(
        "POST /nodes/tokens", "Get a token with which one node may join", JoinToken, takes=JoinTokenRequest
    )
    @action(SiteAction.MANAGE_NODES, Forbidden)
    async def token(request: Request, who: who_asks) -> Response:
        """Valid once. It contains the fingerprint of the site's CA, so that the node can verify the site."""
        await run_in_threadpool(access.demand, who, SiteAction.MANAGE_NODES)
        wanted = await read_document(request, JoinTokenRequest, "request for a token")
        made = await run_in_threadpool(
            site.node_joins.token, wanted.name, timedelta(minutes=wanted.minutes), site.now()
        )
        return answer(request, made)

    @routes.operation(
        "POST /nodes/{node}/{verb}", "Drain, undrain or remove a node", SiteNode, takes=NodeVerbRequest, required=False
    )
    @action(SiteAction.MANAGE_NODES, NodeNotFound, Forbidden, Conflict)
    async def act(
        request: Request,
        who: who_asks,
        node: NodeParameter,
        verb: Annotated[Literal["drain", "undrain", "remove"], Path(description="What to do.")],
    ) -> Response:
        """A draining node gets no more machines and keeps those that it has; with `migrate`, stopped and suspended ones
        migrate. A removed node's certificate is refused."""

        def work() -> SiteNode:
            access.demand(who, SiteAction.MANAGE_NODES)
            found = site.machine_changes.set_node(store.read(find_node, node), VERB_STATES[verb], who, asked.reason)
            if asked.migrate:
                site.machine_changes.clear(found, who, asked.reason)
            return found

        asked = await read_optional_body(request, NodeVerbRequest, "a reason")
        if asked.migrate and verb != "drain":
            raise Misused("only drain takes migrate")
        return answer(request, await run_in_threadpool(work))

    @joining.operation("GET /ca", "The CA certificate of the site", SiteAnchors)
    def anchors(request: Request) -> Response:
        """Certificates (PEM). Compare the fingerprint with one from another channel."""
        return answer(request, site.anchors)

    @joining.operation("POST /join", "Join as a node", JoinResponse, takes=JoinRequest)
    @action(None, Misused, JoinRefused, Conflict, TooManyRequests, SiteUnavailable)
    async def join(request: Request) -> Response:
        """Exchanges a token from the operator and a certificate request for the node's certificate."""
        address = peer_of(request).address
        rates.check_address(address)
        wanted = await read_document(request, JoinRequest, "request to join")
        try:
            return answer(request, await run_in_threadpool(site.node_joins.join, wanted, site.now()))
        except JoinRefused:
            rates.count_failure(address)
            log.warning("request to join from %s refused: the token is not valid", address or "an unknown address")
            raise

    routes.include_router(joining)
    return routes


def agent_routes(site: Site) -> APIRouter:
    """Under /v2/agent: for nodes, which authenticate by their certificates."""
    routes = SiteRouter("/agent", "agents", AGENT_ERRORS)
    store = site.store
    node_asks = Annotated[str, Depends(site.access.node)]

    @routes.operation(
        "GET /desired",
        "Read the node's desired state",
        DesiredState,
        responses={204: {"description": "Nothing has changed."}},
    )
    @action(SiteAction.AGENT, Malformed)
    async def desired(
        request: Request,
        node: node_asks,
        after: Annotated[int, Query(ge=-1, le=(1 << 53) - 1, description="The revision that the node knows.")] = -1,
        wait: Annotated[float, Query(ge=0, le=MAX_WAIT, description="Seconds to wait for a newer one.")] = 0.0,
        console_requests: Annotated[bool, Query(description="The node also answers console requests.")] = False,
    ) -> Response:
        """At once if the revision differs from the known one, else as soon as it does; 204 after the wait.

        A request for console output comes with the known revision and without machines.
        """
        wakeup = site.wakeup
        until = wakeup.time() + wait
        while True:
            count = wakeup.count
            if await run_in_threadpool(store.read, revision_of, node) != after:
                return answer(request, await run_in_threadpool(site.desired, node))
            # Notifications about other nodes cause no query: each comes with the revisions of all.
            while True:
                left = until - wakeup.time()
                if left <= 0 or wakeup.ended or await request.is_disconnected():
                    return no_content()
                if console_requests and (asked := site.console_requests.taken(node)):
                    return answer(request, DesiredState(revision=after, console_requests=asked))
                calls = (site.console_requests.called(node, left),) if console_requests else ()
                await wait_for_first(wakeup.wait(count, left), *calls)
                if wakeup.count > count and site.background.revisions.get(node, after) != after:
                    break
                count = wakeup.count

    @routes.operation("POST /report", "Report the node's observed state", ReportResponse, takes=NodeReport)
    @action(SiteAction.AGENT)
    async def report(request: Request, node: node_asks) -> Response:
        """At every change, and every ten seconds. Idempotent."""
        reported = await read_document(request, NodeReport, "report", MAX_REPORT)
        return answer(request, await run_in_threadpool(site.absorb, node, reported))

    @routes.operation("POST /certificate", "Renew the node's certificate", NodeCertificate, takes=CertificateRequest)
    @action(SiteAction.AGENT, Misused)
    async def certificate(request: Request, node: node_asks) -> Response:
        """Authenticated by the present certificate. Renew it when a third of its validity is left."""
        wanted = await read_document(request, CertificateRequest, "request for a certificate")
        return answer(request, await run_in_threadpool(site.node_joins.renew, wanted.request, node, site.now()))

    return routes
