"""Parameters, bodies, answers and documentation that the routes of a site's service share."""

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Header, Path, Query, Request, Response
from fastapi.security import HTTPBearer

from catalog.errors import Malformed, TooLarge
from catalog.image.manifest import ImageId
from catalog.web.parameters import read_body
from catalog.web.problems import problem_responses
from catalog.web.responses import document_response as answer
from deployer.errors import NotAuthenticated, SiteUnavailable, TooManyRequests
from deployer.machine.spec import Uuid
from deployer.machine.state import MachineState
from deployer.site.schema.messages import MAX_IDEMPOTENCY_KEY, MAX_PAGE, MAX_SMALL, PAGE_SIZE, ReasonRequest
from signer.documents import Document, parse
from signer.errors import PartitaError

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
    str, Path(max_length=63, description="UUID of a node, its beginning, or its name.", examples=["worker07"])
]
DEFAULT_PAGE = PAGE_SIZE

VoQuery = Annotated[str | None, Query(max_length=63, description="Only of members of this VO.", examples=["star"])]
OwnerQuery = Annotated[
    str | None, Query(max_length=2100, description="Only of this person: issuer and subject, with a space between.")
]
ImageQuery = Annotated[ImageId | None, Query(description="Only of this image.")]
NodeQuery = Annotated[Uuid | None, Query(description="Only on this node.")]
DeploymentQuery = Annotated[Uuid | None, Query(description="Only of this deployment.")]
ClusterQuery = Annotated[Uuid | None, Query(description="Only of this cluster.")]
StatesQuery = Annotated[list[MachineState] | None, Query(max_length=20, description="Only in one of these states.")]

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
F = TypeVar("F", bound=Callable[..., Any])


AUTH_ERRORS = (NotAuthenticated, TooManyRequests, SiteUnavailable)
"""Errors of every request of a person."""


class SiteRouter(APIRouter):
    """A router of a site's API: one argument each for what every route documents.

    Args:
        prefix: of the paths of its routes.
        tag: of its routes in OpenAPI.
        always: errors of every route; those of a person's request if not given.
    """

    def __init__(
        self, prefix: str, tag: str, always: tuple[type[PartitaError], ...] = AUTH_ERRORS, **more: Any
    ) -> None:
        super().__init__(prefix=prefix, tags=[tag], **more)
        self._always = always

    def operation(
        self,
        route: str,
        summary: str,
        model: type[Document] | None = None,
        takes: type[Document] | None = None,
        **more: Any,
    ) -> Callable[[F], F]:
        """Make a function a route; `action` below it says what else to document.

        Args:
            route: method and path, such as `GET /{machine}`; the method alone for the prefix itself.
            summary: a line for the documentation.
            model: of the answer, if that is a document.
            takes: the document in its body, which may be malformed or too large.
            more: options of FastAPI; `responses` are further ones, and `required` whether there must be a body.
        """
        method, _, path = route.partition(" ")
        required, responses = more.pop("required", True), more.pop("responses", {})
        extra: dict[str, Any] = {}
        expected = self._always
        if takes is not None:
            expected = (Malformed, TooLarge, *expected)
            schema = takes.model_json_schema(ref_template="#/components/schemas/{model}")
            schema.pop("$defs", None)
            examples = schema.pop("examples", None)
            content = {"schema": schema} | ({"example": examples[0]} if examples else {})
            extra["requestBody"] = {"required": required, "content": {"application/json": content}}

        def add(function: F) -> F:
            name, errors = getattr(function, "action", (None, ()))
            options = more | {
                "methods": [method],
                "summary": summary,
                "response_model": model,
                "responses": problem_responses(*errors, *expected) | responses,
                "openapi_extra": {"x-action": str(name or "none")} | extra,
            }
            return self.api_route(path, **options)(function)

        return add


def action(name: str | None, *errors: type[PartitaError]) -> Callable[[F], F]:
    """Note, for the documentation of a route, the action that it is (None where no grant is needed), and its errors."""

    def note(function: F) -> F:
        function.action = name, errors  # type: ignore[attr-defined]
        return function

    return note


async def read_document(request: Request, model: type[D], what: str, limit: int = MAX_SMALL) -> D:
    """Parse the body of a request as a document.

    Raises:
        TooLarge: it has more than `limit` bytes. DocumentError: it is not a valid document; says where.
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
