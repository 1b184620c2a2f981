"""Publishing cluster documents, and endorsing them: as for images, whoever's registered key signs decides.

To a catalog a document is canonical JSON of a name and version, and of a digest that endorsements are about; what it
means, whether its roles make sense, is for sites to say, which read it strictly before anything runs. The endorsement is
a statement of a kind of its own, so that none for an image ever serves for a cluster, or the other way round.
"""

import hashlib
from collections.abc import Sequence
from datetime import datetime

from catalog.db import clusters as cluster_registry
from catalog.db import images as registry
from catalog.db.clusters import ClusterRow
from catalog.db.engine import Transaction
from catalog.db.images import StoredEndorsement
from catalog.errors import Conflict, Malformed, NotEntitled, NotFound, TooLarge
from catalog.image.reference import Reference
from catalog.publication.history import ENDORSE, PUBLISH
from catalog.publication.images import PublicationService
from catalog.schema.clusters import MAX_CLUSTER, ClusterEntry, ClusterPublication
from catalog.schema.images import SignedStatement
from signer.documents import canonical, read_json
from signer.errors import DocumentError
from signer.statements.endorsement import ClusterStatement, parse_cluster_endorsement
from signer.verification.endorsements import MAX_ENDORSEMENTS, verify_cluster


def publish_cluster(publishing: PublicationService, wanted: ClusterPublication, now: datetime) -> ClusterEntry:
    """Make a document visible under the name that its endorsements give it. Sent again, it is no error.

    Raises:
        Malformed: it is no canonical JSON object, or an endorsement is none.
        NotEntitled: no endorsement by a registered key of its VO counts.
        Conflict: the name and version stands for another document, or the document for another name.
    """
    data = wanted.document.encode()
    _check(data)
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    title = _statement(wanted.endorsements[0]).title
    reference = Reference.parse(title)
    row = ClusterRow(digest, reference.vo, reference.name, str(reference.version), data, now)
    accepted = _accepted(publishing, row, wanted.endorsements, now)
    with publishing.database.writing() as connection:
        known = cluster_registry.get_cluster(connection, digest)
        if known is not None and known.title != title:
            raise Conflict(f"this very document is published as {known.title}; endorse that")
        other = cluster_registry.find_cluster(connection, row.vo, row.name, row.version)
        if other is not None and other.digest != digest:
            raise Conflict(f"{title} is published and names {other.digest}; publish under a new version")
        if known is None:
            cluster_registry.add_cluster(connection, row)
        _keep(publishing, connection, known or row, accepted, now)
        if known is None and publishing.history is not None:
            publishing.history.tell(PUBLISH, {"cluster": digest, "title": title}, now)
    return cluster_entry(known or row)


def accept_endorsements(
    publishing: PublicationService, digest: str, offered: Sequence[SignedStatement], now: datetime
) -> None:
    """Add endorsements to a published document; all of them must verify.

    Raises:
        NotFound: no such document is published.
        NotEntitled: one does not verify with a registered key of its VO.
        TooLarge: it has as many as the catalog keeps.
    """
    with publishing.database.reading() as connection:
        row = cluster_registry.get_cluster(connection, digest)
    if row is None:
        raise NotFound(f"there is no cluster document {digest} here")
    accepted = _accepted(publishing, row, offered, now)
    with publishing.database.writing() as connection:
        _keep(publishing, connection, row, accepted, now)


def cluster_entry(row: ClusterRow) -> ClusterEntry:
    """A document as a list has it."""
    return ClusterEntry(vo=row.vo, name=row.name, version=row.version, digest=row.digest, published=row.published)


def _check(data: bytes) -> None:
    value = read_json(data, "cluster document", limit=MAX_CLUSTER)
    if not isinstance(value, dict):
        raise Malformed("a cluster document is a JSON object")
    if canonical(value) != data:
        raise Malformed("a cluster document is published in canonical form (RFC 8785)")


def _accepted(
    publishing: PublicationService, row: ClusterRow, offered: Sequence[SignedStatement], now: datetime
) -> list[StoredEndorsement]:
    with publishing.database.reading() as connection:
        if not registry.has_vo(connection, row.vo):
            raise NotEntitled(f"the VO {row.vo} is not registered here; ask the catalog's operator to register it")
        anchors = registry.list_anchors(connection, row.vo)
    if not anchors:
        raise NotEntitled(f"the VO {row.vo} has no registered key here; ask the catalog's operator to register one")
    pairs = [one.pair() for one in offered]
    checks = verify_cluster(row.digest, row.title, pairs, anchors, now, x509=publishing.x509)
    if refused := [check.reason for check in checks if not check.counts]:
        why = " ".join(dict.fromkeys(refused))
        raise NotEntitled(f"{row.title}: an endorsement does not count: {why}")
    return [StoredEndorsement(*pair, check.fingerprint) for pair, check in zip(pairs, checks, strict=True)]


def _keep(
    publishing: PublicationService,
    connection: Transaction,
    row: ClusterRow,
    accepted: Sequence[StoredEndorsement],
    now: datetime,
) -> None:
    """Sites learn of it by the freshness metadata, in the same transaction."""
    fresh = registry.add_endorsements(connection, row.digest, accepted, now)
    if len(registry.list_endorsements(connection, row.digest)) > MAX_ENDORSEMENTS:
        raise TooLarge(f"a document has at most {MAX_ENDORSEMENTS} endorsements here; these would be more")
    if fresh and publishing.freshness.is_made(connection):
        publishing.freshness.cluster(connection, row, now)
    if publishing.history is not None:
        for one in fresh:
            said = parse_cluster_endorsement(one.statement)
            facts = {"cluster": row.digest, "title": row.title, "endorser": said.predicate.endorser}
            facts |= {"role": said.predicate.role, "statement": hashlib.sha256(one.statement).hexdigest()}
            publishing.history.tell(ENDORSE, facts, now)


def _statement(offered: SignedStatement) -> ClusterStatement:
    try:
        return parse_cluster_endorsement(offered.pair()[0])
    except DocumentError as exc:
        raise Malformed(f"what comes with the document is no endorsement of a cluster: {exc}") from exc
