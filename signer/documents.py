"""Strict reading and canonical writing of every document that Partita signs, sends or is configured with.

Reading refuses what it does not know: unknown, duplicate, missing or oversized members, wrong types, numbers that JSON
cannot carry exactly. Each refusal says where (a JSON path) and why. Writing is canonical JSON (RFC 8785), so that equal
values have equal bytes and can be signed.
"""

import base64
import json
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar

import rfc8785
from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from signer.errors import DocumentError

MAX_DOCUMENT = 4 << 20
"""Bytes. No document that people write or sign comes near it; larger input is an attack on the parser."""

MAX_SAFE_INTEGER = 2**53 - 1
"""The largest integer that every JSON reader keeps exactly (RFC 7493, section 2.2)."""


class Document(BaseModel):
    """Base of every document type: frozen, strictly typed, unknown members refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


D = TypeVar("D", bound=BaseModel)


def example(**members: JsonValue) -> ConfigDict:
    """The configuration of a Document with an example for the API documentation: `model_config = example(name="x")`."""
    return ConfigDict(json_schema_extra={"examples": [members]})


def check_base64(text: str) -> str:
    """Return a text that is base64; ValueError otherwise. Validates members of documents."""
    try:
        base64.b64decode(text, validate=True)
    except ValueError as exc:
        raise ValueError("is not valid base64") from exc
    return text


def canonical(value: object) -> bytes:
    """Encode a Document (members that are None are left out) or a plain JSON value as canonical JSON (RFC 8785)."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json", by_alias=True, exclude_none=True)
    return rfc8785.dumps(value)  # type: ignore[arg-type]


def read_json(data: bytes, what: str, *, limit: int = MAX_DOCUMENT) -> Any:
    """Parse JSON strictly.

    Args:
        data: the bytes, UTF-8.
        what: the document's name in errors.
        limit: the largest size accepted, in bytes.

    Raises:
        DocumentError: the data is too large, not UTF-8 or not JSON, has a duplicate member, or a number that is not an
            exact integer.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members: dict[str, Any] = {}
        for name, value in pairs:
            if name in members:
                raise DocumentError(what, "$", f"the member {name!r} is listed twice in one object; keep one")
            members[name] = value
        return members

    def refuse(token: str) -> NoReturn:
        raise DocumentError(what, "$", f"the number {token[:40]} is not an integer that JSON carries exactly")

    def integer(token: str) -> int:
        if len(token) > 17 or abs(int(token)) > MAX_SAFE_INTEGER:
            refuse(token)
        return int(token)

    with _decoded(data, what, limit) as text:
        return json.loads(text, object_pairs_hook=unique, parse_float=refuse, parse_constant=refuse, parse_int=integer)


def read_toml(data: bytes, what: str, *, limit: int = MAX_DOCUMENT) -> dict[str, Any]:
    """Parse TOML 1.0; errors as in :func:`read_json`."""
    with _decoded(data, what, limit) as text:
        return tomllib.loads(text)


@contextmanager
def _decoded(data: bytes, what: str, limit: int) -> Iterator[str]:
    """Yield a document's text to its parser, whose errors become DocumentErrors."""
    if len(data) > limit:
        raise DocumentError(what, "$", f"has {len(data)} bytes, more than the {limit} allowed")
    try:
        yield data.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise DocumentError(what, "$", f"is not UTF-8 at byte {exc.start}") from exc
    except json.JSONDecodeError as exc:
        raise DocumentError(what, "$", f"is not JSON at line {exc.lineno}, column {exc.colno}: {exc.msg}") from exc
    except tomllib.TOMLDecodeError as exc:
        raise DocumentError(what, "$", f"is not TOML: {exc}") from exc
    except RecursionError as exc:
        raise DocumentError(what, "$", "is nested too deeply") from exc


def validate(model: type[D], value: object, what: str) -> D:
    """Turn a parsed value into a document of the given type; DocumentError names the place of the first error."""
    try:
        # JSON mode: arrays become tuples and texts become dates or addresses, and nothing else is converted.
        return model.model_validate_json(json.dumps(value, default=str), by_alias=True, by_name=False)
    except ValidationError as exc:
        fault = exc.errors(include_url=False)[0]
        raise DocumentError(what, _path(fault["loc"], value, fault["type"] == "missing"), _reason(fault)) from exc
    except (ValueError, RecursionError) as exc:
        raise DocumentError(what, "$", str(exc)) from exc


def parse(model: type[D], data: bytes, what: str, *, limit: int = MAX_DOCUMENT) -> D:
    """Read JSON bytes as a document of the given type."""
    return validate(model, read_json(data, what, limit=limit), what)


def parse_toml(model: type[D], data: bytes, what: str, *, limit: int = MAX_DOCUMENT) -> D:
    """Read TOML bytes as a document of the given type."""
    return validate(model, read_toml(data, what, limit=limit), what)


def parse_canonical(model: type[D], data: bytes, what: str, *, limit: int = MAX_DOCUMENT) -> D:
    """Read a document whose bytes are its identity: anything but the canonical form is refused."""
    document = parse(model, data, what, limit=limit)
    wanted = canonical(document)
    if wanted != data:
        at = next(
            (i for i, (a, b) in enumerate(zip(wanted, data, strict=False)) if a != b), min(len(wanted), len(data))
        )
        raise DocumentError(what, "$", f"is not in canonical form (RFC 8785), from byte {at}")
    return document


def _path(loc: tuple[int | str, ...], value: object, missing: bool) -> str:
    """Return the JSON path of an error. Pydantic's location also names union branches; the path shows only real members
    and, as its last element, a missing one."""
    path = "$"
    for index, part in enumerate(loc):
        if isinstance(part, int):
            path += f"[{part}]"
            value = value[part] if isinstance(value, list | tuple) and part < len(value) else None
        elif (isinstance(value, Mapping) and part in value) or (missing and index == len(loc) - 1):
            path += f".{part}" if part.replace("_", "").replace("-", "").isalnum() else f"[{json.dumps(part)}]"
            value = value.get(part) if isinstance(value, Mapping) else None
    return path


def _reason(fault: Any) -> str:
    match fault["type"]:
        case "extra_forbidden":
            return "is not known here; remove it or correct its spelling"
        case "missing":
            return "is missing"
        case "value_error":
            return str(fault["ctx"]["error"])
        case _:
            shown = repr(fault["input"])
            return f"{fault['msg']}; found {shown if len(shown) <= 80 else shown[:77] + '...'}"
