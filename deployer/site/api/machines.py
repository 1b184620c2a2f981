"""The routes of machines: list, pause, extend, save and end them."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request, Response
from starlette.concurrency import run_in_threadpool

from catalog.errors import Conflict, Malformed, Misused, TooLarge
from catalog.web.problems import problem_responses
from deployer.errors import (
    Forbidden,
    MachineConflict,
    MachineNotFound,
    NoAccount,
    NoCapacity,
    NodeNotFound,
    OverBudget,
    OverQuota,
)
from deployer.site.api.deployments import (
    AUTH_ERRORS,
    ClusterQuery,
    DeploymentQuery,
    ImageQuery,
    NodeQuery,
    OwnerQuery,
    StatesQuery,
    VoQuery,
)
from deployer.site.api.parameters import (
    DEFAULT_PAGE,
    AfterQuery,
    IdempotencyKey,
    LimitQuery,
    MachineParameter,
    answer,
    openapi_extra,
    read_document,
    read_optional_body,
)
from deployer.site.auth.authorizer import restrict_filter
from deployer.site.auth.grants import SiteAction
from deployer.site.db.machines import find_machine, list_machines
from deployer.site.db.nodes import get_node
from deployer.site.lifecycle.verb_rules import Verb
from deployer.site.model.principal import Principal
from deployer.site.model.records import ListFilter, SiteMachine
from deployer.site.scheduling.placement import EC2
from deployer.site.schema.messages import MachineChange, MachinePage, SaveRequest, VerbRequest
from deployer.site.schema.views import MachineView
from deployer.site.service.site import Site

ACTIONS = {
    Verb.PAUSE: SiteAction.HOLD,
    Verb.SUSPEND: SiteAction.HOLD,
    Verb.RESUME: SiteAction.MODIFY,
    Verb.REACTIVATE: SiteAction.MODIFY,
    Verb.REBOOT: SiteAction.MODIFY,
    Verb.SHUTDOWN: SiteAction.CANCEL,
    Verb.DESTROY: SiteAction.CANCEL,
}
"""The action that each verb needs."""


def machine_routes(site: Site) -> APIRouter:
    """Under /v1/machines."""
    routes = APIRouter(prefix="/machines", tags=["machines"])
    store, access = site.store, site.access
    who_asks = Annotated[Principal, Depends(access.who)]

    def found(who: Principal, name: str, action: SiteAction) -> SiteMachine:
        return permitted_machine(site, who, name, action)

    @routes.get(
        "",
        response_model=MachinePage,
        responses=problem_responses(Malformed, Forbidden, *AUTH_ERRORS),
        openapi_extra=openapi_extra(SiteAction.READ),
        summary="List machines",
    )
    def machines(
        request: Request,
        who: who_asks,
        vo: VoQuery = None,
        owner: OwnerQuery = None,
        image: ImageQuery = None,
        node: NodeQuery = None,
        deployment: DeploymentQuery = None,
        cluster: ClusterQuery = None,
        state: StatesQuery = None,
        limit: LimitQuery = DEFAULT_PAGE,
        after: AfterQuery = None,
    ) -> Response:
        """Those that you may see, the newest first. Follow `next` for older ones."""
        access.demand(who, SiteAction.READ)
        asked = ListFilter(
            owner=owner,
            vo=vo,
            image_id=image,
            node=node,
            deployment=deployment,
            cluster=cluster,
            states=tuple(state) if state else None,
        )
        wanted = restrict_filter(asked, access.reach(who))
        if wanted is None:
            return answer(request, MachinePage(items=()))
        items, following = store.read(list_machines, wanted, limit, after)
        return answer(request, MachinePage(items=tuple(MachineView.of(one) for one in items), next=following))

    @routes.get(
        "/{machine}",
        response_model=MachineView,
        responses=problem_responses(Malformed, MachineNotFound, MachineConflict, *AUTH_ERRORS),
        openapi_extra=openapi_extra(SiteAction.READ),
        summary="Get a machine",
    )
    def machine(request: Request, who: who_asks, machine: MachineParameter) -> Response:
        """Its desired status (`want`), and its present state."""
        return answer(request, MachineView.of(found(who, machine, SiteAction.READ)))

    @routes.post(
        "/{machine}/{verb}",
        response_model=MachineView,
        responses=problem_responses(
            Malformed,
            Misused,
            TooLarge,
            MachineNotFound,
            NodeNotFound,
            Forbidden,
            MachineConflict,
            NoCapacity,
            *AUTH_ERRORS,
        ),
        openapi_extra=openapi_extra(None, VerbRequest, required=False) | {"x-action": "hold, modify or cancel"},
        summary="Pause, resume, suspend, reactivate, reboot, shut down or destroy a machine",
    )
    async def act(
        request: Request,
        who: who_asks,
        machine: MachineParameter,
        verb: Annotated[Verb, Path(description="What to do.")],
    ) -> Response:
        """The answer has the machine's new desired status; its node carries it out, and events report it.

        A machine that is reactivated on another node rests until that node has all of it.
        """

        def work() -> SiteMachine:
            one = found(who, machine, ACTIONS[verb])
            if asked.node or asked.elsewhere:
                return site.changing.reactivate(one.uuid, asked.node, who, asked.reason)
            return site.changing.act(one.uuid, verb, who, asked.reason)

        asked = await read_optional_body(request, VerbRequest, "a reason")
        if (asked.node or asked.elsewhere) and verb is not Verb.REACTIVATE:
            raise Misused("only reactivate takes a node: a running machine cannot migrate; suspend it first")
        if asked.node and asked.elsewhere:
            raise Misused("give either a node, or elsewhere")
        return answer(request, MachineView.of(await run_in_threadpool(work)))

    @routes.patch(
        "/{machine}",
        response_model=MachineView,
        responses=problem_responses(
            Malformed,
            TooLarge,
            MachineNotFound,
            Forbidden,
            OverQuota,
            NoAccount,
            OverBudget,
            MachineConflict,
            *AUTH_ERRORS,
        ),
        openapi_extra=openapi_extra(SiteAction.MODIFY, MachineChange),
        summary="Change when a machine expires, its memory or its cores",
    )
    async def change(request: Request, who: who_asks, machine: MachineParameter) -> Response:
        """A later end within your quotas; memory and cores within the maximum that it was ordered with."""

        def work() -> SiteMachine:
            one = found(who, machine, SiteAction.MODIFY)
            return site.changing.change(one.uuid, wanted, who)

        wanted = await read_document(request, MachineChange, "change")
        return answer(request, MachineView.of(await run_in_threadpool(work)))

    return routes


def save_routes(site: Site) -> APIRouter:
    """Under /v1/machines/{machine}/save; before the verbs, which have the same form."""
    routes = APIRouter(prefix="/machines", tags=["machines"])

    @routes.post(
        "/{machine}/save",
        response_model=MachineView,
        responses=problem_responses(
            Malformed, TooLarge, MachineNotFound, Forbidden, MachineConflict, Conflict, *AUTH_ERRORS
        ),
        openapi_extra=openapi_extra(SiteAction.SAVE, SaveRequest),
        summary="Save a machine that rests as a new, unendorsed version of its image",
    )
    async def save(
        request: Request,
        who: Annotated[Principal, Depends(site.access.who)],
        machine: MachineParameter,
        key: IdempotencyKey = "",
    ) -> Response:
        """The machine's `saves` show the progress and, at the end, the image ID; events report it, too.

        Its node reads the disks and uploads what has changed to the catalog, as a candidate for its VO to endorse.
        """

        def work() -> SiteMachine:
            found = permitted_machine(site, who, machine, SiteAction.SAVE)
            if found.node is not None and site.store.read(get_node, found.node, contents=False).kind == EC2:
                raise MachineConflict(f"machine {found.hostname} runs at EC2, and its disks are not read from there")
            return site.changing.save(found.uuid, wanted, key, who)

        wanted = await read_document(request, SaveRequest, "request to save")
        return answer(request, MachineView.of(await run_in_threadpool(work)))

    return routes


def permitted_machine(site: Site, who: Principal, name: str, action: SiteAction) -> SiteMachine:
    """The machine with a name, for a principal who wants to do something to it; their own come before others'.

    Raises:
        MachineNotFound: there is none, or they may not see it. Forbidden: they may not do that to it.
        Misused: it means several.
    """
    store, access = site.store, site.access
    missing = MachineNotFound(f"no such machine at this site: {name[:80]!r}")
    everything = access.reach(who).everything
    try:
        machine = store.read(find_machine, name, None if everything else who)
    except MachineNotFound:
        try:
            machine = store.read(find_machine, name)
        except Misused as exc:
            if everything:
                raise
            raise missing from exc  # only those who may see all learn that the name is ambiguous
    access.demand_of(who, action, access.owner(machine.deployment), missing)
    return machine
