"""The catalog's history: the whole entries of its audit log, so that readers can check the hash chain."""

import hashlib
from collections.abc import Iterable, Iterator

from pydantic import JsonValue

from catalog.errors import ContentMismatch
from catalog.schema.images import ResponseModel, ResponsePage
from signer.audit_log import ZERO_HASH, AuditLogEntry, Sha256Hex
from signer.documents import canonical, example

MAX_HISTORY_PAGE = 1000

_EXAMPLE: dict[str, JsonValue] = {
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


class HistoryEntry(AuditLogEntry, ResponseModel):
    """An entry: number, time, kind (`publish`, `endorse`, `revoke`, `vo`), hash of the previous entry, and data.

    If the reader may not read the image of an entry, the data is left out, and `withheld` is the hash of the whole entry,
    so that the chain can still be checked.
    """

    model_config = example(**_EXAMPLE)

    withheld: Sha256Hex | None = None

    @property
    def digest(self) -> str:
        """The hash that the next entry carries as `prev`."""
        return self.withheld or hashlib.sha256(canonical(self) + b"\n").hexdigest()

    def without_facts(self) -> "HistoryEntry":
        """The entry for readers who may not read the image."""
        return self.model_copy(update={"data": {}, "withheld": self.digest})


class HistoryPage(ResponsePage[HistoryEntry]):
    """Entries, oldest first; `next` is the cursor of the following page, absent if there are no more entries yet."""

    model_config = example(items=[_EXAMPLE])


def verify_chain(entries: Iterable[HistoryEntry], last: str = ZERO_HASH) -> Iterator[HistoryEntry]:
    """Yield entries while each continues the hash chain; ContentMismatch at the first that does not.

    Args:
        entries: of all kinds, in order.
        last: the hash of the entry before the first one.
    """
    for entry in entries:
        if entry.prev != last:
            raise ContentMismatch(
                f"the catalog's history was changed: entry {entry.seq} does not continue the hash chain"
            )
        last = entry.digest
        yield entry
