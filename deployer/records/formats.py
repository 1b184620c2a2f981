"""Reading of the records that earlier releases wrote into a node's directory. Pure; missing values are never guessed.

A record says by which format it was written; one that says nothing is of format 1. To change the format: raise FORMAT,
add a step to `read_record`, and put a file of the old kind beside the test.
"""

from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel

from deployer.errors import NodeUnavailable

FORMAT: Final = 3
"""The format that this release writes.

2: the ceiling is `max_memory` and `max_cores`, and always there; `expires`. 3: members have the names of docs/glossary.md.
"""

_NAMES: Final = {"held": "pause_reason", "wanted": "desired", "giving": "outgoing", "arriving": "incoming"}
"""What format 2 called the members of a record."""


def write_record(record: BaseModel) -> dict[str, Any]:
    """A record as JSON values, with the format that it is written by."""
    return record.model_dump(mode="json", by_alias=True, exclude_none=True) | {"format": FORMAT}


def read_record(value: object, what: str) -> object:
    """A machine's record, as parsed from JSON, as this release would have written it; other values are given back.

    Raises:
        NodeUnavailable: a newer release wrote it. Nothing may be removed, or started twice, because of that.
    """
    if not isinstance(value, Mapping):
        return value
    newer = dict(value)
    written = newer.pop("format", 1)
    if isinstance(written, int) and written > FORMAT:
        raise NodeUnavailable(f"{what}: was written by a newer release (format {written}); update this node's software")
    if written == 1:
        newer = _with_ceiling(newer)
        newer["expires"] = newer.pop("ends", newer.get("expires"))
        if isinstance(spec := newer.get("spec"), Mapping):
            newer["spec"] = _with_ceiling(spec)
    if isinstance(written, int) and written < FORMAT:
        newer = {_NAMES.get(name, name): member for name, member in newer.items()}
    return newer


def _with_ceiling(value: Mapping[str, Any]) -> dict[str, Any]:
    """Format 1 called the ceiling `granted_`, and left it out where a machine could not grow."""
    newer = dict(value)
    for name in ("memory", "cores"):
        newer.setdefault(f"max_{name}", newer.pop(f"granted_{name}", None) or newer.get(name))
    return newer
