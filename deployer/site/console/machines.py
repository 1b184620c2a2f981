"""The console's pages of machines and deployments, and the overview."""

from collections.abc import Iterable
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response
from starlette.concurrency import run_in_threadpool

from catalog.errors import Misused
from deployer.errors import MachineConflict
from deployer.machine.state import MachineState
from deployer.protocol.console import sanitize_output
from deployer.site.api.clusters import cluster_summary
from deployer.site.api.console_output import DEFAULT, console_node, decode_output, request_console_output
from deployer.site.api.deployments import permitted_deployment
from deployer.site.api.machines import ACTIONS, permitted_machine
from deployer.site.api.parameters import AfterQuery, ClusterQuery, DeploymentQuery, ImageQuery, NodeQuery, StatesQuery
from deployer.site.auth.grants import SiteAction
from deployer.site.console.events import events_about, newest_events
from deployer.site.console.images import parse_rules
from deployer.site.console.request import (
    ALIVE,
    Console,
    FormRequest,
    PageRequest,
    PageRoute,
    next_page_url,
    show_changed,
)
from deployer.site.console.templates import CONSOLE_PREFIX
from deployer.site.db.clusters import list_clusters
from deployer.site.db.machines import list_deployments, list_machines, machines_of
from deployer.site.lifecycle.verb_rules import Verb, apply_verb
from deployer.site.model.principal import Principal
from deployer.site.model.records import ListFilter, SiteMachine
from deployer.site.schema.messages import MachineChange
from deployer.site.schema.views import DeploymentView, MachineView
from signer.documents import validate
from signer.runtime.units import parse_duration

ROWS = 50
"""Rows of a page; a link leads to the next one."""

FEW = 8
"""Rows of each table of the overview."""


def machine_pages(console: Console) -> APIRouter:
    """The routes of the overview, machines and deployments."""
    routes = APIRouter(prefix=CONSOLE_PREFIX, route_class=PageRoute)
    for add in (_add_lists, _add_machine, _add_console_output, _add_deployments):
        add(routes, console)
    return routes


def _add_lists(routes: APIRouter, console: Console) -> None:
    site, access = console.site, console.site.access
    visiting = Annotated[PageRequest, Depends(console.visit)]

    @routes.get("/")
    def overview(visit: visiting) -> Response:
        who = visit.who
        status = site.status() if access.allows(who, SiteAction.NODES) else None
        reads = access.allows(who, SiteAction.READ)
        wanted = access.visible(who, ListFilter()) if reads else None
        clusters = site.store.read(list_clusters, wanted, FEW, None, active=True)[0] if wanted else ()
        return console.show(
            visit,
            "overview.html",
            status=status,
            machines=views(site.store.read(list_machines, wanted.model_copy(update={"states": ALIVE}), FEW)[0])
            if wanted
            else (),
            clusters=[cluster_summary(one) for one in clusters],
            events=newest_events(site, who, FEW)[0] if reads else (),
            nodes=console.node_names(visit),
        )

    @routes.get("/machines")
    def machines(
        visit: visiting,
        state: StatesQuery = None,
        image: ImageQuery = None,
        node: NodeQuery = None,
        deployment: DeploymentQuery = None,
        cluster: ClusterQuery = None,
        after: AfterQuery = None,
        all: Annotated[bool, Query()] = False,  # noqa: A002 - as it stands in the address
    ) -> Response:
        states = tuple(state) if state else (None if all else ALIVE)
        asked = ListFilter(image_id=image, node=node, deployment=deployment, cluster=cluster, states=states)
        wanted = access.visible(visit.who, asked)
        items, following = site.store.read(list_machines, wanted, ROWS, after) if wanted else ((), None)
        return console.show(
            visit,
            "machines.html",
            machines=views(items),
            next=next_page_url(visit.request, following),
            everything=all or bool(state),
            nodes=console.node_names(visit),
        )


def _add_machine(routes: APIRouter, console: Console) -> None:
    site, access = console.site, console.site.access
    visiting = Annotated[PageRequest, Depends(console.visit)]
    submitted = Annotated[FormRequest, Depends(console.submission)]

    @routes.get("/machines/{machine}")
    def machine(visit: visiting, machine: str) -> Response:
        found = permitted_machine(site, visit.who, machine, SiteAction.READ)
        owner = access.owner(found.deployment)
        return console.show(
            visit,
            "machine.html",
            machine=MachineView.of(found),
            owner=owner,
            verbs=available_verbs(console, visit, found),
            extends=not found.state.final and access.allows(visit.who, SiteAction.MODIFY, owner),
            serial=_has_serial(console, visit, found, owner),
            events=events_about(site, subject=found.uuid)[::-1][:ROWS],
            nodes=console.node_names(visit),
        )

    @routes.post("/machines/{machine}/extend")
    def extend(form: submitted, machine: str) -> Response:
        try:
            seconds = parse_duration(form.fields.get("lifetime", ""))
        except ValueError as exc:
            raise Misused(f"lifetime: {exc}") from exc
        wanted = validate(MachineChange, {"lifetime": seconds}, "lifetime")
        found = permitted_machine(site, form.who, machine, SiteAction.MODIFY)
        site.machine_changes.change(found.uuid, wanted, form.who)
        return show_changed("machines", found.uuid)

    @routes.post("/machines/{machine}/{verb}")
    def act(form: submitted, machine: str, verb: Verb) -> Response:
        found = permitted_machine(site, form.who, machine, ACTIONS[verb])
        site.machine_changes.act(found.uuid, verb, form.who, form.reason)
        return show_changed("machines", found.uuid)


def _add_console_output(routes: APIRouter, console: Console) -> None:
    site = console.site

    @routes.get("/machines/{machine}/console")
    async def serial(visit: Annotated[PageRequest, Depends(console.visit)], machine: str) -> Response:
        """A machine's serial output: fetched from its node for this page, shown as text, stored nowhere."""
        found = await run_in_threadpool(permitted_machine, site, visit.who, machine, SiteAction.CONSOLE)
        node = await run_in_threadpool(console_node, site, found)
        data = decode_output(await request_console_output(site, node, found.uuid, DEFAULT))
        values = {"machine": MachineView.of(found), "text": sanitize_output(data), "size": len(data)}
        return await run_in_threadpool(lambda: console.show(visit, "serial.html", **values))


def _add_deployments(routes: APIRouter, console: Console) -> None:
    site, access = console.site, console.site.access
    visiting = Annotated[PageRequest, Depends(console.visit)]

    @routes.get("/deployments")
    def deployments(visit: visiting, after: AfterQuery = None) -> Response:
        wanted = access.visible(visit.who, ListFilter())
        items, following = site.store.read(list_deployments, wanted, ROWS, after) if wanted else ((), None)
        return console.show(visit, "deployments.html", deployments=items, next=next_page_url(visit.request, following))

    @routes.get("/deployments/{deployment}")
    def deployment(visit: visiting, deployment: str) -> Response:
        found = DeploymentView.of(permitted_deployment(site, visit.who, deployment, SiteAction.READ), visit.who)
        ends = access.allows(visit.who, SiteAction.CANCEL, found.owner)
        machines = site.store.read(machines_of, found.uuid)
        return console.show(
            visit,
            "deployment.html",
            deployment=found,
            machines=views(machines),
            ends=ends and not all(one.state.final for one in machines),
            nodes=console.node_names(visit),
            decision=parse_rules(found.decision),
            hosts=site.broker.directory.known_hosts(found.uuid) if site.broker is not None else [],
        )

    @routes.post("/deployments/{deployment}/destroy")
    def destroy(form: Annotated[FormRequest, Depends(console.submission)], deployment: str) -> Response:
        found = permitted_deployment(site, form.who, deployment, SiteAction.CANCEL)
        site.machine_changes.end_deployment(found.uuid, form.who)
        return show_changed("deployments", found.uuid)


def available_verbs(console: Console, visit: PageRequest, machine: SiteMachine) -> list[Verb]:
    """The verbs that a user may apply to a machine and that would change its present state."""
    access, now = console.site.access, console.site.now()
    owner, found = access.owner(machine.deployment), []
    for verb in Verb:
        if not access.allows(visit.who, ACTIONS[verb], owner):
            continue
        try:
            change = apply_verb(machine, verb, "", now)
        except MachineConflict:
            continue
        if change is not None:
            found.append(verb)
    return found


def _has_serial(console: Console, visit: PageRequest, machine: SiteMachine, owner: Principal) -> bool:
    """Whether a machine may have console output, and the user may read it."""
    allowed = console.site.access.allows(visit.who, SiteAction.CONSOLE, owner)
    return allowed and not (machine.removed_from_node or machine.node is None or machine.state is MachineState.PENDING)


def views(machines: Iterable[SiteMachine]) -> list[MachineView]:
    """Machines as pages show them: as the API does."""
    return [MachineView.of(one) for one in machines]
