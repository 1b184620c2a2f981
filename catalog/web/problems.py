"""How a service answers with errors: every one as its problem document, those of the framework too."""

import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from catalog.errors import Malformed, Misused, NotFound
from catalog.schema.problems import INTERNAL, PROBLEM_MEDIA_TYPE, Problem, to_problem
from signer.documents import canonical
from signer.errors import PartitaError

_FOREIGN = ("HTTPValidationError", "ValidationError")

_DESCRIPTIONS = {
    400: "The request is malformed; the detail gives the place.",
    401: "Nobody knows who asks.",
    403: "Who asks may not do this here.",
    404: "It is not here, or not for who asks.",
    409: "It is here with another meaning, not in a state for this, or there is no room.",
    413: "More than this service accepts.",
    416: "The range is malformed or outside the content.",
    422: "What was sent is not what it was said to be, or of a form that is not handed on.",
    429: "Asked too often; wait as long as Retry-After says.",
    502: "What the service needs for this failed.",
    503: "The service cannot answer now; try again later.",
}


class ProblemApi(FastAPI):
    """An application that answers with problems, and whose OpenAPI document says so."""

    def __init__(
        self,
        log: logging.Logger,
        failed: type[PartitaError],
        tells: tuple[type[PartitaError], ...] = (PartitaError,),
        **options: Any,
    ) -> None:
        """Make it.

        Args:
            log: gets what the service failed over.
            failed: what a client is told where the error is none that it may know.
            tells: the errors whose sentences clients get to read.
            options: of FastAPI. Its pages about the API load their scripts from elsewhere, so there are none.
        """
        super().__init__(docs_url=None, redoc_url=None, **options)
        self._log, self._failed, self._tells = log, failed, tells
        for kind in (PartitaError, RequestValidationError, HTTPException, Exception):
            self.add_exception_handler(kind, self._answer)

    def openapi(self) -> dict[str, Any]:
        """The document, made when it is first asked for, as that takes longer than the rest of a start.

        FastAPI documents its own form of validation errors (422) everywhere; ours are problems, with 400.
        """
        document = super().openapi()
        for methods in document["paths"].values():
            for operation in methods.values():
                found = operation["responses"].get("422", {}).get("content", {}).get("application/json", {})
                if found.get("schema", {}).get("$ref", "").endswith(f"/{_FOREIGN[0]}"):
                    del operation["responses"]["422"]
        for name in _FOREIGN:
            document["components"]["schemas"].pop(name, None)
        return document

    async def _answer(self, request: Request, error: Exception) -> Response:
        where, see = request.url.path[:200], "; see /openapi.json" if self.openapi_url else ""
        match error:
            case PartitaError() if isinstance(error, self._tells):
                told, status = error, error.status
            case RequestValidationError():
                fault = error.errors()[0]
                place = ".".join(str(part) for part in fault.get("loc", ()))
                told, status = Malformed(f"{place}: {fault.get('msg', 'is malformed')}"), Malformed.status
            case HTTPException(status_code=404):
                told, status = NotFound(f"there is nothing at {where}{see}"), NotFound.status
            case HTTPException(status_code=status):
                kind = Misused if status < HTTPStatus.INTERNAL_SERVER_ERROR else self._failed
                told = kind(f"{request.method} {where} is not possible here{see}")
            case _:
                told, status = self._failed(INTERNAL), self._failed.status
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            self._log.warning("%s", error)
        answer = problem_response(told, status)
        if isinstance(error, HTTPException):
            answer.headers.update(error.headers or {})
        return answer


def problem_response(error: PartitaError, status: int | None = None) -> Response:
    """The answer that an error is, with another status where the protocol asks for one."""
    problem = to_problem(error)
    problem["status"] = status or error.status
    headers = {"Cache-Control": "no-store", **error.headers}
    return Response(canonical(problem), problem["status"], headers, PROBLEM_MEDIA_TYPE)


def problem_responses(*kinds: type[PartitaError]) -> dict[int | str, dict[str, Any]]:
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
