"""docs/formats.md: the statements that stand there are made again, byte for byte."""

import hashlib
from datetime import UTC, datetime
from pathlib import Path

from signer.statements.endorsement import endorsement_statement, parse_endorsement
from signer.statements.revocation import RevokedObject, parse_revocation, revocation_statement

TEXT = (Path(__file__).parents[3] / "docs" / "formats.md").read_text()
AT, UNTIL = datetime(2026, 11, 22, 12, tzinfo=UTC), datetime(2027, 11, 22, 12, tzinfo=UTC)


def stands(data: bytes) -> bool:
    """Whether the document has the bytes, their number and their hash."""
    return all(
        part in TEXT
        for part in (f"```json\n{data.decode()}\n```", f"{len(data)} bytes", hashlib.sha256(data).hexdigest())
    )


def test_the_endorsement_of_a_partition() -> None:
    address = "60aae9c7b428f87e0713e88229e18f0adf12cd7b22a0dd8a92bb2485eb7af242-65536"
    who = "x509:/DC=org/DC=example/CN=Ann"
    data = endorsement_statement(address, "site/base@12", who, "site-reviewer", AT, UNTIL, kind="partition")
    assert stands(data)
    assert parse_endorsement(data, "partition").address == address


def test_a_revocation() -> None:
    key = "openpgp:0123456789ABCDEF0123456789ABCDEF01234567"
    ola = "x509:/DC=org/DC=example/CN=Ola"
    data = revocation_statement(RevokedObject("key", key), ola, "star", "security-officer", "compromised", AT)
    assert stands(data)
    assert parse_revocation(data).target == key
