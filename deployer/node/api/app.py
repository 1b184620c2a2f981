"""The node's HTTP interface, on its Unix socket: parse, call, render. Decides nothing.

Every process that may open the socket may do everything; the socket belongs to the node's user alone.
"""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, FastAPI, Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.concurrency import run_in_threadpool

from catalog.schema.problems import INTERNAL, to_problem
from catalog.web.problems import ProblemApi
from deployer.errors import Cancelled, DeployerError
from deployer.machine.state import MachineState
from deployer.node.api.machines import verb_routes
from deployer.node.api.messages import document_response, read_document
from deployer.node.api.staging import staging_routes
from deployer.node.machines.console import read_console_from
from deployer.node.node import Node
from deployer.node.schema.orders import (
    MAX_ORDER,
    MAX_WAIT,
    NODE_API_VERSION,
    RETIRED_NODE_API_VERSIONS,
    DeploymentStep,
    ExposureList,
    MachineList,
    NodeStatus,
)
from deployer.protocol.console import OFFSET_HEADER, STATE_HEADER, WRITING_STATES
from deployer.protocol.machine_order import MachineOrder
from deployer.records.machine_store import MachineRecord
from signer.errors import PartitaError

LINES = "application/x-ndjson"
MAX_CONSOLE_READ = 1 << 20
"""Bytes of a console in one answer."""

LOOK_EVERY = 0.1
"""Seconds between two checks of a console that is followed, or for a disconnected client."""

log = logging.getLogger("partita.node")


def create_node_app(node: Node) -> FastAPI:
    """The application over a node."""
    app = ProblemApi(
        log,
        DeployerError,
        retired=RETIRED_NODE_API_VERSIONS,
        title="Partita node",
        version="2",
        summary="Deploys images on one node and keeps its machines.",
    )
    app.include_router(_node_routes(node), prefix=f"/{NODE_API_VERSION}")
    app.include_router(_machine_routes(node), prefix=f"/{NODE_API_VERSION}")
    app.include_router(verb_routes(node), prefix=f"/{NODE_API_VERSION}")
    app.include_router(staging_routes(node.stager, node.images), prefix=f"/{NODE_API_VERSION}")
    return app


def _node_routes(node: Node) -> APIRouter:
    routes = APIRouter()

    @routes.get("/status", summary="How the node is doing", response_model=NodeStatus)
    def status() -> Response:
        return document_response(node.status())

    @routes.get(
        "/exposure",
        summary="List the machines that run an image, or images that a key endorsed",
        response_model=ExposureList,
    )
    def exposure(
        of: Annotated[str, Query(max_length=1100, description="Image or key; empty means all.")] = "",
    ) -> Response:
        return document_response(node.watcher.exposure(of))

    @routes.post("/decisions", summary="Evaluate the policy for an order without deploying it")
    async def decide(request: Request) -> Response:
        order = await read_document(request, MachineOrder, "order", MAX_ORDER)
        decision = await run_in_threadpool(node.decide, order)
        return JSONResponse(decision.as_json())

    @routes.post(
        "/deployments",
        summary="Carry out an order; a line of JSON for each step, the last with the result or the problem",
        response_class=StreamingResponse,
    )
    async def deploy(request: Request) -> Response:
        order = await read_document(request, MachineOrder, "order", MAX_ORDER)
        return StreamingResponse(_steps(node, order, request), media_type=LINES)

    return routes


def _machine_routes(node: Node) -> APIRouter:
    routes = APIRouter()
    store = node.keeper.store

    @routes.get("/machines", summary="All machines, the oldest first", response_model=MachineList)
    def machines() -> Response:
        return document_response(MachineList(machines=tuple(store.all())))

    @routes.get(
        "/machines/{name}", summary="One machine, by UUID, its beginning, or name", response_model=MachineRecord
    )
    def machine(name: str) -> Response:
        return document_response(store.find(name))

    @routes.get("/machines/{name}/console", summary="Read a machine's serial console", response_class=Response)
    async def console(
        name: str,
        offset: Annotated[int, Query(ge=0, description="The first byte wanted.")] = 0,
        wait: Annotated[float, Query(ge=0, le=MAX_WAIT, description="Seconds to wait for bytes.")] = 0.0,
    ) -> Response:
        record = store.find(name)
        loop = asyncio.get_running_loop()
        until = loop.time() + wait
        while True:
            start, data = await run_in_threadpool(
                read_console_from, store.console(record.uuid), offset, MAX_CONSOLE_READ
            )
            over = store.get(record.uuid).state not in WRITING_STATES
            if data or over or loop.time() >= until:
                break
            await asyncio.sleep(LOOK_EVERY)
        headers = {OFFSET_HEADER: str(start), STATE_HEADER: store.get(record.uuid).state.value}
        return Response(data, media_type="application/octet-stream", headers=headers)

    @routes.post("/machines/{name}/shutdown", summary="Ask the guest to power off", response_model=MachineRecord)
    def shutdown(
        name: str,
        wait: Annotated[float, Query(ge=0, le=MAX_WAIT, description="Seconds to wait for its end.")] = 0.0,
        ask: Annotated[bool, Query(description="False only waits.")] = True,
    ) -> Response:
        record = store.find(name)
        if ask:
            record = node.keeper.shutdown(record.uuid)
        if wait:
            record = node.keeper.wait(
                record.uuid, frozenset({MachineState.STOPPED, MachineState.ENDED, MachineState.FAILED}), wait
            )
        return document_response(record)

    @routes.delete("/machines/{name}", summary="End a machine and remove its files", response_model=MachineRecord)
    def destroy(name: str) -> Response:
        return document_response(node.keeper.destroy(store.find(name).uuid))

    return routes


async def _steps(node: Node, order: MachineOrder, request: Request) -> AsyncIterator[bytes]:
    """The lines of a deployment. A client that goes away cancels it."""
    loop = asyncio.get_running_loop()
    lines: asyncio.Queue[DeploymentStep | None] = asyncio.Queue()
    cancelled = threading.Event()

    def tell(step: DeploymentStep | None) -> None:
        loop.call_soon_threadsafe(lines.put_nowait, step)

    def work() -> None:
        try:
            result = node.deploy(order, tell, cancelled)
            tell(DeploymentStep(step="done", text=f"{len(result.machines)} running", result=result))
        except Cancelled as exc:
            log.info("%s", exc)
            tell(DeploymentStep(step="failed", problem=to_problem(exc)))
        except PartitaError as exc:
            tell(DeploymentStep(step="failed", text=str(exc), problem=to_problem(exc)))
        except Exception:
            log.exception("a deployment failed")
            tell(DeploymentStep(step="failed", problem=to_problem(DeployerError(INTERNAL))))
        finally:
            tell(None)

    # A thread of its own: the pool's threads are for answers that come at once.
    threading.Thread(target=work, name="deployment", daemon=True).start()
    try:
        while True:
            try:
                step = await asyncio.wait_for(lines.get(), LOOK_EVERY)
            except TimeoutError:
                if await request.is_disconnected():
                    return
                continue
            if step is None:
                return
            yield step.model_dump_json(exclude_none=True).encode() + b"\n"
    finally:
        cancelled.set()
