"""The console's page of what a machine's guest writes: asked of its node for this page, shown as text, and kept nowhere."""

from typing import Annotated

from fastapi import APIRouter, Depends, Response
from starlette.concurrency import run_in_threadpool

from deployer.serial import readable
from deployer.site.api_deployments import shown_machine
from deployer.site.api_machines import find_machine
from deployer.site.api_serial import DEFAULT, ask, bytes_of, node_of
from deployer.site.pages import PREFIX
from deployer.site.rights import Action
from deployer.site.visiting import Console, Page, Visit


def serial_pages(console: Console) -> APIRouter:
    """Below a machine."""
    routes = APIRouter(prefix=PREFIX, route_class=Page)
    site = console.site
    visiting = Annotated[Visit, Depends(console.visit)]

    @routes.get("/machines/{machine}/console")
    async def serial(visit: visiting, machine: str) -> Response:
        found = await run_in_threadpool(find_machine, site, visit.who, machine, Action.CONSOLE)
        node = await run_in_threadpool(node_of, site, found)
        data = bytes_of(await ask(site, node, found.uuid, DEFAULT))
        values = {"machine": shown_machine(found), "text": readable(data), "size": len(data)}
        return await run_in_threadpool(lambda: console.show(visit, "serial.html", **values))

    return routes
