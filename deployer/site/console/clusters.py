"""The console's pages of clusters: the map of their roles, and the forms that change them."""

from typing import Annotated

from fastapi import APIRouter, Depends, Response

from deployer.site.api.clusters import cluster_summary, cluster_view, permitted_cluster
from deployer.site.api.parameters import AfterQuery
from deployer.site.auth.grants import SiteAction
from deployer.site.console.events import events_about
from deployer.site.console.request import Console, FormRequest, PageRequest, PageRoute, next_page_url, show_changed
from deployer.site.console.templates import CONSOLE_PREFIX
from deployer.site.db.clusters import list_clusters
from deployer.site.model.cluster import ClusterDocument
from deployer.site.model.records import ListFilter
from deployer.site.operations.machine_changes import reason_with_actor
from deployer.site.schema.clusters import ReplaceRequest, ScaleRequest
from signer.documents import validate

ROWS = 50
"""Rows of a page."""


def cluster_pages(console: Console) -> APIRouter:
    """The routes of clusters."""
    routes = APIRouter(prefix=CONSOLE_PREFIX, route_class=PageRoute)
    site, access, keeper = console.site, console.site.access, console.site.clusters
    visiting = Annotated[PageRequest, Depends(console.visit)]
    submitted = Annotated[FormRequest, Depends(console.submission)]

    @routes.get("/clusters")
    def clusters(visit: visiting, after: AfterQuery = None) -> Response:
        wanted = access.visible(visit.who, ListFilter())
        items, following = site.store.read(list_clusters, wanted, ROWS, after) if wanted else ((), None)
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
        may_do = {
            one.value
            for one in (SiteAction.MODIFY, SiteAction.CANCEL)
            if found.active and access.allows(visit.who, one, found.owner)
        }
        return console.show(
            visit,
            "cluster.html",
            cluster=shown,
            ranks=rank_roles(shown.document),
            may_do=may_do,
            events=events_about(site, subject=found.uuid)[::-1][:ROWS],
        )

    @routes.post("/clusters/{cluster}/scale")
    def scale(form: submitted, cluster: str) -> Response:
        count = form.fields.get("count", "")
        given = {"role": form.fields.get("role", ""), "count": int(count) if count.isdecimal() else -1}
        wanted = validate(ScaleRequest, given | {"reason": form.reason}, "scaling")
        one = permitted_cluster(site, form.who, cluster, SiteAction.MODIFY)
        if wanted.count > one.state.counts.get(wanted.role, 0):
            access.demand(form.who, SiteAction.DEPLOY)
        keeper.scale(one.uuid, wanted.role, wanted.count, reason_with_actor(form.who, wanted.reason))
        return show_changed("clusters", one.uuid)

    @routes.post("/clusters/{cluster}/replace")
    def replace(form: submitted, cluster: str) -> Response:
        given = {"member": form.fields.get("member", ""), "reason": form.reason}
        wanted = validate(ReplaceRequest, given, "replacing")
        one = permitted_cluster(site, form.who, cluster, SiteAction.MODIFY)
        keeper.replace(one.uuid, wanted.member, reason_with_actor(form.who, wanted.reason))
        return show_changed("clusters", one.uuid)

    @routes.post("/clusters/{cluster}/destroy")
    def destroy(form: submitted, cluster: str) -> Response:
        reason = reason_with_actor(form.who, form.reason)
        one = permitted_cluster(site, form.who, cluster, SiteAction.CANCEL)
        keeper.end(one.uuid, reason)
        return show_changed("clusters", one.uuid)

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
