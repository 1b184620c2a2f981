"""What the routes share: path parameters, request bodies with a limit, and the problems that a route documents."""

from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import Path, Request
from starlette.requests import ClientDisconnect

from catalog.errors import CatalogError, Malformed, TooLarge, Unavailable
from catalog.image.address import Address
from catalog.schema.images import Problem
from catalog.schema.problems import PROBLEM_MEDIA_TYPE, to_problem

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

_DESCRIPTIONS = {
    400: "The request is malformed; the detail gives the place.",
    403: "Who asks may not do this here.",
    404: "It is not here.",
    409: "It is here with another meaning, or not ready for this.",
    413: "More than this catalog accepts.",
    416: "The range is malformed or outside the content.",
    422: "The bytes are not what they were said to be.",
    503: "The catalog cannot answer now; try again later.",
}


def problem_responses(*kinds: type[CatalogError]) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that may end with these errors, with an example of each."""
    found: dict[int | str, dict[str, Any]] = {}
    for kind in kinds:
        entry = found.setdefault(
            kind.status,
            {
                "model": Problem,
                "description": _DESCRIPTIONS[kind.status],
                "content": {PROBLEM_MEDIA_TYPE: {"examples": {}}},
            },
        )
        sentence = (kind.__doc__ or "").strip().splitlines()[0]
        entry["content"][PROBLEM_MEDIA_TYPE]["examples"][kind.code] = {"value": to_problem(kind(sentence))}
    return found


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
