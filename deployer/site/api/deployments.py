"""The routes of deployments: order machines, explain where they run, and end them."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.responses import PlainTextResponse
from starlette.concurrency import run_in_threadpool

from catalog.errors import Conflict, Malformed, Misused, TooLarge
from catalog.image.manifest import ImageId
from catalog.web.problems import problem_responses
from deployer.errors import (
    CannotBoot,
    DeploymentNotFound,
    Forbidden,
    NoAccount,
    NoCapacity,
    NotAuthenticated,
    OverBudget,
    OverQuota,
    Refused,
    SiteUnavailable,
    TooManyRequests,
)
from deployer.machine.spec import Uuid
from deployer.machine.state import MachineState
from deployer.protocol.deployment_request import MAX_REQUEST, DeploymentRequest
from deployer.site.api.parameters import (
    DEFAULT_PAGE,
    AfterQuery,
    DeploymentParameter,
    DryRunQuery,
    LimitQuery,
    answer,
    openapi_extra,
    read_document,
)
from deployer.site.auth.authorizer import restrict_filter
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

VoQuery = Annotated[str | None, Query(max_length=63, description="Only of members of this VO.", examples=["star"])]
OwnerQuery = Annotated[
    str | None, Query(max_length=2100, description="Only of this person: issuer and subject, with a space between.")
]
ImageQuery = Annotated[ImageId | None, Query(description="Only of this image.")]
NodeQuery = Annotated[Uuid | None, Query(description="Only on this node.")]
DeploymentQuery = Annotated[Uuid | None, Query(description="Only of this deployment.")]
ClusterQuery = Annotated[Uuid | None, Query(description="Only of this cluster.")]
StatesQuery = Annotated[list[MachineState] | None, Query(max_length=20, description="Only in one of these states.")]

AUTH_ERRORS = (NotAuthenticated, TooManyRequests, SiteUnavailable)
"""Errors of every request of a person."""


def deployment_routes(site: Site) -> APIRouter:
    """Under /v1/deployments."""
    routes = APIRouter(prefix="/deployments", tags=["deployments"])
    store, access = site.store, site.access
    who_asks = Annotated[Principal, Depends(access.who)]

    def found(who: Principal, uuid: str, action: SiteAction) -> Deployment:
        return permitted_deployment(site, who, uuid, action)

    def shown(
        who: Principal, deployment: Deployment, machines: Sequence[SiteMachine], *, new: bool
    ) -> DeploymentCreated:
        views = tuple(MachineView.of(one) for one in machines)
        return DeploymentCreated(deployment=DeploymentView.of(deployment, who), machines=views, new=new)

    def whole(deployment: Deployment, who: Principal) -> DeploymentCreated:
        return shown(who, deployment, store.read(machines_of, deployment.uuid), new=False)

    @routes.post(
        "",
        response_model=DeploymentCreated,
        status_code=201,
        responses=problem_responses(
            Malformed,
            Misused,
            TooLarge,
            Forbidden,
            Refused,
            OverQuota,
            NoCapacity,
            NoAccount,
            OverBudget,
            CannotBoot,
            Conflict,
            *AUTH_ERRORS,
        )
        | {
            200: {
                "model": DeploymentCreated | DryRunResult,
                "description": "It was ordered before; or the answer of a dry run.",
            },
        },
        openapi_extra=openapi_extra(SiteAction.DEPLOY, DeploymentRequest),
        summary="Order machines",
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
            return answer(request, await run_in_threadpool(site.try_out, wanted, who))
        ordered = await run_in_threadpool(site.admit, wanted, who, key)
        made = answer(request, shown(who, ordered.deployment, ordered.machines, new=ordered.new))
        made.status_code = 201 if ordered.new else 200
        made.headers["Location"] = f"/v1/deployments/{ordered.deployment.uuid}"
        return made

    @routes.get(
        "",
        response_model=DeploymentPage,
        responses=problem_responses(Malformed, Forbidden, *AUTH_ERRORS),
        openapi_extra=openapi_extra(SiteAction.READ),
        summary="List deployments",
    )
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
        access.demand(who, SiteAction.READ)
        wanted = restrict_filter(ListFilter(owner=owner, vo=vo, image_id=image, cluster=cluster), access.reach(who))
        if wanted is None:
            return answer(request, DeploymentPage(items=()))
        items, following = store.read(list_deployments, wanted, limit, after)
        return answer(
            request, DeploymentPage(items=tuple(DeploymentView.of(one, who) for one in items), next=following)
        )

    @routes.get(
        "/{deployment}",
        response_model=DeploymentCreated,
        responses=problem_responses(Malformed, DeploymentNotFound, *AUTH_ERRORS),
        openapi_extra=openapi_extra(SiteAction.READ),
        summary="Get a deployment and its machines",
    )
    def deployment(request: Request, who: who_asks, deployment: DeploymentParameter) -> Response:
        """The order as it was admitted, and its machines' present states."""
        return answer(request, whole(found(who, deployment, SiteAction.READ), who))

    @routes.get(
        "/{deployment}/explain",
        response_model=DeploymentExplanation,
        responses=problem_responses(Malformed, DeploymentNotFound, *AUTH_ERRORS),
        openapi_extra=openapi_extra(SiteAction.READ),
        summary="Explain why it was admitted, and runs where it does",
    )
    def explain(request: Request, who: who_asks, deployment: DeploymentParameter) -> Response:
        """The policy's decision rule by rule, and the placement node by node, as of the order."""
        one = found(who, deployment, SiteAction.READ)
        return answer(
            request,
            DeploymentExplanation(
                deployment=one.uuid,
                image_id=one.image_id,
                title=one.title,
                policy=one.policy,
                decision=one.decision,
                placement=one.placement,
            ),
        )

    @routes.get(
        "/{deployment}/known_hosts",
        response_class=PlainTextResponse,
        responses=problem_responses(Malformed, DeploymentNotFound, *AUTH_ERRORS)
        | {200: {"content": {"text/plain": {"example": "star-head-1,10.0.3.7 ssh-ed25519 AAAA..."}}}},
        openapi_extra=openapi_extra(SiteAction.READ),
        summary="Read the SSH host keys of its machines, as lines of known_hosts",
    )
    def known_hosts(who: who_asks, deployment: DeploymentParameter) -> Response:
        """Keys that guests published through the context broker, if exactly one party used the machine's secret."""
        one = found(who, deployment, SiteAction.READ)
        lines = site.broker.directory.known_hosts(one.uuid) if site.broker is not None else []
        return PlainTextResponse("".join(f"{line}\n" for line in lines))

    @routes.delete(
        "/{deployment}",
        response_model=DeploymentCreated,
        responses=problem_responses(Malformed, DeploymentNotFound, Forbidden, *AUTH_ERRORS),
        openapi_extra=openapi_extra(SiteAction.CANCEL),
        summary="End all machines of a deployment",
    )
    def destroy(request: Request, who: who_asks, deployment: DeploymentParameter) -> Response:
        """Idempotent: machines that have ended stay ended."""
        one = found(who, deployment, SiteAction.CANCEL)
        site.changing.end_deployment(one.uuid, who)
        return answer(request, whole(one, who))

    return routes


def permitted_deployment(site: Site, who: Principal, text: str, action: SiteAction) -> Deployment:
    """The deployment with a UUID or its beginning, for a principal who wants to do something to it.

    Raises:
        DeploymentNotFound: there is none, or they may not see it. Forbidden: they may not do that to it.
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
