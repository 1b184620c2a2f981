"""Revocations as they travel between a catalog and its clients."""

from pydantic import ConfigDict, JsonValue

from catalog.schema.images import ResponseModel, SignedStatement

MAX_REVOCATION_PAGE = 60
"""Revocations in one answer: the largest there can be still fit."""

_EXAMPLE: dict[str, JsonValue] = {"statement": '{"_type": ...}', "signature": "iHUEABYKAB0WIQ=="}


class RevocationPage(ResponseModel):
    """Revocations in the order in which they came; `next` is the cursor of the following page, absent on the last."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"items": [_EXAMPLE]}]})

    items: tuple[SignedStatement, ...]
    next: str | None = None
