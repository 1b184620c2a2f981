"""Error responses of services: problem documents for all errors, including those of the framework."""

import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from catalog.errors import Malformed, Misused, NotFound
from catalog.schema.problems import INTERNAL, PROBLEM_MEDIA_TYPE, UNKNOWN_ROUTE, Problem, to_problem
from signer.documents import canonical
from signer.errors import PartitaError

_FOREIGN = ("HTTPValidationError", "ValidationError")

_DESCRIPTIONS = {
    400: "The request is malformed; the detail gives the place.",
    401: "The requester is not authenticated.",
    403: "The requester may not do this here.",
    404: "Not found, or not visible to the requester.",
    409: "The name is used otherwise, the state does not allow it, or the capacity does not suffice.",
    413: "The request is larger than this service accepts.",
    416: "The range is malformed or outside the content.",
    422: "The content does not match its address or is not acceptable.",
    429: "Too many requests; wait as long as Retry-After says.",
    502: "Another service, which this one needs, failed.",
    503: "The service cannot answer now; try again later.",
}


class ProblemApi(FastAPI):
    """An application that answers with problems, and whose OpenAPI document says so."""

    def __init__(
        self,
        log: logging.Logger,
        failed: type[PartitaError],
        tells: tuple[type[PartitaError], ...] = (PartitaError,),
        retired: tuple[str, ...] = (),
        **options: Any,
    ) -> None:
        """Make an application.

        Args:
            log: receives errors of the service.
            failed: the error that clients get instead of one that they may not read.
            tells: the errors whose messages clients may read.
            retired: versions of the API that earlier releases had, such as "v1"; their clients are told to upgrade.
            options: of FastAPI. Its API pages are disabled, as they load scripts from other sites.
        """
        super().__init__(docs_url=None, redoc_url=None, **options)
        self._log, self._failed, self._tells, self._retired = log, failed, tells, retired
        for kind in (PartitaError, RequestValidationError, HTTPException, Exception):
            self.add_exception_handler(kind, self._answer)

    def openapi(self) -> dict[str, Any]:
        """The document, made at the first request, as making it takes longer than the rest of a start.

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
                shown, status = error, error.status
            case RequestValidationError():
                fault = error.errors()[0]
                place = ".".join(str(part) for part in fault.get("loc", ()))
                shown, status = Malformed(f"{place}: {fault.get('msg', 'is malformed')}"), Malformed.status
            case HTTPException(status_code=404) if (version := where[1:].partition("/")[0]) in self._retired:
                shown = NotFound(
                    f"API {version} has been retired; upgrade the client or node to this service's release"
                )
                status = HTTPStatus.GONE
            case HTTPException(status_code=404):
                shown, status = NotFound(f"{UNKNOWN_ROUTE} {where}{see}"), NotFound.status
            case HTTPException(status_code=status):
                kind = Misused if status < HTTPStatus.INTERNAL_SERVER_ERROR else self._failed
                shown = kind(f"{request.method} {where} is not possible here{see}")
            case _:
                shown, status = self._failed(INTERNAL), self._failed.status
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            self._log.warning("%s", error)
        answer = problem_response(shown, status)
        if isinstance(error, HTTPException):
            answer.headers.update(error.headers or {})
        return answer


def problem_response(error: PartitaError, status: int | None = None) -> Response:
    """The response for an error, with another status if the protocol demands one."""
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
