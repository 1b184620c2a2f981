"""The console's page of what a machine's guest writes: asked of its node for this page, shown as text, and kept nowhere."""

from typing import Annotated

from fastapi import APIRouter, Depends, Response
from starlette.concurrency import run_in_threadpool

from deployer.protocol.console import readable
from deployer.site.api.console_output import DEFAULT, ask, bytes_of, node_of
from deployer.site.api.deployments import shown_machine
from deployer.site.api.machines import permitted_machine
from deployer.site.auth.grants import Action
from deployer.site.console.request import Console, Page, Visit
from deployer.site.console.templates import PREFIX


def serial_pages(console: Console) -> APIRouter:
    """Below a machine."""
    routes = APIRouter(prefix=PREFIX, route_class=Page)
    site = console.site
    visiting = Annotated[Visit, Depends(console.visit)]

    @routes.get("/machines/{machine}/console")
    async def serial(visit: visiting, machine: str) -> Response:
        found = await run_in_threadpool(permitted_machine, site, visit.who, machine, Action.CONSOLE)
        node = await run_in_threadpool(node_of, site, found)
        data = bytes_of(await ask(site, node, found.uuid, DEFAULT))
        values = {"machine": shown_machine(found), "text": readable(data), "size": len(data)}
        return await run_in_threadpool(lambda: console.show(visit, "serial.html", **values))

    return routes
