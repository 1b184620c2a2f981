"""Errors between a command and a node's service: each of our errors as an RFC 9457 problem, and back as the same class.

A node's service works with all four packages, so the errors of all four cross here.
"""

from collections.abc import Iterator
from typing import Any

from catalog.errors import CatalogError
from deployer.errors import DeployerError
from signer.documents import read_json
from signer.errors import (
    AuditBroken,
    AuditUnwritable,
    DocumentError,
    KeyUnusable,
    SettingsError,
    SignatureError,
    SignerError,
)
from stager.errors import StagerError

MEDIA_TYPE = "application/problem+json"
PREFIX = "urn:partita:problem:"

MAX_PROBLEM = 4 << 20
"""Bytes: a refusal carries the whole decision."""

MAX_DETAIL = 8192
"""Characters of a sentence."""

_SIGNER: dict[type[SignerError], tuple[str, int]] = {
    DocumentError: ("malformed-document", 400),
    SettingsError: ("setting-unusable", 500),
    KeyUnusable: ("key-unusable", 500),
    SignatureError: ("signature-unusable", 422),
    AuditUnwritable: ("audit-unwritable", 503),
    AuditBroken: ("audit-broken", 500),
}
_ATTRIBUTES = {
    "malformed-document": ("what", "path", "reason"),
    "refused": ("decision",),
    "too-many-requests": ("retry_after",),
}
_FAILED = DeployerError


def _tree(kind: type[Exception]) -> Iterator[type[Exception]]:
    yield kind
    for below in kind.__subclasses__():
        yield from _tree(below)


def error_classes() -> dict[str, type[Exception]]:
    """Every error that crosses, by its code."""
    found: dict[str, type[Exception]] = {code: kind for kind, (code, _) in _SIGNER.items()}
    for base in (CatalogError, StagerError, DeployerError):
        found.update({kind.code: kind for kind in _tree(base)})  # type: ignore[attr-defined]
    return found


def to_problem(error: Exception) -> dict[str, Any]:
    """The problem document of an error; one that is not ours becomes a plain failure without its inner details."""
    code, status = _FAILED.code, _FAILED.status
    detail = str(error)[:MAX_DETAIL]
    match error:
        case CatalogError() | StagerError() | DeployerError():
            code, status = error.code, error.status
        case SignerError() if type(error) in _SIGNER:
            code, status = _SIGNER[type(error)]
        case SignerError():
            pass
        case _:
            detail = "the node failed; its log has the reason"
    problem = {
        "type": PREFIX + code,
        "title": code.replace("-", " ").capitalize(),
        "status": status,
        "detail": detail,
    }
    return problem | {name: getattr(error, name) for name in _ATTRIBUTES.get(code, ())}


def from_problem(problem: object) -> Exception | None:
    """The exception that a problem document stands for, or None if it is none of ours."""
    if not isinstance(problem, dict) or not isinstance(detail := problem.get("detail"), str):
        return None
    code = str(problem.get("type", "")).removeprefix(PREFIX)
    kind = error_classes().get(code)
    if kind is None:
        return None
    # Not through the constructor: it makes the sentence from attributes, and here the sentence is already made.
    error = kind.__new__(kind, detail[:MAX_DETAIL])
    vars(error).update({name: problem.get(name) for name in _ATTRIBUTES.get(code, ())})
    return error


def read_problem(data: bytes) -> Exception | None:
    """As `from_problem`, from the bytes of an answer."""
    try:
        return from_problem(read_json(data, "problem", limit=MAX_PROBLEM))
    except DocumentError:
        return None
