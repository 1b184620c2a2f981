"""Path parameters, and request bodies with a limit, for the routes of services."""

from collections.abc import AsyncIterator
from typing import Annotated, Literal

from fastapi import Path, Request
from starlette.requests import ClientDisconnect

from catalog.errors import Malformed, TooLarge, Unavailable
from catalog.image.address import Address

DRAINED = 16 << 20
"""Bytes of an oversized body that are read and discarded, so that its sender reads the response."""

IMAGE_ID = Annotated[
    str,
    Path(
        pattern=r"^sha256:[0-9a-f]{64}$",
        description="Image ID: `sha256:` and 64 hex digits.",
        examples=["sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"],
    ),
]
ADDRESS = Annotated[
    str,
    Path(
        max_length=80,
        description="Address of a content: 64 hex digits, `-`, the size in bytes.",
        examples=["fcde2b2edba56bf408601fb721fe9b5c338d10ee429ea04fae5511b68fbf8fb9-1048576"],
    ),
]
ARTIFACT = Annotated[Literal["map", "layer", "hints"], Path(description="The accelerator.")]


def parse_address(text: str) -> Address:
    """Parse the address in a path; Malformed if it is invalid."""
    try:
        return Address.parse(text)
    except ValueError as exc:
        raise Malformed(str(exc)) from exc


async def read_body(request: Request, limit: int, what: str) -> bytes:
    """Read the whole body of a request; TooLarge if it has more than `limit` bytes."""
    data = bytearray()
    async for piece in stream_body(request, limit, what):
        data += piece
    return bytes(data)


async def stream_body(request: Request, limit: int, what: str) -> AsyncIterator[bytes]:
    """Yield the body as it arrives, at most `limit` bytes.

    Raises:
        TooLarge: the body is longer. Some of it is read first, as a client reads no response while it is sending.
        Unavailable: the client disconnected.
    """
    announced = request.headers.get("content-length", "")
    count = 0
    try:
        if not (announced.isdigit() and int(announced) > limit + DRAINED):
            async for piece in request.stream():
                count += len(piece)
                if count <= limit:
                    yield piece
                elif count > limit + DRAINED:
                    break
            if count <= limit:
                return
    except ClientDisconnect as exc:
        raise Unavailable("the client disconnected before the request was complete; send it again") from exc
    raise TooLarge(f"{what} has at most {limit} bytes here")
