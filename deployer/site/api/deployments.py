"""The routes of deployments: order machines, see what was given and why, end them all."""

from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.responses import PlainTextResponse
from starlette.concurrency import run_in_threadpool

from catalog.errors import Malformed, TooLarge
from catalog.image.manifest import ImageId
from deployer.errors import (
    CannotBoot,
    Conflict,
    DeploymentNotFound,
    Forbidden,
    Misused,
    NoAccount,
    NoRoom,
    NotAuthenticated,
    OverBudget,
    OverQuota,
    Refused,
    SiteUnavailable,
    TooManyRequests,
)
from deployer.machine.spec import State, Uuid
from deployer.protocol.deployment_request import MAX_REQUEST, DeploymentRequest
from deployer.site.api.parameters import AFTER, DEFAULT_PAGE, DEPLOYMENT, LIMIT, answer, problems, read, told
from deployer.site.auth.authorizer import narrowed
from deployer.site.auth.grants import Action
from deployer.site.db.machines import find_deployment, list_deployments, machines_of
from deployer.site.model.principal import Principal
from deployer.site.model.records import Deployment, Filter, SiteMachine
from deployer.site.schema.messages import MAX_KEY, DeploymentPage, Explanation, Ordered, Trial
from deployer.site.service.site import Site

VO = Annotated[str | None, Query(max_length=63, description="Only of people of this VO.", examples=["star"])]
OWNER = Annotated[
    str | None, Query(max_length=2100, description="Only of this person: issuer and subject, with a space between.")
]
IMAGE = Annotated[ImageId | None, Query(description="Only of this image.")]
ON = Annotated[Uuid | None, Query(description="Only on this node.")]
OF = Annotated[Uuid | None, Query(description="Only of this deployment.")]
CLUSTER = Annotated[Uuid | None, Query(description="Only of this cluster.")]
STATES = Annotated[list[State] | None, Query(max_length=20, description="Only in one of these states.")]

ASKING = (NotAuthenticated, TooManyRequests, SiteUnavailable)
"""How every request of a person may end."""


def deployment_routes(site: Site) -> APIRouter:
    """Under /v1/deployments."""
    routes = APIRouter(prefix="/deployments", tags=["deployments"])
    store, access = site.store, site.access
    who_asks = Annotated[Principal, Depends(access.who)]

    def found(who: Principal, uuid: str, action: Action) -> Deployment:
        return permitted_deployment(site, who, uuid, action)

    def whole(deployment: Deployment, who: Principal, *, new: bool = False) -> Ordered:
        machines = store.read(machines_of, deployment.uuid)
        return Ordered(
            deployment=shown(deployment, who), machines=tuple(shown_machine(one) for one in machines), new=new
        )

    @routes.post(
        "",
        response_model=Ordered,
        status_code=201,
        responses=problems(
            Malformed,
            Misused,
            TooLarge,
            Forbidden,
            Refused,
            OverQuota,
            NoRoom,
            NoAccount,
            OverBudget,
            CannotBoot,
            Conflict,
            *ASKING,
        )
        | {
            200: {"model": Ordered | Trial, "description": "It had been ordered before; or, of a dry run, the answer."},
        },
        openapi_extra=told(Action.DEPLOY, DeploymentRequest),
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
                max_length=MAX_KEY,
                pattern=r"^[!-~]+$",
                description="Whoever asks again with the same key and the same request gets the same answer.",
                examples=["6e3f4f52-2b3a-4a42-8a60-2f7d8b0d6f31"],
            ),
        ] = None,
        dry_run: Annotated[bool, Query(description="Only say what would come of it.")] = False,
    ) -> Response:
        """The policy decides first, then quotas, then the room on nodes; what is admitted has a place of its own."""
        await run_in_threadpool(access.demand, who, Action.DEPLOY)
        wanted = await read(request, DeploymentRequest, "order", MAX_REQUEST)
        if dry_run:
            return answer(request, await run_in_threadpool(site.try_out, wanted, who))
        ordered = await run_in_threadpool(site.admit, wanted, who, key)
        body = ordered.model_copy(
            update={
                "deployment": shown(ordered.deployment, who),
                "machines": tuple(shown_machine(one) for one in ordered.machines),
            }
        )
        made = answer(request, body)
        made.status_code = 201 if ordered.new else 200
        made.headers["Location"] = f"/v1/deployments/{ordered.deployment.uuid}"
        return made

    @routes.get(
        "",
        response_model=DeploymentPage,
        responses=problems(Malformed, Forbidden, *ASKING),
        openapi_extra=told(Action.READ),
        summary="List deployments",
    )
    def deployments(
        request: Request,
        who: who_asks,
        vo: VO = None,
        owner: OWNER = None,
        image: IMAGE = None,
        cluster: CLUSTER = None,
        limit: LIMIT = DEFAULT_PAGE,
        after: AFTER = None,
    ) -> Response:
        """The newest first, those that you may see. Follow `next` for older ones."""
        access.demand(who, Action.READ)
        wanted = narrowed(Filter(owner=owner, vo=vo, image_id=image, cluster=cluster), access.reach(who))
        if wanted is None:
            return answer(request, DeploymentPage(items=()))
        items, following = store.read(list_deployments, wanted, limit, after)
        return answer(request, DeploymentPage(items=tuple(shown(one, who) for one in items), next=following))

    @routes.get(
        "/{deployment}",
        response_model=Ordered,
        responses=problems(Malformed, DeploymentNotFound, *ASKING),
        openapi_extra=told(Action.READ),
        summary="Get a deployment and its machines",
    )
    def deployment(request: Request, who: who_asks, deployment: DEPLOYMENT) -> Response:
        """As it was ordered and admitted, and its machines as they are."""
        return answer(request, whole(found(who, deployment, Action.READ), who))

    @routes.get(
        "/{deployment}/explain",
        response_model=Explanation,
        responses=problems(Malformed, DeploymentNotFound, *ASKING),
        openapi_extra=told(Action.READ),
        summary="Why it was admitted, and runs where it does",
    )
    def explain(request: Request, who: who_asks, deployment: DEPLOYMENT) -> Response:
        """The policy's decision rule by rule, and the placement node by node, as both were then."""
        one = found(who, deployment, Action.READ)
        return answer(
            request,
            Explanation(
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
        responses=problems(Malformed, DeploymentNotFound, *ASKING)
        | {200: {"content": {"text/plain": {"example": "star-head-1,10.0.3.7 ssh-ed25519 AAAA..."}}}},
        openapi_extra=told(Action.READ),
        summary="The SSH host keys of its machines, as lines of known_hosts",
    )
    def known_hosts(who: who_asks, deployment: DEPLOYMENT) -> Response:
        """What guests published through the context broker, if exactly one party showed each machine's secret."""
        one = found(who, deployment, Action.READ)
        lines = site.broker.known_hosts(one.uuid) if site.broker is not None else []
        return PlainTextResponse("".join(f"{line}\n" for line in lines))

    @routes.delete(
        "/{deployment}",
        response_model=Ordered,
        responses=problems(Malformed, DeploymentNotFound, Forbidden, *ASKING),
        openapi_extra=told(Action.CANCEL),
        summary="End all machines of a deployment",
    )
    def destroy(request: Request, who: who_asks, deployment: DEPLOYMENT) -> Response:
        """As often as you like: what has ended stays ended."""
        one = found(who, deployment, Action.CANCEL)
        site.changing.end_deployment(one.uuid, who)
        return answer(request, whole(one, who))

    return routes


def permitted_deployment(site: Site, who: Principal, text: str, action: Action) -> Deployment:
    """The deployment that a UUID or its beginning means to somebody who wants to do something to it.

    Raises:
        DeploymentNotFound: there is none, or they may not see it. Forbidden: they may not do that to it.
    """
    missing = DeploymentNotFound(f"there is no deployment {text[:80]!r} at this site")
    try:
        deployment = site.store.read(find_deployment, text)
    except Misused as exc:
        if site.access.reach(who).everything:
            raise
        raise missing from exc  # that it begins several things is told to nobody who may not see them all
    site.access.demand_of(who, action, deployment.owner, missing)
    return deployment


def shown(deployment: Deployment, who: Principal) -> Deployment:
    """A deployment as somebody sees it: user-data holds what its owner put there, passwords too, and is for them alone."""
    if who.identity == deployment.owner.identity or deployment.request.user_data is None:
        return deployment
    request = deployment.request.model_copy(update={"user_data": None})
    return deployment.model_copy(update={"request": request})


def shown_machine(machine: SiteMachine) -> SiteMachine:
    """A machine as anybody sees it: its secret for the context broker is for its guest alone."""
    return machine if machine.context is None else machine.model_copy(update={"context": None})
