"""Accepting revocations: those that anchors of the VO signed are kept for ever, listed and put on record.

What a revocation voids is for nodes to say; the catalog only keeps strangers from filling its lists.
"""

from datetime import datetime

from catalog.db import images as registry
from catalog.db.engine import Transaction
from catalog.errors import NotEntitled, TooLarge
from catalog.publication.history import REVOKE
from catalog.publication.images import PublicationService
from catalog.schema.images import SignedStatement
from signer.statements.revocation import RevocationStatement, parse_revocation
from signer.verification.revocations import MAX_REVOCATIONS, verify_revocations


def accept_revocation(publishing: PublicationService, offered: SignedStatement, now: datetime) -> None:
    """Keep a revocation; one that is kept already is no error.

    Raises:
        DocumentError: it is no revocation.
        NotEntitled: no registered key of its VO signed it.
        TooLarge: there are as many as nodes look at.
    """
    pair = offered.pair()
    said = parse_revocation(pair[0])
    vo = said.predicate.vo
    with publishing.database.reading() as connection:
        anchors = registry.list_anchors(connection, vo)
    (check,) = verify_revocations([pair], anchors, now, x509=publishing.x509)
    if not check.counts:
        raise NotEntitled(f"the revocation of {said.target} is not accepted for {vo}: {check.reason}")
    with publishing.database.writing() as connection:
        if not registry.add_revocation(connection, *pair, now):
            return
        found = registry.list_revocations(connection, 0, -1)
        if len(found) > MAX_REVOCATIONS:
            raise TooLarge(f"there are {MAX_REVOCATIONS} revocations here, as many as nodes look at")
        _list(publishing, connection, [each for _, each in found], now)
        if publishing.history is not None:
            publishing.history.tell(REVOKE, _facts(said), now)


def _list(
    publishing: PublicationService, connection: Transaction, pairs: list[tuple[bytes, bytes]], now: datetime
) -> None:
    """Sites learn of it by the freshness metadata, in the same transaction."""
    if publishing.freshness.is_made(connection):
        publishing.freshness.revocations(connection, pairs, now)


def _facts(said: RevocationStatement) -> dict[str, str]:
    says = said.predicate
    facts = {"title": said.target, "endorser": says.revoker, "role": says.role, "vo": says.vo}
    facts |= {"what": says.kind, "reason": says.reason}
    return facts | ({} if says.kind == "key" else {"revoked": said.digest})
