"""Responses: documents with entity tags, and contents in ranges, read in large chunks.

The address of a content is its entity tag: the bytes never change, so clients may cache them for ever.
"""

import asyncio
import hashlib
import os
from collections.abc import Callable
from functools import partial

import anyio
from fastapi import Request, Response
from pydantic import BaseModel
from starlette.types import Receive, Scope, Send

from catalog.content import multipart_ranges
from catalog.errors import RangeRefused
from catalog.image.address import Address
from catalog.schema.images import parse_range
from signer.documents import canonical

CHUNK_SIZE = 1 << 20
"""Bytes per read and send. Measured over loopback: 64 KiB 0.3 GB/s, 256 KiB 0.7 GB/s, 1 MiB 1.3 GB/s, 4 MiB no more."""

CACHE_FOREVER = "public, max-age=31536000, immutable"

_MINE = CACHE_FOREVER.replace("public", "private")
"""For responses to a credential, which shared caches must not store (RFC 9111, section 3.5)."""


def document_response(
    request: Request,
    body: BaseModel | bytes,
    *,
    tag: str | None = None,
    media_type: str = "application/json",
    cache: str = "no-cache",
) -> Response:
    """A JSON document, or 304 if the client has it (If-None-Match). `tag` is the entity tag, else the body's digest."""
    data = body if isinstance(body, bytes) else canonical(body)
    etag = f'"{tag or hashlib.sha256(data).hexdigest()[:32]}"'
    headers = {
        "ETag": etag,
        "Cache-Control": _MINE if cache == CACHE_FOREVER and "authorization" in request.headers else cache,
    }
    if _matches(request.headers.get("if-none-match", ""), etag):
        return Response(status_code=304, headers=headers)
    return Response(
        b"" if request.method == "HEAD" else data,
        media_type=media_type,
        headers=headers | {"Content-Length": str(len(data))},
    )


class RangeResponse(Response):
    """Bytes that never change under their tag, or ranges of them, read while they are sent.

    Args:
        size: number of bytes.
        tag: the entity tag.
        read: reads a number of bytes at an offset; fewer at the end.
        close: called at the end, to close open files.
    """

    def __init__(
        self, request: Request, size: int, tag: str, read: Callable[[int, int], bytes], close: Callable[[], None]
    ) -> None:
        super().__init__()
        self._read, self._close = read, close
        try:
            self._choose(request, size, f'"{tag}"')
        except RangeRefused:
            close()
            raise

    def _choose(self, request: Request, size: int, etag: str) -> None:
        """Set status, headers and the ranges to send, from the request's conditions."""
        self._size, self._several = size, False
        self._ranges = [(0, size)]
        fields = {
            "content-type": "application/octet-stream",
            "accept-ranges": "bytes",
            "etag": etag,
            "cache-control": _MINE if "authorization" in request.headers else CACHE_FOREVER,
        }
        if _matches(request.headers.get("if-none-match", ""), etag):
            self.status_code, self._ranges = 304, []
        else:
            wanted = request.headers.get("range")
            if wanted is not None and request.headers.get("if-range", etag) == etag:
                fields |= self._choose_ranges(wanted, size)
            fields.setdefault("content-length", str(sum(end - start for start, end in self._ranges)))
        if request.method == "HEAD":
            self._ranges = []
        self.raw_headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in fields.items()]

    def _choose_ranges(self, wanted: str, size: int) -> dict[str, str]:
        """Set the ranges to send; returns their headers."""
        self.status_code = 206
        several = multipart_ranges.parse_ranges(wanted, size)
        if several is None:
            start, end = parse_range(wanted, size)
            self._ranges = [(start, end)]
            return {"content-range": f"bytes {start}-{end - 1}/{size}"}
        self._ranges, self._several = several, True
        return {
            "content-type": multipart_ranges.BYTERANGES_MEDIA_TYPE,
            "content-length": str(multipart_ranges.multipart_length(several, size)),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        """Send the response (ASGI); stop reading if the client disconnects."""
        disconnected = asyncio.create_task(_disconnected(receive))
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            pending = bytearray()
            for start, end in self._ranges:
                if self._several:
                    pending += multipart_ranges.part_header((start, end), self._size)
                position = start
                while position < end and not disconnected.done():
                    length = min(CHUNK_SIZE, end - position)
                    data = await anyio.to_thread.run_sync(self._read, length, position)
                    if not data:
                        return  # shorter than its address says: close the connection early, so that the client notices
                    position += len(data)
                    if self._several:  # send small parts together
                        pending += data
                        if len(pending) < CHUNK_SIZE:
                            continue
                        data, pending = bytes(pending), bytearray()
                    await send({"type": "http.response.body", "body": data, "more_body": True})
                if disconnected.done():
                    return
            if self._several and self._ranges:
                pending += multipart_ranges.closing_delimiter()
                await send({"type": "http.response.body", "body": bytes(pending), "more_body": True})
            if not disconnected.done():
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            disconnected.cancel()
            self._close()


class ContentResponse(RangeResponse):
    """A content, or ranges of it, read from its descriptor while it is sent. Owns the descriptor."""

    def __init__(self, request: Request, descriptor: int, address: Address) -> None:
        read, close = partial(os.pread, descriptor), partial(os.close, descriptor)
        super().__init__(request, address.size, str(address), read, close)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _matches(header: str, etag: str) -> bool:
    """Whether If-None-Match (RFC 9110, section 13.1.2) has the tag, compared weakly, or `*`."""
    tags = {tag.strip().removeprefix("W/") for tag in header.split(",")}
    return etag in tags or "*" in tags
