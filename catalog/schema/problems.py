"""Errors on the wire: each of our errors as an RFC 9457 problem document, and back as the very same exception.

The table is built from the error classes themselves: a class added to `catalog.errors` crosses the wire at once.
"""

from collections.abc import Iterator
from typing import Any

from catalog.errors import CatalogError, Malformed
from signer.documents import read_json
from signer.errors import DocumentError

PROBLEM_MEDIA_TYPE = "application/problem+json"
PROBLEM_PREFIX = "urn:partita:problem:"

MAX_PROBLEM = 64 << 10
"""Bytes. A sentence and a few attributes; more is not one of our problems."""

MAX_DETAIL = 4096
"""Characters of a sentence that a client shows."""

DOCUMENT_CODE = "malformed-document"


def _tree(kind: type[CatalogError]) -> Iterator[type[CatalogError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from _tree(below)


ERRORS_BY_CODE: dict[str, type[Exception]] = {kind.code: kind for kind in _tree(CatalogError)} | {
    DOCUMENT_CODE: DocumentError
}
"""Every error that crosses the wire, by its code."""

_ATTRIBUTES: dict[str, tuple[str, ...]] = {DOCUMENT_CODE: ("what", "path", "reason")}
"""The texts that an error carries beside its sentence, by its code."""


def code_of(kind: type[Exception]) -> str:
    """The code of an error class, or of its nearest ancestor that has one."""
    for ancestor in kind.__mro__:
        for code, known in ERRORS_BY_CODE.items():
            if known is ancestor:
                return code
    return CatalogError.code


def status_of(kind: type[Exception]) -> int:
    """The HTTP status that goes with an error class."""
    if issubclass(kind, CatalogError):
        return kind.status
    return Malformed.status if issubclass(kind, DocumentError) else CatalogError.status


def to_problem(error: Exception) -> dict[str, Any]:
    """The problem document of an error; one that is not ours becomes a plain failure without its inner details."""
    code, status = code_of(type(error)), status_of(type(error))
    ours = isinstance(error, CatalogError | DocumentError)
    problem: dict[str, Any] = {
        "type": PROBLEM_PREFIX + code,
        "title": code.replace("-", " ").capitalize(),
        "status": status,
        "detail": str(error)[:MAX_DETAIL] if ours else "the catalog failed; its log has the reason",
    }
    return problem | {name: str(getattr(error, name))[:MAX_DETAIL] for name in _ATTRIBUTES.get(code, ())}


def from_problem(data: bytes) -> Exception | None:
    """The exception that a problem document stands for, or None if the bytes are none of ours."""
    try:
        problem = read_json(data, "problem", limit=MAX_PROBLEM)
    except DocumentError:
        return None
    if not isinstance(problem, dict) or not isinstance(detail := problem.get("detail"), str):
        return None
    code = str(problem.get("type", "")).removeprefix(PROBLEM_PREFIX)
    kind = ERRORS_BY_CODE.get(code)
    if kind is None:
        return None
    names = _ATTRIBUTES.get(code, ())
    if not all(isinstance(problem.get(name), str) for name in names):
        return None
    # Not through the constructor: it makes the sentence from attributes, and here the sentence is already made.
    error = kind.__new__(kind, detail[:MAX_DETAIL])
    vars(error).update({name: problem[name][:MAX_DETAIL] for name in names})
    return error
