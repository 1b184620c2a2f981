"""The routes of nodes: what they are, how one joins, drains and leaves, and what their agents say."""

import logging
import time
from datetime import timedelta
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from catalog.errors import Conflict, Malformed, Misused, TooLarge
from catalog.web.problems import problem_responses
from deployer.errors import Forbidden, JoinRefused, NodeNotFound, NotAuthenticated, SiteUnavailable, TooManyRequests
from deployer.pki.tls_peer import peer_of
from deployer.protocol.desired_state import MAX_REPORT, DesiredState, NodeReport, ReportResponse
from deployer.protocol.joining import JoinRequest, JoinResponse, NodeCertificate
from deployer.site.api.deployments import AUTH_ERRORS
from deployer.site.api.parameters import (
    NodeParameter,
    answer,
    no_content,
    openapi_extra,
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

VERB_STATES: dict[str, NodeState] = {
    "drain": NodeState.DRAINING,
    "undrain": NodeState.READY,
    "remove": NodeState.LEFT,
}

PER_ADDRESS, PER_FAILURE = RequestRate(burst=200, per_second=5), RequestRate(burst=20, per_second=0.2)
"""How often somebody may ask to join who is not known yet: the nodes of a hall that is switched on, and few mistakes."""

log = logging.getLogger("partita.site")

AGENT_ERRORS = (NotAuthenticated, Forbidden, JoinRefused, SiteUnavailable)


def node_routes(site: Site) -> APIRouter:
    """Under /v1/nodes, /v1/join and /v1/ca."""
    routes = APIRouter(tags=["nodes"])
    rates = RequestLimiter(time.monotonic, address=PER_ADDRESS, failure=PER_FAILURE)
    store, access = site.store, site.access
    who_asks = Annotated[Principal, Depends(access.who)]

    @routes.get(
        "/nodes",
        response_model=NodeList,
        responses=problem_responses(Forbidden, *AUTH_ERRORS),
        openapi_extra=openapi_extra(SiteAction.NODES),
        summary="List nodes",
    )
    def nodes(request: Request, who: who_asks) -> Response:
        """By name, without what they cache: the answer for one node has that."""
        access.demand(who, SiteAction.NODES)
        items = store.read(list_nodes, contents=False)
        return answer(request, NodeList(items=items))

    @routes.get(
        "/nodes/{node}",
        response_model=SiteNode,
        responses=problem_responses(Malformed, NodeNotFound, Forbidden, *AUTH_ERRORS),
        openapi_extra=openapi_extra(SiteAction.NODES),
        summary="Get a node",
    )
    def node(request: Request, who: who_asks, node: NodeParameter) -> Response:
        """What it is, what it has room for, and what it caches."""
        access.demand(who, SiteAction.NODES)
        return answer(request, store.read(find_node, node))

    @routes.get(
        "/swarm",
        response_model=SwarmMap,
        responses=problem_responses(Forbidden, *AUTH_ERRORS),
        openapi_extra=openapi_extra(SiteAction.NODES),
        summary="Who feeds whom",
    )
    def swarm(request: Request, who: who_asks) -> Response:
        """From whom nodes get the contents that are arriving, or came lately: each other, the catalog, peers elsewhere."""
        access.demand(who, SiteAction.NODES)
        return answer(request, SwarmMap(items=site_feeds(store.read(list_nodes))))

    @routes.post(
        "/nodes/tokens",
        response_model=JoinToken,
        responses=problem_responses(Malformed, TooLarge, Forbidden, *AUTH_ERRORS),
        openapi_extra=openapi_extra(SiteAction.MANAGE_NODES, JoinTokenRequest),
        summary="Get a token with which one node may join",
    )
    async def token(request: Request, who: who_asks) -> Response:
        """Good once. It carries the fingerprint of the site's CA, so that the node knows whom it joins."""
        await run_in_threadpool(access.demand, who, SiteAction.MANAGE_NODES)
        wanted = await read_document(request, JoinTokenRequest, "request for a token")
        made = await run_in_threadpool(site.joining.token, wanted.name, timedelta(minutes=wanted.minutes), site.now())
        return answer(request, made)

    @routes.post(
        "/nodes/{node}/{verb}",
        response_model=SiteNode,
        responses=problem_responses(Malformed, TooLarge, NodeNotFound, Forbidden, Conflict, *AUTH_ERRORS),
        openapi_extra=openapi_extra(SiteAction.MANAGE_NODES, NodeVerbRequest, required=False),
        summary="Drain a node, use it again, or take it out",
    )
    async def act(
        request: Request,
        who: who_asks,
        node: NodeParameter,
        verb: Annotated[Literal["drain", "undrain", "remove"], Path(description="What should be done.")],
    ) -> Response:
        """A node that drains gets no more machines and keeps those that it has; with `move`, those that rest go elsewhere.
        One that is out has no say any more."""

        def work() -> SiteNode:
            access.demand(who, SiteAction.MANAGE_NODES)
            found = site.changing.set_node(store.read(find_node, node), VERB_STATES[verb], who, asked.reason)
            if asked.move:
                site.changing.clear(found, who, asked.reason)
            return found

        asked = await read_optional_body(request, NodeVerbRequest, "a reason")
        if asked.move and verb != "drain":
            raise Misused("machines are moved away when a node is drained; say so with drain")
        return answer(request, await run_in_threadpool(work))

    @routes.get(
        "/ca", response_model=SiteAnchors, openapi_extra=openapi_extra(None), summary="The CA certificate of the site"
    )
    def anchors(request: Request) -> Response:
        """Certificates (PEM). Compare the fingerprint with what came to you another way."""
        return answer(request, site.anchors)

    @routes.post(
        "/join",
        response_model=JoinResponse,
        responses=problem_responses(
            Malformed, TooLarge, Misused, JoinRefused, Conflict, TooManyRequests, SiteUnavailable
        ),
        openapi_extra=openapi_extra(None, JoinRequest),
        summary="Join as a node",
    )
    async def join(request: Request) -> Response:
        """A token of the operator's and a certificate request, for a certificate with which the node works from then on."""
        address = peer_of(request).address
        rates.check_address(address)
        wanted = await read_document(request, JoinRequest, "request to join")
        try:
            return answer(request, await run_in_threadpool(site.joining.join, wanted, site.now()))
        except JoinRefused:
            rates.count_failure(address)
            log.warning("%s wants to join and has no good token", address or "somebody")
            raise

    return routes


def agent_routes(site: Site) -> APIRouter:
    """Under /v1/agent: for nodes, by the certificates that they got when they joined."""
    routes = APIRouter(prefix="/agent", tags=["agents"])
    store = site.store
    node_asks = Annotated[str, Depends(site.access.node)]

    @routes.get(
        "/desired",
        response_model=DesiredState,
        responses=problem_responses(Malformed, *AGENT_ERRORS) | {204: {"description": "Nothing is new."}},
        openapi_extra=openapi_extra(SiteAction.AGENT),
        summary="What machines the node should have",
    )
    async def desired(
        request: Request,
        node: node_asks,
        after: Annotated[int, Query(ge=-1, le=(1 << 53) - 1, description="The revision that is known.")] = -1,
        wait: Annotated[float, Query(ge=0, le=MAX_WAIT, description="Seconds to wait for another one.")] = 0.0,
        serials: Annotated[bool, Query(description="The node also answers console requests.")] = False,
    ) -> Response:
        """At once if the revision is another than the known one, else as soon as it is; 204 when the time is over.

        Where the site has something to ask of a guest's console, it comes with the known revision and without machines.
        """
        bell = site.bell
        until = bell.time() + wait
        while True:
            count = bell.count
            if await run_in_threadpool(store.read, revision_of, node) != after:
                return answer(request, await run_in_threadpool(site.desired, node))
            # While the bell rings for others nothing is looked up: each ring comes with all revisions.
            while True:
                left = until - bell.time()
                if left <= 0 or bell.ended or await request.is_disconnected():
                    return no_content()
                if serials and (asked := site.serials.taken(node)):
                    return answer(request, DesiredState(revision=after, serials=asked))
                calls = (site.serials.called(node, left),) if serials else ()
                await wait_for_first(bell.wait(count, left), *calls)
                if bell.count > count and site.upkeep.revisions.get(node, after) != after:
                    break
                count = bell.count

    @routes.post(
        "/report",
        response_model=ReportResponse,
        responses=problem_responses(Malformed, TooLarge, *AGENT_ERRORS),
        openapi_extra=openapi_extra(SiteAction.AGENT, NodeReport),
        summary="How the node is",
    )
    async def report(request: Request, node: node_asks) -> Response:
        """At every change, and every ten seconds. The same report may come twice."""
        told_by_node = await read_document(request, NodeReport, "report", MAX_REPORT)
        return answer(request, await run_in_threadpool(site.absorb, node, told_by_node))

    @routes.post(
        "/certificate",
        response_model=NodeCertificate,
        responses=problem_responses(Malformed, TooLarge, Misused, *AGENT_ERRORS),
        openapi_extra=openapi_extra(SiteAction.AGENT, CertificateRequest),
        summary="A fresh certificate for the node",
    )
    async def certificate(request: Request, node: node_asks) -> Response:
        """For whoever shows the present one; a third of its time before it ends is early enough."""
        wanted = await read_document(request, CertificateRequest, "request for a certificate")
        return answer(request, await run_in_threadpool(site.joining.renew, wanted.request, node, site.now()))

    return routes
