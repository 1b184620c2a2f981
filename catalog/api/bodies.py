"""Request and response bodies: how routes read them, and how /openapi.json documents them; and a common filter."""

from typing import Annotated, Any, TypeVar

from fastapi import Query, Request

from catalog.schema.images import MAX_REQUEST_DOCUMENT
from catalog.web.parameters import read_body
from signer.documents import Document, parse

D = TypeVar("D", bound=Document)

VO_FILTER = Annotated[str | None, Query(max_length=64, description="Only of this VO.", examples=["star"])]

BINARY_RESPONSE: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/octet-stream": {"example": "(bytes)"}}}
}
"""The `responses` of a route that answers with bytes."""

RANGE_RESPONSES: dict[int | str, dict[str, Any]] = BINARY_RESPONSE | {
    206: {"description": "The range asked for.", "content": {"application/octet-stream": {"example": "(bytes)"}}}
}
"""The `responses` of a route that answers with bytes, or a range of them."""


def request_body(model: type[Document]) -> dict[str, Any]:
    """The `openapi_extra` of a route that parses its body with `read_document`: strictly, which FastAPI does not."""
    schema = model.model_json_schema()
    example = schema.pop("examples")[0]
    for name, inner in schema.pop("$defs", {}).items():
        schema["properties"]["endorsements"]["items"] = inner | {"title": name}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema, "example": example}}}}


async def read_document(request: Request, model: type[D], what: str, limit: int = MAX_REQUEST_DOCUMENT) -> D:
    """The JSON document in a request's body; `what` names it in errors.

    Raises:
        TooLarge: the body has more than `limit` bytes.
        DocumentError: it is malformed.
    """
    return parse(model, await read_body(request, limit, f"the {what}"), what, limit=limit)
