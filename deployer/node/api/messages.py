"""How every route of the node reads its request and writes its response: documents, with a limit on what is read."""

from typing import TypeVar

from fastapi import Request, Response

from catalog.errors import Misused
from signer.documents import Document, parse

D = TypeVar("D", bound=Document)


async def read_document(request: Request, model: type[D], what: str, limit: int) -> D:
    """The request's body as a document; Misused if it has more than `limit` bytes."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise Misused(f"the {what} has more than the {limit} bytes allowed")
    return parse(model, bytes(body), what, limit=limit)


def document_response(value: Document) -> Response:
    """A document as JSON."""
    return Response(value.model_dump_json(exclude_none=True), media_type="application/json")
