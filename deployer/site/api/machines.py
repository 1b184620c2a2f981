"""The routes of machines: list, pause, extend, save and end them."""

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request, Response
from starlette.concurrency import run_in_threadpool

from catalog.errors import Conflict, Malformed, Misused
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
from deployer.site.api.parameters import (
    DEFAULT_PAGE,
    AfterQuery,
    ClusterQuery,
    DeploymentQuery,
    IdempotencyKey,
    ImageQuery,
    LimitQuery,
    MachineParameter,
    NodeQuery,
    OwnerQuery,
    SiteRouter,
    StatesQuery,
    VoQuery,
    action,
    answer,
    read_document,
    read_optional_body,
)
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
    """Under /v2/machines."""
    routes = SiteRouter("/machines", "machines")
    store, access = site.store, site.access
    who_asks = Annotated[Principal, Depends(access.who)]
    found = partial(permitted_machine, site)

    @routes.operation("GET", "List machines", MachinePage)
    @action(SiteAction.READ, Malformed, Forbidden)
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
        states = tuple(state or ()) or None
        place = ListFilter(image_id=image, node=node, deployment=deployment, cluster=cluster, states=states)
        wanted = access.visible(who, place.model_copy(update={"owner": owner, "vo": vo}))
        items, following = store.read(list_machines, wanted, limit, after) if wanted else ((), None)
        return answer(request, MachinePage(items=tuple(MachineView.of(one) for one in items), next=following))

    @routes.operation("GET /{machine}", "Get a machine", MachineView)
    @action(SiteAction.READ, Malformed, MachineNotFound, MachineConflict)
    def machine(request: Request, who: who_asks, machine: MachineParameter) -> Response:
        """Its desired status (`want`), and its present state."""
        return answer(request, MachineView.of(found(who, machine, SiteAction.READ)))

    # Before the verbs, which have the same form.
    @routes.operation(
        "POST /{machine}/save",
        "Save a machine that rests as a new, unendorsed version of its image",
        MachineView,
        takes=SaveRequest,
    )
    @action(SiteAction.SAVE, MachineNotFound, Forbidden, MachineConflict, Conflict)
    async def save(request: Request, who: who_asks, machine: MachineParameter, key: IdempotencyKey = "") -> Response:
        """The machine's `saves` show the progress and, at the end, the image ID; events report it, too.

        Its node reads the disks and uploads what has changed to the catalog, as a candidate for its VO to endorse.
        """

        def work() -> SiteMachine:
            one = found(who, machine, SiteAction.SAVE)
            if one.node is not None and store.read(get_node, one.node, contents=False).kind == EC2:
                raise MachineConflict(f"machine {one.hostname} runs at EC2, and its disks are not read from there")
            return site.machine_changes.save(one.uuid, wanted, key, who)

        wanted = await read_document(request, SaveRequest, "request to save")
        return answer(request, MachineView.of(await run_in_threadpool(work)))

    @routes.operation(
        "POST /{machine}/{verb}",
        "Pause, resume, suspend, reactivate, reboot, shut down or destroy a machine",
        MachineView,
        takes=VerbRequest,
        required=False,
    )
    @action("hold, modify or cancel", Misused, MachineNotFound, NodeNotFound, Forbidden, MachineConflict, NoCapacity)
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
                return site.machine_changes.reactivate(one.uuid, asked.node, who, asked.reason)
            return site.machine_changes.act(one.uuid, verb, who, asked.reason)

        asked = await read_optional_body(request, VerbRequest, "a reason")
        _check_verb(verb, asked)
        return answer(request, MachineView.of(await run_in_threadpool(work)))

    @routes.operation(
        "PATCH /{machine}", "Change when a machine expires, its memory or its cores", MachineView, takes=MachineChange
    )
    @action(SiteAction.MODIFY, MachineNotFound, Forbidden, OverQuota, NoAccount, OverBudget, MachineConflict)
    async def change(request: Request, who: who_asks, machine: MachineParameter) -> Response:
        """A later end within your quotas; memory and cores within the maximum that it was ordered with."""

        def work() -> SiteMachine:
            one = found(who, machine, SiteAction.MODIFY)
            return site.machine_changes.change(one.uuid, wanted, who)

        wanted = await read_document(request, MachineChange, "change")
        return answer(request, MachineView.of(await run_in_threadpool(work)))

    return routes


def _check_verb(verb: Verb, asked: VerbRequest) -> None:
    if (asked.node or asked.elsewhere) and verb is not Verb.REACTIVATE:
        raise Misused("only reactivate takes a node: a running machine cannot migrate; suspend it first")
    if asked.node and asked.elsewhere:
        raise Misused("give either a node, or elsewhere")


def permitted_machine(site: Site, who: Principal, name: str, action: SiteAction) -> SiteMachine:
    """The machine with a name, for a principal who wants to do something to it; their own come before others'.

    Raises:
        MachineNotFound: it does not exist, or they may not see it. Forbidden: they may not do that to it.
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
