"""The catalog's history: every publication, endorsement and revocation that it ever accepted, in its audit log.

The HEPiX policy on the endorsement of images (Kelsey, draft 1.4b, 2010) demands an auditable history of every image that
was ever endorsed. Each entry is on the disk before its event is acknowledged: an entry may be repeated if the service dies
at that moment, but none is ever missing. A failure of the log is a failure of the catalog: it accepts only what it records.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from catalog.db.images import StoredEndorsement
from catalog.errors import Unavailable
from signer.audit_log import AuditLog, AuditLogEntry
from signer.errors import AuditBroken, AuditUnwritable
from signer.runtime.closing import Closable
from signer.statements.endorsement import parse_endorsement, write_instant

FILE = "audit.jsonl"
PUBLISH, ENDORSE, REVOKE, VO, REPAIRED = "publish", "endorse", "revoke", "vo", "repaired"
PUBLIC: Final = frozenset({PUBLISH, ENDORSE, REVOKE, VO, REPAIRED})
"""The kinds of entries that everyone may read: all of them today."""


class History(Closable):
    """The log of one catalog. Safe to use from several threads; an operator's commands may write to it as well."""

    def __init__(self, directory: Path, now: datetime) -> None:
        """Open the log in a catalog's directory; Unavailable if it cannot be used."""
        with _translated():
            self._log = AuditLog(directory / FILE, now)

    def close(self) -> None:
        """Close the file."""
        self._log.close()

    def record_endorsements(self, found: Sequence[StoredEndorsement], now: datetime) -> None:
        """Record newly accepted endorsements."""
        for one in found:
            statement = parse_endorsement(one.statement, "image", "partition")
            self.record(
                ENDORSE,
                {
                    **({"image": statement.image_id} if statement.image_id else {"partition": statement.address}),
                    "title": statement.title,
                    "endorser": statement.predicate.endorser,
                    "role": statement.predicate.role,
                    "issued": write_instant(statement.predicate.issued),
                    "expires": write_instant(statement.predicate.expires),
                    "statement": hashlib.sha256(one.statement).hexdigest(),
                },
                now,
            )

    def record(self, kind: str, data: Mapping[str, Any], now: datetime) -> None:
        """Record an event of any kind, such as a revocation; Unavailable if it cannot be written to the disk."""
        with _translated():
            self._log.append(kind, data, now)

    def page(self, after: int, limit: int) -> list[AuditLogEntry]:
        """Up to `limit` entries with numbers above `after`, oldest first."""
        with _translated():
            return self._log.entries(after, limit, PUBLIC)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (AuditUnwritable, AuditBroken) as exc:
        raise Unavailable(str(exc)) from exc
