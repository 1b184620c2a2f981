"""The catalog's history as it travels: the entries of its audit log, whole, so that whoever reads them can check the chain."""

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import ConfigDict

from catalog.errors import ContentMismatch
from catalog.schema.images import ResponseModel
from signer.audit_log import ZERO_HASH, EntryKind, Sha256Hex
from signer.documents import canonical
from signer.statements.endorsement import Instant

MAX_HISTORY_PAGE = 1000

_EXAMPLE: dict[str, Any] = {
    "seq": 1,
    "at": "2026-11-22T12:00:00Z",
    "kind": "endorse",
    "prev": ZERO_HASH,
    "data": {
        "image": "sha256:" + "ab" * 32,
        "title": "star/worker@1.0",
        "endorser": "openpgp:D1CE0F3A0B1C2D3E4F5061728394A5B6C7D8E9F0",
        "role": "image-administrator",
        "issued": "2026-11-22T12:00:00Z",
        "expires": "2027-11-22T12:00:00Z",
        "statement": "cd" * 32,
    },
}


class HistoryEntry(ResponseModel):
    """An entry of the log: its number, when, what (`publish`, `endorse`, `revoke`, `vo`), the facts, and the hash before.

    Of an entry about an image that the reader may not read the facts are left out, and `withheld` is the entry's hash, so
    that the chain can still be followed.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    seq: int
    at: Instant
    kind: EntryKind
    prev: Sha256Hex
    data: dict[str, Any]
    withheld: Sha256Hex | None = None

    @property
    def digest(self) -> str:
        """The hash that the next entry carries as `prev`."""
        return self.withheld or hashlib.sha256(canonical(self) + b"\n").hexdigest()

    def without_facts(self) -> "HistoryEntry":
        """As it is shown to who may not read the image."""
        return self.model_copy(update={"data": {}, "withheld": self.digest})


class HistoryPage(ResponseModel):
    """Entries, the oldest first; `next` is the cursor of the following page, absent where there is none yet."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"items": [_EXAMPLE]}]})

    items: tuple[HistoryEntry, ...]
    next: str | None = None


def verify_chain(entries: Iterable[HistoryEntry], last: str = ZERO_HASH) -> Iterator[HistoryEntry]:
    """Hand entries on as long as each follows on the one before; ContentMismatch at the first that does not.

    Args:
        entries: all kinds, in order.
        last: the hash of the line before the first of them.
    """
    for entry in entries:
        if entry.prev != last:
            raise ContentMismatch(
                f"entry {entry.seq} of the catalog's history does not follow on the one before: it has been changed"
            )
        last = entry.digest
        yield entry
