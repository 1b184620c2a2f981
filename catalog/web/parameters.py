"""What the routes of services share: their description for OpenAPI, path parameters, and request bodies with a limit."""

from collections.abc import AsyncIterator
from typing import Annotated, Any, TypeVar

from fastapi import Path, Query, Request, Response
from starlette.requests import ClientDisconnect

from catalog.content.content_store import AcceleratorKind
from catalog.errors import Malformed, TooLarge, Unavailable
from catalog.image.address import Address
from catalog.schema.images import MAX_REQUEST_DOCUMENT
from catalog.web.problems import problem_responses
from signer.documents import Document, parse
from signer.errors import PartitaError

D = TypeVar("D", bound=Document)
Responses = dict[int | str, dict[str, Any]]

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
ARTIFACT = Annotated[AcceleratorKind, Path(description="The accelerator.")]
VO_FILTER = Annotated[str | None, Query(max_length=64, description="Only of this VO.", examples=["star"])]


def example_response(media_type: str, example: object) -> Responses:
    """The `responses` of a route whose answer has no model."""
    return {200: {"content": {media_type: {"example": example}}}}


BINARY_RESPONSE = example_response("application/octet-stream", "(bytes)")
"""The `responses` of a route that answers with bytes."""

RANGE_RESPONSES: Responses = BINARY_RESPONSE | {
    206: {"description": "The range asked for.", "content": {"application/octet-stream": {"example": "(bytes)"}}}
}
"""The `responses` of a route that answers with bytes, or a range of them."""


def described(
    summary: str,
    model: type[Document] | None,
    *errors: type[PartitaError],
    body: type[Document] | None = None,
    responses: Responses | None = None,
    **options: Any,
) -> dict[str, Any]:
    """The options of a route that describe it in the OpenAPI document.

    Args:
        summary: what a request does, in the imperative.
        model: of the document in the response; None for other responses, such as bytes.
        errors: with which it may end; an example of each is shown.
        body: the model of the request's document.
        responses: to show besides those of the errors.
        options: others of FastAPI.
    """
    kind = {"response_class": Response} if model is None else {"response_model": model}
    extra = {} if body is None else {"openapi_extra": request_body(body)}
    return {"summary": summary, "responses": problem_responses(*errors) | (responses or {})} | kind | extra | options


def request_body(model: type[Document]) -> dict[str, Any]:
    """The `openapi_extra` of a route that parses its body with `read_document`: strictly, which FastAPI does not."""
    schema = model.model_json_schema()
    example = schema.pop("examples")[0]
    for name, inner in schema.pop("$defs", {}).items():
        schema["properties"]["endorsements"]["items"] = inner | {"title": name}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema, "example": example}}}}


def parse_address(text: str) -> Address:
    """Parse the address in a path; Malformed if it is invalid."""
    try:
        return Address.parse(text)
    except ValueError as exc:
        raise Malformed(str(exc)) from exc


async def read_document(request: Request, model: type[D], what: str, limit: int = MAX_REQUEST_DOCUMENT) -> D:
    """The JSON document in a request's body; `what` names it in errors.

    Raises:
        TooLarge: the body has more than `limit` bytes.
        DocumentError: it is malformed.
    """
    return parse(model, await read_body(request, limit, f"the {what}"), what, limit=limit)


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
