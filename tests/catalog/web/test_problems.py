"""A service answers with problems, whatever goes wrong in it, and says nothing of its inside."""

import asyncio
import logging

import httpx2
import pytest
from fastapi import FastAPI

from catalog.errors import CatalogError, NotFound, TooLarge, Unavailable
from catalog.schema.problems import PROBLEM_MEDIA_TYPE, is_unknown_route, read_problem
from catalog.web.problems import ProblemApi, problem_responses
from deployer.errors import NotAuthenticated
from signer.errors import DocumentError, KeyUnusable, PartitaError

SECRET = "secret /etc/shadow"


def service(*, told: tuple[type[PartitaError], ...] = (PartitaError,)) -> FastAPI:
    """A service whose routes fail."""
    app = ProblemApi(logging.getLogger("partita.catalog"), CatalogError, told, title="Fails")
    errors = {
        "missing": NotFound("there is no image x"),
        "large": TooLarge("too much"),
        "away": Unavailable("not now"),
        "stranger": NotAuthenticated("who are you?"),
        "document": DocumentError("manifest", "$.disks", "is missing"),
        "key": KeyUnusable(SECRET),
        "slip": RuntimeError(SECRET),
    }

    @app.get("/numbers/{number}", responses=problem_responses(NotFound, TooLarge))
    def number(number: int) -> int:
        return number

    @app.get("/{which}")
    def fail(which: str) -> None:
        raise errors[which]

    return app


def ask(path: str, method: str = "GET", *, of: FastAPI | None = None) -> httpx2.Response:
    """What it answers."""

    async def asked() -> httpx2.Response:
        transport = httpx2.ASGITransport(of or service(), raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url="http://service") as client:
            return await client.request(method, path)

    return asyncio.run(asked())


@pytest.mark.parametrize(
    ("path", "status", "code", "detail"),
    [
        ("/missing", 404, "not-found", "there is no image x"),
        ("/document", 400, "malformed-document", "manifest: $.disks: is missing"),
        ("/numbers/x", 400, "malformed", "path.number: Input should be a valid integer"),
        ("/no/such/path", 404, "not-found", "there is nothing at /no/such/path; see /openapi.json"),
        ("/slip", 500, "failed", "the service failed; its log has the reason"),
    ],
)
def test_every_error_is_answered_as_a_problem(path: str, status: int, code: str, detail: str) -> None:
    answer = ask(path)
    assert (answer.status_code, answer.headers["content-type"]) == (status, PROBLEM_MEDIA_TYPE)
    assert answer.json()["type"] == f"urn:partita:problem:{code}"
    assert answer.json()["detail"].startswith(detail)
    assert answer.headers["cache-control"] == "no-store"
    assert isinstance(read_problem(answer.content), PartitaError)
    assert SECRET not in answer.text


def test_a_retired_version_says_to_upgrade() -> None:
    """The one that it names, and not every path that is not there."""
    service = ProblemApi(logging.getLogger("test"), PartitaError, retired=("v1",))
    for path, status in (("/v1/machines", 410), ("/v1", 410), ("/v2/machines", 404), ("/a/v1", 404)):
        answer = ask(path, of=service)
        assert (answer.status_code, "upgrade" in answer.json()["detail"]) == (status, status == 410)
        assert is_unknown_route(read_problem(answer.content)) is (status == 404)


def test_a_method_that_is_not_there_keeps_its_status_and_headers() -> None:
    answer = ask("/missing", "POST")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET")
    assert answer.json()["type"] == "urn:partita:problem:misused"


def test_errors_bring_their_headers() -> None:
    assert ask("/away").headers["retry-after"] == "1"
    assert ask("/large").headers["connection"] == "close"
    assert ask("/stranger").headers["www-authenticate"].startswith("Bearer")


def test_strangers_learn_only_of_the_errors_that_are_for_them(caplog: pytest.LogCaptureFixture) -> None:
    assert ask("/key").json()["detail"] == SECRET
    caplog.clear()
    answer = ask("/key", of=service(told=(CatalogError, DocumentError)))
    assert (answer.status_code, answer.json()["type"]) == (500, "urn:partita:problem:failed")
    assert SECRET not in answer.text
    assert SECRET in caplog.text, "the operator does"


def test_the_description_says_what_is_answered() -> None:
    described = ask("/openapi.json").json()
    responses = described["paths"]["/numbers/{number}"]["get"]["responses"]
    assert set(responses) == {"200", "404", "413"}
    content = responses["404"]["content"][PROBLEM_MEDIA_TYPE]
    assert content["examples"]["not-found"]["value"]["status"] == 404
    assert "HTTPValidationError" not in described["components"]["schemas"]
