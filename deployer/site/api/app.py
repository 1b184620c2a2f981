"""The HTTP API of a site: parse, authorize, call, render. Each error becomes its problem document.

`create_site_app` joins the routers. Others (a console, for example) are mounted with `more`: each gets the site, and its
errors are rendered likewise; its routes ask `site.access` as all others do.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, Request, Response, Security

from catalog.schema.problems import Health
from catalog.web.problems import ProblemApi
from deployer.errors import DeployerError, SiteUnavailable
from deployer.site.api.audit import audit_routes
from deployer.site.api.clusters import cluster_routes
from deployer.site.api.console_output import console_answer_routes, console_output_routes
from deployer.site.api.deployments import deployment_routes
from deployer.site.api.events import event_routes
from deployer.site.api.machines import machine_routes
from deployer.site.api.nodes import agent_routes, node_routes
from deployer.site.api.parameters import BEARER, SiteRouter, action, answer
from deployer.site.auth.grants import SiteAction
from deployer.site.model.principal import Principal
from deployer.site.schema.messages import RETIRED_SITE_API_VERSIONS, SITE_API_VERSION, SiteStatus
from deployer.site.service.site import Site

RouterFactory = Callable[[Site], APIRouter]
"""Makes the router of another part of the service."""

log = logging.getLogger("partita.site")


def create_site_app(site: Site, more: Sequence[RouterFactory] = ()) -> FastAPI:
    """The application over a site that this process owns."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        site.wakeup.bind()
        await asyncio.to_thread(site.start)
        yield

    app = ProblemApi(
        log,
        DeployerError,
        retired=RETIRED_SITE_API_VERSIONS,
        title="Partita site",
        version="2",
        summary="Machines and clusters of endorsed images, for authorized people.",
        description=__doc__,
        lifespan=lifespan,
    )
    people = APIRouter(prefix=f"/{SITE_API_VERSION}", dependencies=[Security(BEARER)])
    own = (_status_routes(site), deployment_routes(site), console_output_routes(site), event_routes(site))
    for routes in (*own, machine_routes(site), audit_routes(site)):
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
    routes = SiteRouter("", "site")

    @routes.operation("GET /status", "Read the site's state", SiteStatus)
    @action(SiteAction.NODES)
    def status(request: Request, who: Annotated[Principal, Depends(site.access.who)]) -> Response:
        """Its policy, numbers of nodes and machines, and problems."""
        site.access.demand(who, SiteAction.NODES)
        return answer(request, site.status())

    return routes


def _health(site: Site) -> APIRouter:
    routes = SiteRouter("", "health", always=())

    @routes.operation("GET /livez", "Whether the service runs", Health)
    def live() -> Health:
        """Answers as long as the process does."""
        return Health()

    @routes.operation("GET /readyz", "Whether the service can serve", Health)
    @action(None, SiteUnavailable)
    def ready() -> Health:
        """The database answers, and the background tasks run."""
        site.check()
        return Health()

    return routes
