"""The routes of clusters: order, show, scale and end them, and replace members."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from catalog.errors import Conflict, Malformed, Misused
from deployer.errors import ClusterNotFound, Forbidden, MachineConflict, MachineNotFound, NoCapacity, OverQuota, Refused
from deployer.site.api.parameters import (
    DEFAULT_PAGE,
    AfterQuery,
    DryRunQuery,
    IdempotencyKey,
    LimitQuery,
    OwnerQuery,
    SiteRouter,
    VoQuery,
    action,
    answer,
    read_document,
    read_reason,
)
from deployer.site.auth.grants import SiteAction
from deployer.site.clusters.members import ClusterRoleStatus, role_statuses, unmet_roles
from deployer.site.db.clusters import find_cluster, list_clusters
from deployer.site.model.cluster import MAX_CLUSTER, Cluster, ClusterDocument
from deployer.site.model.current_actor import acting_as
from deployer.site.model.principal import Principal
from deployer.site.model.records import ListFilter, SiteMachine
from deployer.site.operations.machine_changes import reason_with_actor
from deployer.site.schema.clusters import (
    ClusterDryRun,
    ClusterPage,
    ClusterRequest,
    ClusterSummary,
    ClusterView,
    ReplaceRequest,
    RoleStatus,
    RoleView,
    ScaleRequest,
)
from deployer.site.schema.messages import ReasonRequest
from deployer.site.schema.views import MachineView
from deployer.site.service.site import Site

ClusterParameter = Annotated[
    str,
    Path(
        max_length=64,
        description="UUID of a cluster, its beginning, or an active one's name.",
        examples=["0b8a2c9e-58f5-4b7a-9a52-0a54ab4f4a3f"],
    ),
]
ActiveQuery = Annotated[bool | None, Query(description="Only those that have not ended, or only those that have.")]


def cluster_routes(site: Site) -> APIRouter:
    """Under /v2/clusters."""
    routes = SiteRouter("/clusters", "clusters")
    access = site.access
    who_asks = Annotated[Principal, Depends(access.who)]

    @routes.operation(
        "POST",
        "Order a cluster",
        ClusterView,
        takes=ClusterRequest,
        status_code=201,
        responses={
            200: {
                "model": ClusterView | ClusterDryRun,
                "description": "It was ordered before; or the answer of a dry run.",
            }
        },
    )
    @action(SiteAction.DEPLOY, Misused, Forbidden, Refused, OverQuota, NoCapacity, Conflict)
    async def create(
        request: Request, who: who_asks, key: IdempotencyKey = "", dry_run: DryRunQuery = False
    ) -> Response:
        """Capacity for all members, or each role's quorum, is reserved before any of them starts."""

        def wanted() -> tuple[str, ClusterDocument]:
            title, document = ("", order.document) if order.document else site.published_cluster(order.reference)
            return title, document if order.name is None else document.model_copy(update={"name": order.name})

        def work() -> tuple[ClusterView, bool]:
            title, document = wanted()
            with acting_as(who):
                cluster, new = site.clusters.create(document, who, key, title)
            return _whole(site, cluster, who, new=new), new

        await run_in_threadpool(site.access.demand, who, SiteAction.DEPLOY)
        order = await read_document(request, ClusterRequest, "cluster", MAX_CLUSTER)
        if dry_run:
            return answer(request, await run_in_threadpool(lambda: site.try_cluster(wanted()[1], who)))
        view, new = await run_in_threadpool(work)
        made = answer(request, view)
        made.status_code = 201 if new else 200
        made.headers["Location"] = f"/v2/clusters/{view.uuid}"
        return made

    @routes.operation("GET", "List clusters", ClusterPage)
    @action(SiteAction.READ, Malformed, Forbidden)
    def clusters(
        request: Request,
        who: who_asks,
        vo: VoQuery = None,
        owner: OwnerQuery = None,
        active: ActiveQuery = None,
        limit: LimitQuery = DEFAULT_PAGE,
        after: AfterQuery = None,
    ) -> Response:
        """Those that you may see, the newest first. Follow `next` for older ones."""
        wanted = access.visible(who, ListFilter(owner=owner, vo=vo))
        items, following = site.store.read(list_clusters, wanted, limit, after, active=active) if wanted else ((), None)
        return answer(request, ClusterPage(items=tuple(cluster_summary(one) for one in items), next=following))

    @routes.operation("GET /{cluster}", "Get a cluster and its members", ClusterView)
    @action(SiteAction.READ, Malformed, Misused, ClusterNotFound)
    def cluster(request: Request, who: who_asks, cluster: ClusterParameter) -> Response:
        """Its state, role by role, and its machines."""
        return answer(request, _whole(site, permitted_cluster(site, who, cluster, SiteAction.READ), who))

    _add_changes(routes, site)
    return routes


def _add_changes(routes: SiteRouter, site: Site) -> None:
    keeper, access = site.clusters, site.access
    who_asks = Annotated[Principal, Depends(access.who)]

    @routes.operation(
        "POST /{cluster}/scale", "Change the number of members in a role", ClusterView, takes=ScaleRequest
    )
    @action("modify, and deploy for more", Misused, ClusterNotFound, Forbidden, MachineConflict)
    async def scale(request: Request, who: who_asks, cluster: ClusterParameter) -> Response:
        """New members start as capacity allows; superfluous ones are asked to power off, the highest numbers first."""

        def work() -> ClusterView:
            one = permitted_cluster(site, who, cluster, SiteAction.MODIFY)
            if wanted.count > one.state.counts.get(wanted.role, 0):
                access.demand(who, SiteAction.DEPLOY)
            return _whole(
                site, keeper.scale(one.uuid, wanted.role, wanted.count, reason_with_actor(who, wanted.reason)), who
            )

        wanted = await read_document(request, ScaleRequest, "scaling")
        return answer(request, await run_in_threadpool(work))

    @routes.operation("POST /{cluster}/replace", "Replace a member", ClusterView, takes=ReplaceRequest)
    @action(SiteAction.MODIFY, Misused, ClusterNotFound, MachineNotFound, Forbidden, MachineConflict)
    async def replace(request: Request, who: who_asks, cluster: ClusterParameter) -> Response:
        """The old machine ends, and the member's count of failures is reset."""

        def work() -> ClusterView:
            one = permitted_cluster(site, who, cluster, SiteAction.MODIFY)
            return _whole(site, keeper.replace(one.uuid, wanted.member, reason_with_actor(who, wanted.reason)), who)

        wanted = await read_document(request, ReplaceRequest, "replacing")
        return answer(request, await run_in_threadpool(work))

    @routes.operation("DELETE /{cluster}", "End a cluster", ClusterView, takes=ReasonRequest, required=False)
    @action(SiteAction.CANCEL, Misused, ClusterNotFound, Forbidden)
    async def destroy(request: Request, who: who_asks, cluster: ClusterParameter) -> Response:
        """Ends all members at once. Idempotent."""

        def work() -> ClusterView:
            one = permitted_cluster(site, who, cluster, SiteAction.CANCEL)
            return _whole(site, keeper.end(one.uuid, reason_with_actor(who, reason)), who)

        reason = await read_reason(request)
        return answer(request, await run_in_threadpool(work))


def permitted_cluster(site: Site, who: Principal, name: str, action: SiteAction) -> Cluster:
    """The cluster with a name, for a principal who wants to do something to it; their own come before others'.

    Raises:
        ClusterNotFound: it does not exist, or they may not see it. Forbidden: they may not do that to it.
        Misused: it means several.
    """
    missing = ClusterNotFound(f"no such cluster at this site: {name[:80]!r}")
    try:
        cluster = site.store.read(find_cluster, name, who)
    except ClusterNotFound:
        try:
            cluster = site.store.read(find_cluster, name)
        except Misused as exc:
            if site.access.reach(who).everything:
                raise
            raise missing from exc  # only those who may see all learn that the name is ambiguous
    site.access.demand_of(who, action, cluster.owner, missing)
    return cluster


def _whole(site: Site, cluster: Cluster, who: Principal, *, new: bool = False) -> ClusterView:
    return cluster_view(cluster, site.clusters.members(cluster.uuid), site.now(), who, new=new)


def cluster_view(
    cluster: Cluster, members: Sequence[SiteMachine], now: datetime, who: Principal, *, new: bool = False
) -> ClusterView:
    """A cluster as a principal may see it, with its members that exist or have failed."""
    status = role_statuses(cluster, members, now)
    failed = {uuid: why for uuid, why in cluster.state.failed.items() if why}
    there = sorted(
        (one for one in members if not one.state.final or one.uuid in failed),
        key=lambda one: (one.state.final, one.role, cluster.document.slot(one.role, one.hostname), one.created),
    )
    return ClusterView(
        **dict(cluster_summary(cluster)),
        document=redact_cluster(cluster.document, private=who.identity != cluster.owner.identity),
        status={name: _role(cluster, name, status) for name in status},
        members=tuple(MachineView.of(one) for one in there),
        failed=failed,
        new=new,
    )


def _role(cluster: Cluster, name: str, status: Mapping[str, ClusterRoleStatus]) -> RoleView:
    return RoleView(
        **status[name].model_dump(include=set(RoleStatus.model_fields)),
        image_id=cluster.state.images.get(name),
        waits_for=unmet_roles(cluster, name, status),
    )


def cluster_summary(cluster: Cluster) -> ClusterSummary:
    """A cluster's entry in a list."""
    state = cluster.state
    return ClusterSummary(
        uuid=cluster.uuid,
        owner=cluster.owner,
        name=cluster.name,
        reference=state.reference,
        phase=state.phase,
        reason=state.reason,
        changed=state.changed,
        created=cluster.created,
        expires=cluster.expires,
        roles=state.counts,
    )


def redact_cluster(document: ClusterDocument, *, private: bool) -> ClusterDocument:
    """A document as a principal may see it: user-data, which may contain passwords, is for its owner alone."""
    if not private:
        return document
    roles = {name: role.model_copy(update={"user_data": None}) for name, role in document.roles.items()}
    return document.model_copy(update={"roles": roles})
