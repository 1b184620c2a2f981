"""What the routes share: path parameters, and request bodies with a limit."""

from collections.abc import AsyncIterator
from typing import Annotated, Literal

from fastapi import Path, Request
from starlette.requests import ClientDisconnect

from catalog.errors import Malformed, TooLarge, Unavailable
from catalog.image.address import Address

DRAINED = 16 << 20
"""Bytes of an oversized body that are read and thrown away, so that its sender gets to see why."""

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
ARTIFACT = Annotated[Literal["map", "layer", "hints"], Path(description="Which one.")]


def parse_address(text: str) -> Address:
    """The address in a path; Malformed if it is none."""
    try:
        return Address.parse(text)
    except ValueError as exc:
        raise Malformed(str(exc)) from exc


async def read_body(request: Request, limit: int, what: str) -> bytes:
    """The whole body of a request, up to `limit` bytes; TooLarge beyond."""
    data = bytearray()
    async for piece in stream_body(request, limit, what):
        data += piece
    return bytes(data)


async def stream_body(request: Request, limit: int, what: str) -> AsyncIterator[bytes]:
    """The body as it arrives; never more than `limit` bytes of it.

    Raises:
        TooLarge: there is more. Some of it is read first: who is still sending does not see an answer.
        Unavailable: the client went away.
    """
    told = request.headers.get("content-length", "")
    count = 0
    try:
        if not (told.isdigit() and int(told) > limit + DRAINED):
            async for piece in request.stream():
                count += len(piece)
                if count <= limit:
                    yield piece
                elif count > limit + DRAINED:
                    break
            if count <= limit:
                return
    except ClientDisconnect as exc:
        raise Unavailable("the connection was cut before the request was whole; send it again") from exc
    raise TooLarge(f"{what} has at most {limit} bytes here")
