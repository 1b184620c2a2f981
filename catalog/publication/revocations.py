"""Accepting revocations: those that registered keys of the VO signed are stored for ever, listed and recorded.

Nodes decide what a revocation takes back; the catalog only keeps strangers from filling its lists.
"""

from datetime import datetime

from catalog.db import images
from catalog.errors import NotEntitled, TooLarge
from catalog.publication.history import REVOKE
from catalog.publication.images import PublicationService
from catalog.schema.images import SignedStatement
from signer.statements.revocation import parse_revocation
from signer.verification.revocations import MAX_REVOCATIONS, verify_revocations


def accept_revocation(publishing: PublicationService, offered: SignedStatement, now: datetime) -> None:
    """Store a revocation and list it in the TUF metadata; one that is stored already is accepted again.

    Raises:
        DocumentError: it is not a valid revocation.
        NotEntitled: no registered key of its VO signed it.
        TooLarge: there are as many as nodes read.
    """
    pair = offered.pair()
    statement = parse_revocation(pair[0])
    revoked = statement.predicate
    with publishing.database.reading() as connection:
        anchors = images.list_anchors(connection, revoked.vo)
    (check,) = verify_revocations([pair], anchors, now, x509=publishing.x509)
    if not check.counts:
        raise NotEntitled(f"the revocation of {statement.target} is not accepted for {revoked.vo}: {check.reason}")
    with publishing.database.writing() as connection:
        if not images.add_revocation(connection, *pair, now):
            return
        stored = images.list_revocations(connection, 0, -1)
        if len(stored) > MAX_REVOCATIONS:
            raise TooLarge(f"this catalog has {MAX_REVOCATIONS} revocations, as many as nodes read")
        publishing.repository.list_revocations(connection, [each for _, each in stored], now)
        facts = {"title": statement.target, "endorser": revoked.revoker, "role": revoked.role, "vo": revoked.vo}
        facts |= {"what": revoked.kind, "reason": revoked.reason}
        facts |= {} if revoked.kind == "key" else {"revoked": statement.digest}
        publishing.history.record(REVOKE, facts, now)
