"""The routes of what can be done to machines that exist: parse, call, render."""

from datetime import timedelta

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from deployer.node.api.messages import document_response, read_document
from deployer.node.node import Node
from deployer.node.schema.machines import MAX_ASKED, ExtendRequest, OperationName, ResizeRequest, SavedImage, SaveOrder
from deployer.records.machine_store import MachineRecord


def verb_routes(node: Node) -> APIRouter:
    """Under /v2/machines."""
    routes = APIRouter()
    store, verbs = node.keeper.store, node.verbs

    @routes.post("/machines/{name}/resize", summary="Resize a machine within its maximum", response_model=MachineRecord)
    async def resize(name: str, request: Request) -> Response:
        sized = await read_document(request, ResizeRequest, "request", MAX_ASKED)
        record = store.find(name)
        memory, cores = sized.memory or record.memory, sized.cores or record.cores
        return document_response(await run_in_threadpool(verbs.resize, record.uuid, memory, cores))

    @routes.post("/machines/{name}/extend", summary="Change when a machine expires", response_model=MachineRecord)
    async def extend(name: str, request: Request) -> Response:
        lasting = await read_document(request, ExtendRequest, "request", MAX_ASKED)
        expires = node.keeper.now() + timedelta(seconds=lasting.lifetime)
        return document_response(await run_in_threadpool(verbs.extend, store.find(name).uuid, expires))

    @routes.post(
        "/machines/{name}/save",
        summary="Save a machine as a new, unendorsed version of its image",
        response_model=SavedImage,
    )
    async def save(name: str, request: Request) -> Response:
        order = await read_document(request, SaveOrder, "request", MAX_ASKED)
        return document_response(await run_in_threadpool(node.saver.save, store.find(name).uuid, order))

    @routes.get("/machines/{name}/addresses", summary="List a machine's IP addresses")
    def addresses(name: str) -> tuple[str, ...]:
        return node.keeper.hypervisor.addresses(store.find(name).uuid)

    @routes.post("/machines/{name}/do/{verb}", summary="Pause, resume, suspend, reactivate, stop or reboot a machine")
    def do(name: str, verb: OperationName) -> Response:
        return document_response(getattr(verbs, verb)(store.find(name).uuid))

    return routes
