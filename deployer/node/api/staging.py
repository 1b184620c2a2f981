"""The node's routes about contents: what is arriving, fetching ahead, pins. No policy is asked: nothing boots by these."""

import asyncio
import logging
import threading
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import asdict

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from catalog.client.trusted import TrustedCatalog
from catalog.image.manifest import Manifest
from catalog.image.reference import Reference
from catalog.schema.problems import INTERNAL, to_problem
from deployer.errors import DeployerError
from deployer.node.api.messages import document_response, read_document
from deployer.node.schema.orders import MAX_ORDER
from deployer.node.schema.staging import (
    ContentStatus,
    PinStatus,
    PrefetchOrder,
    PrefetchResult,
    PrefetchStep,
    StagingStatus,
    SwarmStatus,
    UnpinResult,
)
from signer.errors import PartitaError
from stager.cache.entries import PIN
from stager.content.transfer_stats import TransferProgress
from stager.staging import StagedImage, Stager, total_size

log = logging.getLogger("partita.node")

TELL = 0.25
"""Seconds between two lines of progress."""

PREFETCH = "prefetch:"
"""Holders of what was fetched ahead begin so; the image ID follows."""


def staging_status(stager: Stager) -> StagingStatus:
    """The node's contents as they stand."""
    holders = (lease.holder for lease in stager.cache.leases())
    pins = Counter(holder.removeprefix(PIN) for holder in holders if holder.startswith(PIN))
    sharing = stager.sharing
    return StagingStatus(
        arriving=tuple(_content(one) for one in stager.transfers.snapshot()),
        lately=tuple(_content(one) for one in stager.transfers.recent()),
        **asdict(stager.cache.usage()),
        pins=tuple(PinStatus(image_id=image_id, contents=count) for image_id, count in sorted(pins.items())),
        swarm=SwarmStatus(
            contents=sharing.contents(),
            port=sharing.swarm.port,
            peers=sharing.peers,
            sent=sharing.sent,
            name=sharing.swarm.name,
        )
        if sharing is not None
        else None,
    )


def _content(one: TransferProgress) -> ContentStatus:
    return ContentStatus.model_validate(one, from_attributes=True)


def staging_routes(stager: Stager, images: TrustedCatalog) -> APIRouter:
    """The routes over a node's stager and its catalog."""
    routes = APIRouter()

    @routes.get("/staging", summary="Show transfers under way and the use of the cache", response_model=StagingStatus)
    def staging() -> Response:
        return document_response(staging_status(stager))

    @routes.post(
        "/prefetches",
        summary="Fetch an image ahead of its use; lines of JSON report progress, the last the result",
        response_class=StreamingResponse,
    )
    async def prefetch(request: Request) -> Response:
        order = await read_document(request, PrefetchOrder, "prefetch", MAX_ORDER)
        manifest = await run_in_threadpool(_look_up, images, order.image)
        return StreamingResponse(_lines(stager, manifest, order), media_type="application/x-ndjson")

    @routes.delete("/pins/{image:path}", summary="Unpin an image", response_model=UnpinResult)
    def unpin(image: str) -> Response:
        image_id = images.resolve(Reference.parse(image))
        return document_response(UnpinResult(image_id=image_id, released=stager.unpin(image_id)))

    return routes


def _look_up(images: TrustedCatalog, image: str) -> Manifest:
    return images.manifest(images.resolve(Reference.parse(image)))


async def _lines(stager: Stager, manifest: Manifest, order: PrefetchOrder) -> AsyncIterator[bytes]:
    """The lines of a prefetch. It goes on when the client goes away: what is here is here."""
    lock, done = threading.Lock(), [0]
    ended: asyncio.Future[PrefetchStep] = asyncio.get_running_loop().create_future()
    loop, whole = asyncio.get_running_loop(), total_size(manifest)

    def advance(count: int) -> None:
        with lock:
            done[0] += count

    def tell(step: PrefetchStep) -> None:
        if not ended.cancelled():
            ended.set_result(step)

    def work() -> None:
        try:
            if order.pin:
                staged = stager.pin(manifest, advance)
            else:
                staged = stager.stage(manifest, PREFETCH + manifest.image_id, order.keep, advance)
            step = PrefetchStep(done=whole, total=whole, result=_result(manifest, staged))
        except PartitaError as exc:
            step = PrefetchStep(done=done[0], total=whole, problem=to_problem(exc))
        except Exception:
            log.exception("a prefetch failed")
            step = PrefetchStep(done=done[0], total=whole, problem=to_problem(DeployerError(INTERNAL)))
        loop.call_soon_threadsafe(tell, step)

    threading.Thread(target=work, name="prefetch", daemon=True).start()
    while not ended.done():
        await asyncio.wait([ended], timeout=TELL)
        if not ended.done():
            yield _line(PrefetchStep(done=done[0], total=whole))
    yield _line(ended.result())


def _result(manifest: Manifest, staged: StagedImage) -> PrefetchResult:
    return PrefetchResult(
        image_id=manifest.image_id,
        title=manifest.title,
        from_cache=staged.from_cache + staged.resumed + staged.copied,
        from_peers=staged.from_peers,
        from_origin=staged.from_network - staged.from_peers,
        blanks_made=staged.made,
    )


def _line(step: PrefetchStep) -> bytes:
    return step.model_dump_json(exclude_none=True).encode() + b"\n"
