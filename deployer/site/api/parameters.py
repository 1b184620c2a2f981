"""Parameters, bodies, answers and documentation that the routes of a site's service share."""

from typing import Annotated, Any, TypeVar

from fastapi import Header, Path, Query, Request, Response
from fastapi.security import HTTPBearer

from catalog.web.parameters import read_body
from catalog.web.responses import document_response as answer
from deployer.site.auth.grants import SiteAction
from deployer.site.schema.messages import MAX_IDEMPOTENCY_KEY, MAX_PAGE, MAX_SMALL, PAGE_SIZE, ReasonRequest
from signer.documents import Document, parse

__all__ = ["answer"]

BEARER = HTTPBearer(
    auto_error=False,
    scheme_name="token",
    description="A token of an issuer that the site trusts. Alternatively, present a certificate in the TLS handshake.",
)

LimitQuery = Annotated[int, Query(ge=1, le=MAX_PAGE, description="Most items on a page.")]
AfterQuery = Annotated[
    str | None,
    Query(max_length=64, pattern=r"^[0-9]{1,18}$", description="`next` of the previous page.", examples=["41"]),
]
DeploymentParameter = Annotated[
    str,
    Path(
        max_length=36,
        pattern=r"^[0-9a-f-]{4,36}$",
        description="UUID of a deployment, or its beginning.",
        examples=["0b8a2c9e-58f5-4b7a-9a52-0a54ab4f4a3f"],
    ),
]
MachineParameter = Annotated[
    str,
    Path(
        max_length=255,
        description="UUID of a machine, its beginning, or its host name.",
        examples=["7d1f0a3c-0d55-4b1e-8a8e-2f6f0b1c9d77"],
    ),
]
NodeParameter = Annotated[
    str,
    Path(max_length=63, description="UUID of a node, its beginning, or its name.", examples=["worker07"]),
]
DEFAULT_PAGE = PAGE_SIZE

IdempotencyKey = Annotated[
    str,
    Header(
        alias="Idempotency-Key",
        max_length=MAX_IDEMPOTENCY_KEY,
        pattern=r"^[!-~]*$",
        description="A repeated request with the same key and content returns the same answer.",
        examples=["6e3f4f52-2b3a-4a42-8a60-2f7d8b0d6f31"],
    ),
]
DryRunQuery = Annotated[bool, Query(description="Only return what would happen.")]

D = TypeVar("D", bound=Document)


def openapi_extra(action: SiteAction | None, *takes: type[Document], required: bool = True) -> dict[str, Any]:
    """Additions to OpenAPI: the action that a route is (`x-action`), and the schema of its body."""
    extra: dict[str, Any] = {"x-action": action.value if action else "none"}
    for model in takes:
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
        schema.pop("$defs", None)
        examples = schema.pop("examples", None)
        content: dict[str, Any] = {"schema": schema}
        if examples:
            content["example"] = examples[0]
        extra["requestBody"] = {"required": required, "content": {"application/json": content}}
    return extra


async def read_document(request: Request, model: type[D], what: str, limit: int = MAX_SMALL) -> D:
    """Parse the body of a request as a document.

    Raises:
        TooLarge: it has more than `limit` bytes. DocumentError: it is none; says where.
    """
    return parse(model, await read_body(request, limit, what), what, limit=limit)


async def read_optional_body(request: Request, model: type[D], what: str) -> D:
    """Parse an optional body; without one, a document of defaults."""
    data = await read_body(request, MAX_SMALL, what)
    return parse(model, data or b"{}", what, limit=MAX_SMALL)


async def read_reason(request: Request) -> str:
    """The reason in an optional body, or an empty string."""
    return (await read_optional_body(request, ReasonRequest, "reason")).reason


def no_content() -> Response:
    """An empty answer (204)."""
    return Response(status_code=204)
