"""The HTTP API of a site: parse, ask who and whether they may, call, render. Each error becomes its problem document.

`create_site_app` puts the routers together. Another one (a console, metrics, a broker) is mounted with `more`: it gets the site
and the application, and shares the errors' rendering; its routes ask `site.access` as all others do.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Request, Response, Security
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from catalog.errors import CatalogError, Malformed, NotFound, TooLarge
from catalog.errors import Misused as WrongMethod
from catalog.web.openapi import ProblemApi
from deployer.errors import DeployerError, NotAuthenticated, SiteUnavailable, TooManyRequests
from deployer.site.api.audit import audit_routes
from deployer.site.api.clusters import cluster_routes
from deployer.site.api.console_output import console_answer_routes, console_output_routes
from deployer.site.api.deployments import AUTH_ERRORS, deployment_routes
from deployer.site.api.events import event_routes
from deployer.site.api.machines import machine_routes
from deployer.site.api.nodes import agent_routes, node_routes
from deployer.site.api.parameters import BEARER, answer, openapi_extra, problem_responses
from deployer.site.api.saves import save_routes
from deployer.site.auth.grants import SiteAction
from deployer.site.model.principal import Principal
from deployer.site.schema.messages import SITE_API_VERSION, Health, SiteStatus
from deployer.site.service.site import Site
from deployer.web.problems import MEDIA_TYPE, to_problem
from signer.documents import canonical
from signer.errors import SignerError
from stager.errors import StagerError

RouterFactory = Callable[[Site], APIRouter]
"""Makes the router of another part of the service."""

log = logging.getLogger("partita.site")


def create_site_app(site: Site, more: Sequence[RouterFactory] = ()) -> FastAPI:
    """The application over a site that this process owns."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        site.bell.hang()
        await asyncio.to_thread(site.start)
        yield

    app = ProblemApi(
        title="Partita site",
        version="1",
        summary="Machines and clusters of endorsed images, for those whom a site lets in.",
        description=__doc__,
        docs_url=None,  # the pages of FastAPI load their scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
    )
    for kind in (DeployerError, StagerError, CatalogError, SignerError):
        app.add_exception_handler(kind, _ours)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _framework)
    app.add_exception_handler(Exception, _ours)
    people = APIRouter(prefix=f"/{SITE_API_VERSION}", dependencies=[Security(BEARER)])
    own = (_status_routes(site), deployment_routes(site), console_output_routes(site), event_routes(site))
    for routes in (*own, save_routes(site), machine_routes(site), audit_routes(site)):
        people.include_router(routes)
    people.include_router(cluster_routes(site))
    app.include_router(people)
    app.include_router(node_routes(site), prefix=f"/{SITE_API_VERSION}", dependencies=[Security(BEARER)])
    app.include_router(agent_routes(site), prefix=f"/{SITE_API_VERSION}")
    app.include_router(console_answer_routes(site), prefix=f"/{SITE_API_VERSION}")
    for make in more:
        app.include_router(make(site))
    app.include_router(_health(site))
    return app


def _status_routes(site: Site) -> APIRouter:
    routes = APIRouter(tags=["site"])

    @routes.get(
        "/status",
        response_model=SiteStatus,
        responses=problem_responses(*AUTH_ERRORS),
        openapi_extra=openapi_extra(SiteAction.NODES),
        summary="How the site is doing",
    )
    def status(request: Request, who: Annotated[Principal, Depends(site.access.who)]) -> Response:
        """By which policy it decides, how many nodes and machines there are, and what is wrong."""
        site.access.demand(who, SiteAction.NODES)
        return answer(request, site.status())

    return routes


def _health(site: Site) -> APIRouter:
    routes = APIRouter(tags=["health"])

    @routes.get("/livez", response_model=Health, openapi_extra=openapi_extra(None), summary="Whether the service runs")
    def live() -> Health:
        """Answers as long as the process does."""
        return Health()

    @routes.get(
        "/readyz",
        response_model=Health,
        responses=problem_responses(SiteUnavailable),
        openapi_extra=openapi_extra(None),
        summary="Whether the service can serve",
    )
    def ready() -> Health:
        """The database answers, and what has to be done in time is done."""
        site.check()
        return Health()

    return routes


def problem_response(error: Exception, status: int | None = None) -> Response:
    """The answer that an error is."""
    problem = to_problem(error)
    if status is not None:
        problem["status"] = status
    headers = {"Cache-Control": "no-store"}
    if isinstance(error, NotAuthenticated):
        headers["WWW-Authenticate"] = error.challenge
    if isinstance(error, TooManyRequests):
        headers["Retry-After"] = str(error.retry_after)
    elif problem["status"] == SiteUnavailable.status:
        headers["Retry-After"] = "1"
    if isinstance(error, TooLarge):
        headers["Connection"] = "close"  # the rest of the body, perhaps without end, is not read
    return Response(canonical(problem), problem["status"], headers, MEDIA_TYPE)


async def _ours(_: Request, error: Exception) -> Response:
    answered = problem_response(error)
    if answered.status_code >= 500:
        log.warning("%s", error)
    return answered


async def _invalid(_: Request, error: Exception) -> Response:
    """FastAPI found a parameter that it cannot use: the same form as every other error, with the place."""
    fault: dict[str, Any] = error.errors()[0] if isinstance(error, RequestValidationError) else {}
    place = ".".join(str(part) for part in fault.get("loc", ()))
    return problem_response(Malformed(f"{place}: {fault.get('msg', 'is malformed')}"))


async def _framework(request: Request, error: Exception) -> Response:
    """No such path, or no such method on it."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    path = request.url.path[:200]
    if status == NotFound.status:
        return problem_response(NotFound(f"there is nothing at {path}; /openapi.json describes what there is"))
    kind = WrongMethod if status < 500 else DeployerError
    answered = problem_response(kind(f"{request.method} {path} is not possible here; see /openapi.json"), status)
    if isinstance(error, HTTPException):
        answered.headers.update(error.headers or {})
    return answered
