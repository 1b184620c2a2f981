"""The route of a machine's serial console, and the one by which nodes send it. Unchanged bytes, never stored."""

import base64
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.responses import StreamingResponse
from fastapi.sse import format_sse_event
from starlette.concurrency import run_in_threadpool

from catalog.errors import Malformed
from deployer.errors import Forbidden, MachineConflict, MachineNotFound, SiteUnavailable
from deployer.machine.state import MachineState
from deployer.protocol.console import OFFSET_HEADER, STATE_HEADER, WRITING_STATES
from deployer.protocol.desired_state import MAX_CONSOLE_CHUNK, ConsoleResponse
from deployer.site.api.events import MAX_STREAM, RETRY_MILLISECONDS, STREAM
from deployer.site.api.machines import permitted_machine
from deployer.site.api.nodes import AGENT_ERRORS
from deployer.site.api.parameters import MachineParameter, SiteRouter, action, no_content, read_document
from deployer.site.auth.grants import SiteAction
from deployer.site.db.nodes import get_node
from deployer.site.model.principal import Principal
from deployer.site.model.records import NodeState, SiteMachine
from deployer.site.scheduling.placement import EC2
from deployer.site.schema.messages import HEARTBEAT, ConsoleChunk
from deployer.site.service.site import Site
from signer.documents import canonical

DEFAULT = 64 << 10
"""Default bytes of a console's end: some hundred lines, a boot with all its messages."""

MAX_ANSWER = 2 * MAX_CONSOLE_CHUNK
"""Bytes of a node's answer: in base64, with its few other members."""


def console_output_routes(site: Site) -> APIRouter:
    """Under /v2/machines/{machine}/console."""
    routes = SiteRouter("/machines", "machines")
    who_asks = Annotated[Principal, Depends(site.access.who)]

    @routes.operation(
        "GET /{machine}/console",
        "Read a machine's serial console",
        response_class=Response,
        responses={
            200: {
                "content": {
                    "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
                    STREAM: {"example": 'id: 4711\nevent: console\ndata: {"data":"bG9naW46IA==","start":4704}\n\n'},
                }
            }
        },
    )
    @action(SiteAction.CONSOLE, Malformed, MachineNotFound, Forbidden, MachineConflict)
    async def console(
        who: who_asks,
        machine: MachineParameter,
        most: Annotated[
            int, Query(alias="bytes", ge=1, le=MAX_CONSOLE_CHUNK, description="Most bytes, from its end.")
        ] = DEFAULT,
        follow: Annotated[bool, Query(description="Continue as it is written (server-sent events).")] = False,
        last: Annotated[
            str | None,
            Header(alias="Last-Event-ID", max_length=18, pattern=r"^[0-9]+$", description="Continue after this byte."),
        ] = None,
    ) -> Response:
        """The unchanged bytes, with escape sequences: sanitize them before printing. `Partita-Offset` is their start."""
        found = await run_in_threadpool(permitted_machine, site, who, machine, SiteAction.CONSOLE)
        node = await run_in_threadpool(console_node, site, found)
        after = int(last) if last is not None and follow else None
        answer = await request_console_output(site, node, found.uuid, most, after)
        if follow:
            headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
            return StreamingResponse(_pieces(site, node, found.uuid, answer), media_type=STREAM, headers=headers)
        headers = {
            OFFSET_HEADER: str(answer.start),
            STATE_HEADER: (answer.state or found.state).value,
            "Cache-Control": "no-store",
        }
        headers["X-Content-Type-Options"] = "nosniff"
        return Response(decode_output(answer), media_type="application/octet-stream", headers=headers)

    return routes


def console_answer_routes(site: Site) -> APIRouter:
    """Under /v2/agent: where nodes answer requests for output."""
    routes = SiteRouter("/agent", "agents", AGENT_ERRORS)
    node_asks = Annotated[str, Depends(site.access.node)]

    @routes.operation(
        "POST /console",
        "Send console output that the site requested",
        takes=ConsoleResponse,
        status_code=204,
        response_class=Response,
    )
    @action(SiteAction.AGENT)
    async def answered(request: Request, node: node_asks) -> Response:
        """Output that no client waits for any more is dropped."""
        site.console_requests.answered(node, await read_document(request, ConsoleResponse, "answer", MAX_ANSWER))
        return no_content()

    return routes


def console_node(site: Site, machine: SiteMachine) -> str:
    """The node that has a machine's console.

    Raises:
        MachineConflict: no node has one; says why. SiteUnavailable: the node is lost.
    """
    if machine.removed_from_node or (machine.state.final and machine.node is None):
        raise MachineConflict(f"machine {machine.hostname} has ended, and its console was removed")
    if machine.node is None or machine.withheld or machine.state is MachineState.PENDING:
        raise MachineConflict(f"machine {machine.hostname} has no console yet: no node has started it")
    node = site.store.read(get_node, machine.node, contents=False)
    if node.kind == EC2:
        raise MachineConflict(f"machine {machine.hostname} runs at EC2, where its console cannot be read")
    if node.state is NodeState.LOST:
        raise SiteUnavailable(
            f"the node of machine {machine.hostname} is lost; its console can be read when it is back"
        )
    return machine.node


async def request_console_output(
    site: Site, node: str, machine: str, most: int, after: int | None = None, wait: float = 0.0
) -> ConsoleResponse:
    """A node's output of a machine's console; MachineConflict where it has none, SiteUnavailable without an answer."""
    answer = await site.console_requests.ask(node, machine, most, after, wait)
    if answer.state is None:
        raise MachineConflict("the machine's node has no console of it, or cannot read it; see the node's log")
    return answer


def decode_output(answer: ConsoleResponse) -> bytes:
    """The bytes of an answer."""
    return base64.b64decode(answer.data)


async def _pieces(site: Site, node: str, machine: str, answer: ConsoleResponse) -> AsyncIterator[bytes]:
    """The console as it is written, until the machine or the service ends, or the stream has lasted MAX_STREAM."""
    until = site.wakeup.time() + MAX_STREAM
    yield format_sse_event(retry=RETRY_MILLISECONDS)
    while True:
        end = answer.start + len(decode_output(answer))
        if answer.data:
            piece = ConsoleChunk(start=answer.start, data=answer.data, state=answer.state or MachineState.ENDED)
            yield format_sse_event(event="console", data_str=canonical(piece).decode(), id=str(end))
        else:
            yield format_sse_event(comment="alive", id=str(end))
            if answer.state not in WRITING_STATES:
                yield format_sse_event(event="end", data_str="{}")
                return
        if site.wakeup.ended or site.wakeup.time() >= until:
            return
        try:
            answer = await request_console_output(site, node, machine, DEFAULT, end, HEARTBEAT)
        except (MachineConflict, SiteUnavailable):
            return  # the client reconnects, and gets the reason then
