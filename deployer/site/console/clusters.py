"""The console's pages of clusters: the map of their roles, and what can be done to them."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from starlette.concurrency import run_in_threadpool

from deployer.site.api.clusters import by, permitted_cluster, summary, view
from deployer.site.api.parameters import AFTER
from deployer.site.auth.authorizer import narrowed
from deployer.site.auth.grants import Action, Denied, may
from deployer.site.console.events import story
from deployer.site.console.request import Console, Page, Visit, back, following_page, reason_of
from deployer.site.console.templates import PREFIX
from deployer.site.model.cluster import Cluster, ClusterDocument
from deployer.site.model.records import Filter
from deployer.site.schema.clusters import Replacing, Scaling
from signer.documents import validate

ROWS = 50
"""Rows of a page."""


def cluster_pages(console: Console) -> APIRouter:
    """Clusters, and the forms that change them."""
    routes = APIRouter(prefix=PREFIX, route_class=Page)
    routes.include_router(_clusters(console))
    routes.include_router(_cluster_actions(console))
    return routes


def _clusters(console: Console) -> APIRouter:
    routes = APIRouter(route_class=Page)
    site, access = console.site, console.site.access
    visiting = Annotated[Visit, Depends(console.visit)]

    @routes.get("/clusters")
    def clusters(visit: visiting, after: AFTER = None) -> Response:
        access.demand(visit.who, Action.READ)
        wanted = narrowed(Filter(), access.reach(visit.who))
        items, following = site.clusters.page(wanted, ROWS, after) if wanted else ((), None)
        return console.show(
            visit,
            "clusters.html",
            clusters=[summary(one) for one in items],
            next=following_page(visit.request, following),
        )

    @routes.get("/clusters/{cluster}")
    def cluster(visit: visiting, cluster: str) -> Response:
        found = permitted_cluster(site, visit.who, cluster, Action.READ)
        shown = view(found, site.clusters.members(found.uuid), site.now(), visit.who)
        rights = access.rights()
        may_do = {
            one.value
            for one in (Action.MODIFY, Action.CANCEL)
            if found.active and not isinstance(may(rights, visit.who, one, found.owner), Denied)
        }
        return console.show(
            visit,
            "cluster.html",
            cluster=shown,
            ranks=ranks(shown.document),
            may_do=may_do,
            events=story(site, subject=found.uuid)[::-1][:ROWS],
        )

    return routes


def _cluster_actions(console: Console) -> APIRouter:
    routes = APIRouter(route_class=Page)
    site, keeper = console.site, console.site.clusters

    @routes.post("/clusters/{cluster}/scale")
    async def scale(request: Request, cluster: str) -> Response:
        visit, fields = await console.sent(request)
        count = fields.get("count", "")
        given = {"role": fields.get("role", ""), "count": int(count) if count.isdecimal() else -1}
        wanted = validate(Scaling, given | {"reason": reason_of(fields)}, "scaling")

        def work() -> Cluster:
            one = permitted_cluster(site, visit.who, cluster, Action.MODIFY)
            if wanted.count > one.state.counts.get(wanted.role, 0):
                site.access.demand(visit.who, Action.DEPLOY)
            return keeper.scale(one.uuid, wanted.role, wanted.count, by(visit.who, wanted.reason))

        return back(f"/clusters/{(await run_in_threadpool(work)).uuid}")

    @routes.post("/clusters/{cluster}/replace")
    async def replace(request: Request, cluster: str) -> Response:
        visit, fields = await console.sent(request)
        given = {"member": fields.get("member", ""), "reason": reason_of(fields)}
        wanted = validate(Replacing, given, "replacing")

        def work() -> Cluster:
            one = permitted_cluster(site, visit.who, cluster, Action.MODIFY)
            return keeper.replace(one.uuid, wanted.member, by(visit.who, wanted.reason))

        return back(f"/clusters/{(await run_in_threadpool(work)).uuid}")

    @routes.post("/clusters/{cluster}/destroy")
    async def destroy(request: Request, cluster: str) -> Response:
        visit, fields = await console.sent(request)
        reason = by(visit.who, reason_of(fields))

        def work() -> Cluster:
            return keeper.end(permitted_cluster(site, visit.who, cluster, Action.CANCEL).uuid, reason)

        return back(f"/clusters/{(await run_in_threadpool(work)).uuid}")

    return routes


def ranks(document: ClusterDocument) -> list[list[str]]:
    """The roles in the order in which they start: each rank needs what those before it provide, and nothing later."""
    left, found = sorted(document.roles), list[list[str]]()
    done = set[str]()
    while left:
        rank = [name for name in left if set(document.before(name)) <= done]
        found.append(rank)
        done |= set(rank)
        left = [name for name in left if name not in done]
    return found
