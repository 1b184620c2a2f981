"""The console's pages of clusters: the map of their roles, and the forms that change them."""

from collections.abc import Mapping
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from deployer.site.api.clusters import cluster_summary, cluster_view, permitted_cluster, reason_with_actor
from deployer.site.api.parameters import AfterQuery
from deployer.site.auth.grants import Denied, SiteAction, authorize
from deployer.site.console.events import events_about
from deployer.site.console.request import (
    Console,
    PageRequest,
    PageRoute,
    next_page_url,
    read_form_reason,
)
from deployer.site.console.templates import CONSOLE_PREFIX
from deployer.site.model.cluster import Cluster, ClusterDocument
from deployer.site.model.principal import Principal
from deployer.site.model.records import ListFilter
from deployer.site.schema.clusters import ReplaceRequest, ScaleRequest
from signer.documents import validate

ROWS = 50
"""Rows of a page."""


def cluster_pages(console: Console) -> APIRouter:
    """The routes of clusters."""
    routes = APIRouter(prefix=CONSOLE_PREFIX, route_class=PageRoute)
    routes.include_router(_clusters(console))
    routes.include_router(_cluster_actions(console))
    return routes


def _clusters(console: Console) -> APIRouter:
    routes = APIRouter(route_class=PageRoute)
    site, access = console.site, console.site.access
    visiting = Annotated[PageRequest, Depends(console.visit)]

    @routes.get("/clusters")
    def clusters(visit: visiting, after: AfterQuery = None) -> Response:
        wanted = access.visible(visit.who, ListFilter())
        items, following = site.clusters.page(wanted, ROWS, after) if wanted else ((), None)
        return console.show(
            visit,
            "clusters.html",
            clusters=[cluster_summary(one) for one in items],
            next=next_page_url(visit.request, following),
        )

    @routes.get("/clusters/{cluster}")
    def cluster(visit: visiting, cluster: str) -> Response:
        found = permitted_cluster(site, visit.who, cluster, SiteAction.READ)
        shown = cluster_view(found, site.clusters.members(found.uuid), site.now(), visit.who)
        rights = access.rights()
        may_do = {
            one.value
            for one in (SiteAction.MODIFY, SiteAction.CANCEL)
            if found.active and not isinstance(authorize(rights, visit.who, one, found.owner), Denied)
        }
        return console.show(
            visit,
            "cluster.html",
            cluster=shown,
            ranks=rank_roles(shown.document),
            may_do=may_do,
            events=events_about(site, subject=found.uuid)[::-1][:ROWS],
        )

    return routes


def _cluster_actions(console: Console) -> APIRouter:
    routes = APIRouter(route_class=PageRoute)
    site, keeper = console.site, console.site.clusters

    @routes.post("/clusters/{cluster}/scale")
    async def scale(request: Request, cluster: str) -> Response:
        def work(who: Principal, fields: Mapping[str, str]) -> Cluster:
            count = fields.get("count", "")
            given = {"role": fields.get("role", ""), "count": int(count) if count.isdecimal() else -1}
            wanted = validate(ScaleRequest, given | {"reason": read_form_reason(fields)}, "scaling")
            one = permitted_cluster(site, who, cluster, SiteAction.MODIFY)
            if wanted.count > one.state.counts.get(wanted.role, 0):
                site.access.demand(who, SiteAction.DEPLOY)
            return keeper.scale(one.uuid, wanted.role, wanted.count, reason_with_actor(who, wanted.reason))

        return await console.act(request, "clusters", work)

    @routes.post("/clusters/{cluster}/replace")
    async def replace(request: Request, cluster: str) -> Response:
        def work(who: Principal, fields: Mapping[str, str]) -> Cluster:
            given = {"member": fields.get("member", ""), "reason": read_form_reason(fields)}
            wanted = validate(ReplaceRequest, given, "replacing")
            one = permitted_cluster(site, who, cluster, SiteAction.MODIFY)
            return keeper.replace(one.uuid, wanted.member, reason_with_actor(who, wanted.reason))

        return await console.act(request, "clusters", work)

    @routes.post("/clusters/{cluster}/destroy")
    async def destroy(request: Request, cluster: str) -> Response:
        def work(who: Principal, fields: Mapping[str, str]) -> Cluster:
            reason = reason_with_actor(who, read_form_reason(fields))
            return keeper.end(permitted_cluster(site, who, cluster, SiteAction.CANCEL).uuid, reason)

        return await console.act(request, "clusters", work)

    return routes


def rank_roles(document: ClusterDocument) -> list[list[str]]:
    """The roles in the order in which they start: each rank needs only what earlier ranks provide."""
    left, found = sorted(document.roles), list[list[str]]()
    done = set[str]()
    while left:
        rank = [name for name in left if set(document.before(name)) <= done]
        found.append(rank)
        done |= set(rank)
        left = [name for name in left if name not in done]
    return found
