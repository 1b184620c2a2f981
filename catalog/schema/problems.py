"""Errors on the wire: Partita's errors as RFC 9457 problem documents, and back as the same exceptions.

The table is made of the error classes: a new subclass of PartitaError crosses the wire at once.
"""

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import ConfigDict

from signer.documents import Document, example, read_json
from signer.errors import DocumentError, PartitaError

PROBLEM_MEDIA_TYPE = "application/problem+json"
PROBLEM_PREFIX = "urn:partita:problem:"

MAX_PROBLEM = 4 << 20
"""Bytes: a refusal contains the whole decision."""

MAX_DETAIL = 8192
"""Characters of a message."""

INTERNAL = "the service failed; its log has the reason"
"""The message for internal errors, which reveals no details of the service."""

UNKNOWN_ROUTE = "there is nothing at"
"""The beginning of the message for a path that a service does not have, perhaps since it is of another release."""

_EARLIER_CODES = {
    "deployment-misused": "misused",
    "no-room": "no-capacity",
    "site-conflict": "conflict",
    "blank-failed": "blank-unmade",
    "move-failed": "migration-failed",
}
"""Codes that services sent up to 0.1 -> the codes that replace them."""


class Problem(Document):
    """An error (RFC 9457). `type` is `urn:partita:problem:` and the error's code; some kinds carry more members."""

    model_config = ConfigDict(extra="ignore") | example(
        type="urn:partita:problem:not-found",
        title="Not found",
        status=404,
        detail="unknown image star/worker@7",
    )

    type: str
    title: str
    status: int
    detail: str


class Health(Document):
    """Whether the service runs (livez), or can serve and accept (readyz)."""

    model_config = ConfigDict(extra="ignore") | example(status="ok")

    status: Literal["ok"] = "ok"


def error_classes() -> dict[str, type[PartitaError]]:
    """All errors that cross the wire, by code, of the modules that are loaded."""
    # Base classes come last, as a class that is not given a code has that of its base.
    return {kind.code: kind for kind in reversed(list(_tree(PartitaError)))}


def to_problem(error: PartitaError) -> dict[str, Any]:
    """The problem document of an error."""
    problem: dict[str, Any] = {
        "type": PROBLEM_PREFIX + error.code,
        "title": error.code.replace("-", " ").capitalize(),
        "status": error.status,
        "detail": str(error)[:MAX_DETAIL],
    }
    return problem | {name: value for name in error.carried if (value := _cut(getattr(error, name))) is not None}


def from_problem(problem: object, *kinds: type[PartitaError]) -> PartitaError | None:
    """The exception of a problem document; None if it is not a known problem, or not of the given kinds."""
    if not isinstance(problem, dict) or not isinstance(detail := problem.get("detail"), str):
        return None
    code = str(problem.get("type", "")).removeprefix(PROBLEM_PREFIX)
    kind = error_classes().get(_EARLIER_CODES.get(code, code))
    if kind is None or (kinds and not issubclass(kind, kinds)):
        return None
    carried = {}
    for name, of in kind.carried.items():
        if isinstance(value := problem.get(name), of):
            carried[name] = _cut(value)
        elif not hasattr(kind, name):
            return None
    # Not through the constructor, which would make the message from attributes; the message is already made.
    error = kind.__new__(kind, detail[:MAX_DETAIL])
    vars(error).update(carried)
    return error


def read_problem(data: bytes, *kinds: type[PartitaError]) -> PartitaError | None:
    """As `from_problem`, from the bytes of a response."""
    try:
        return from_problem(read_json(data, "problem", limit=MAX_PROBLEM), *kinds)
    except DocumentError:
        return None


def is_unknown_route(problem: PartitaError | None) -> bool:
    """Whether a service answered that it does not have the path."""
    return problem is not None and str(problem).startswith(UNKNOWN_ROUTE)


def _tree(kind: type[PartitaError]) -> Iterator[type[PartitaError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from _tree(below)


def _cut(value: Any) -> Any:
    return value[:MAX_DETAIL] if isinstance(value, str) else value
