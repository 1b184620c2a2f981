"""The console's page of a machine's serial output: fetched from its node for this page, shown as text, stored nowhere."""

from typing import Annotated

from fastapi import APIRouter, Depends, Response
from starlette.concurrency import run_in_threadpool

from deployer.protocol.console import sanitize_output
from deployer.site.api.console_output import DEFAULT, console_node, decode_output, request_console_output
from deployer.site.api.machines import permitted_machine
from deployer.site.auth.grants import SiteAction
from deployer.site.console.request import Console, PageRequest, PageRoute
from deployer.site.console.templates import CONSOLE_PREFIX
from deployer.site.schema.views import MachineView


def console_output_pages(console: Console) -> APIRouter:
    """The route below a machine."""
    routes = APIRouter(prefix=CONSOLE_PREFIX, route_class=PageRoute)
    site = console.site
    visiting = Annotated[PageRequest, Depends(console.visit)]

    @routes.get("/machines/{machine}/console")
    async def serial(visit: visiting, machine: str) -> Response:
        found = await run_in_threadpool(permitted_machine, site, visit.who, machine, SiteAction.CONSOLE)
        node = await run_in_threadpool(console_node, site, found)
        data = decode_output(await request_console_output(site, node, found.uuid, DEFAULT))
        values = {"machine": MachineView.of(found), "text": sanitize_output(data), "size": len(data)}
        return await run_in_threadpool(lambda: console.show(visit, "serial.html", **values))

    return routes
