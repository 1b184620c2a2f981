"""The routes of deployments: order machines, explain where they run, and end them."""

from collections.abc import Sequence
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Request, Response
from fastapi.responses import PlainTextResponse
from starlette.concurrency import run_in_threadpool

from catalog.errors import Conflict, Malformed, Misused
from deployer.errors import (
    CannotBoot,
    DeploymentNotFound,
    Forbidden,
    NoAccount,
    NoCapacity,
    OverBudget,
    OverQuota,
    Refused,
)
from deployer.protocol.deployment_request import MAX_REQUEST, DeploymentRequest
from deployer.site.api.parameters import (
    DEFAULT_PAGE,
    AfterQuery,
    ClusterQuery,
    DeploymentParameter,
    DryRunQuery,
    ImageQuery,
    LimitQuery,
    OwnerQuery,
    SiteRouter,
    VoQuery,
    action,
    answer,
    read_document,
)
from deployer.site.auth.grants import SiteAction
from deployer.site.db.machines import find_deployment, list_deployments, machines_of
from deployer.site.model.principal import Principal
from deployer.site.model.records import Deployment, ListFilter, SiteMachine
from deployer.site.schema.messages import (
    MAX_IDEMPOTENCY_KEY,
    DeploymentCreated,
    DeploymentExplanation,
    DeploymentPage,
    DryRunResult,
)
from deployer.site.schema.views import DeploymentView, MachineView
from deployer.site.service.site import Site


def deployment_routes(site: Site) -> APIRouter:
    """Under /v2/deployments."""
    routes = SiteRouter("/deployments", "deployments")
    store, access = site.store, site.access
    who_asks = Annotated[Principal, Depends(access.who)]
    found = partial(permitted_deployment, site)

    def shown(
        who: Principal, deployment: Deployment, machines: Sequence[SiteMachine], *, new: bool
    ) -> DeploymentCreated:
        views = tuple(MachineView.of(one) for one in machines)
        return DeploymentCreated(deployment=DeploymentView.of(deployment, who), machines=views, new=new)

    def whole(deployment: Deployment, who: Principal) -> DeploymentCreated:
        return shown(who, deployment, store.read(machines_of, deployment.uuid), new=False)

    @routes.operation(
        "POST",
        "Order machines",
        DeploymentCreated,
        takes=DeploymentRequest,
        status_code=201,
        responses={
            200: {
                "model": DeploymentCreated | DryRunResult,
                "description": "It was ordered before; or the answer of a dry run.",
            }
        },
    )
    @action(
        SiteAction.DEPLOY,
        Misused,
        Forbidden,
        Refused,
        OverQuota,
        NoCapacity,
        NoAccount,
        OverBudget,
        CannotBoot,
        Conflict,
    )
    async def create(
        request: Request,
        who: who_asks,
        key: Annotated[
            str | None,
            Header(
                alias="Idempotency-Key",
                min_length=1,
                max_length=MAX_IDEMPOTENCY_KEY,
                pattern=r"^[!-~]+$",
                description="A repeated request with the same key returns the same answer.",
                examples=["6e3f4f52-2b3a-4a42-8a60-2f7d8b0d6f31"],
            ),
        ] = None,
        dry_run: DryRunQuery = False,
    ) -> Response:
        """The policy decides first, then quotas, then the capacity of nodes; admitted machines have capacity reserved."""
        await run_in_threadpool(access.demand, who, SiteAction.DEPLOY)
        wanted = await read_document(request, DeploymentRequest, "order", MAX_REQUEST)
        if dry_run:
            return answer(request, await run_in_threadpool(site.admission.try_out, wanted, who))
        ordered = await run_in_threadpool(site.admit, wanted, who, key)
        made = answer(request, shown(who, ordered.deployment, ordered.machines, new=ordered.new))
        made.status_code = 201 if ordered.new else 200
        made.headers["Location"] = f"/v2/deployments/{ordered.deployment.uuid}"
        return made

    @routes.operation("GET", "List deployments", DeploymentPage)
    @action(SiteAction.READ, Malformed, Forbidden)
    def deployments(
        request: Request,
        who: who_asks,
        vo: VoQuery = None,
        owner: OwnerQuery = None,
        image: ImageQuery = None,
        cluster: ClusterQuery = None,
        limit: LimitQuery = DEFAULT_PAGE,
        after: AfterQuery = None,
    ) -> Response:
        """Those that you may see, the newest first. Follow `next` for older ones."""
        wanted = access.visible(who, ListFilter(owner=owner, vo=vo, image_id=image, cluster=cluster))
        items, following = store.read(list_deployments, wanted, limit, after) if wanted else ((), None)
        views = tuple(DeploymentView.of(one, who) for one in items)
        return answer(request, DeploymentPage(items=views, next=following))

    @routes.operation("GET /{deployment}", "Get a deployment and its machines", DeploymentCreated)
    @action(SiteAction.READ, Malformed, DeploymentNotFound)
    def deployment(request: Request, who: who_asks, deployment: DeploymentParameter) -> Response:
        """The order as it was admitted, and its machines' present states."""
        return answer(request, whole(found(who, deployment, SiteAction.READ), who))

    @routes.operation(
        "GET /{deployment}/explain", "Explain why it was admitted, and runs where it does", DeploymentExplanation
    )
    @action(SiteAction.READ, Malformed, DeploymentNotFound)
    def explain(request: Request, who: who_asks, deployment: DeploymentParameter) -> Response:
        """The policy's decision rule by rule, and the placement node by node, as of the order."""
        one = found(who, deployment, SiteAction.READ)
        shared = {name: getattr(one, name) for name in ("image_id", "title", "policy", "decision", "placement")}
        return answer(request, DeploymentExplanation(deployment=one.uuid, **shared))

    @routes.operation(
        "GET /{deployment}/known_hosts",
        "Read the SSH host keys of its machines, as lines of known_hosts",
        response_class=PlainTextResponse,
        responses={200: {"content": {"text/plain": {"example": "star-head-1,10.0.3.7 ssh-ed25519 AAAA..."}}}},
    )
    @action(SiteAction.READ, Malformed, DeploymentNotFound)
    def known_hosts(who: who_asks, deployment: DeploymentParameter) -> Response:
        """Keys that guests published through the context broker, if exactly one party used the machine's secret."""
        one = found(who, deployment, SiteAction.READ)
        lines = site.broker.directory.known_hosts(one.uuid) if site.broker is not None else []
        return PlainTextResponse("".join(f"{line}\n" for line in lines))

    @routes.operation("DELETE /{deployment}", "End all machines of a deployment", DeploymentCreated)
    @action(SiteAction.CANCEL, Malformed, DeploymentNotFound, Forbidden)
    def destroy(request: Request, who: who_asks, deployment: DeploymentParameter) -> Response:
        """Idempotent: machines that have ended stay ended."""
        one = found(who, deployment, SiteAction.CANCEL)
        site.machine_changes.end_deployment(one.uuid, who)
        return answer(request, whole(one, who))

    return routes


def permitted_deployment(site: Site, who: Principal, text: str, action: SiteAction) -> Deployment:
    """The deployment with a UUID or its beginning, for a principal who wants to do something to it.

    Raises:
        DeploymentNotFound: it does not exist, or they may not see it. Forbidden: they may not do that to it.
    """
    missing = DeploymentNotFound(f"no such deployment at this site: {text[:80]!r}")
    try:
        deployment = site.store.read(find_deployment, text)
    except Misused as exc:
        if site.access.reach(who).everything:
            raise
        raise missing from exc  # only those who may see all learn that the beginning is ambiguous
    site.access.demand_of(who, action, deployment.owner, missing)
    return deployment
