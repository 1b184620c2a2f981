"""Publishing and endorsing cluster documents: as for images, signatures of registered keys decide.

To a catalog a cluster document is canonical JSON with a name, a version, and a digest that endorsements are about. Sites
check its meaning, and read it strictly before anything runs. Its endorsements are statements of a kind of their own, so that
an endorsement of an image never serves for a cluster, or vice versa.
"""

import hashlib
from collections.abc import Sequence
from datetime import datetime

from catalog.db import clusters, images
from catalog.db.clusters import ClusterRow
from catalog.db.engine import Transaction
from catalog.db.images import StoredEndorsement
from catalog.errors import Conflict, Malformed, NotEntitled, NotFound, TooLarge
from catalog.image.reference import Reference
from catalog.publication.history import ENDORSE, PUBLISH
from catalog.publication.images import PublicationService, registered_anchors
from catalog.schema.clusters import MAX_CLUSTER, ClusterEntry, ClusterPublication
from catalog.schema.images import SignedStatement
from signer.documents import canonical, read_json
from signer.errors import DocumentError
from signer.statements.endorsement import VouchingStatement, parse_endorsement
from signer.verification.endorsements import MAX_ENDORSEMENTS, verify_endorsements
from signer.verification.trust import EndorsedSubject


def publish_cluster(publishing: PublicationService, wanted: ClusterPublication, now: datetime) -> ClusterEntry:
    """Make a document visible under the name that its endorsements give it. Publishing it again is allowed.

    Raises:
        Malformed: it is not a canonical JSON object, or an endorsement is malformed.
        NotEntitled: no endorsement by a registered key of its VO counts.
        Conflict: the name and version stands for another document, or the document has another name.
    """
    data = wanted.document.encode()
    value = read_json(data, "cluster document", limit=MAX_CLUSTER)
    if not isinstance(value, dict):
        raise Malformed("the cluster document is not a JSON object")
    if canonical(value) != data:
        raise Malformed("the cluster document is not in canonical form (RFC 8785)")
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    title = _statement(wanted.endorsements[0]).title
    reference = Reference.parse(title)
    row = ClusterRow(digest, reference.vo, reference.name, str(reference.version), data, now)
    accepted = _accepted(publishing, row, wanted.endorsements, now)
    with publishing.database.writing() as connection:
        known = clusters.get_cluster(connection, digest)
        if known is not None and known.title != title:
            raise Conflict(f"the same document is published as {known.title}; endorse that")
        other = clusters.find_cluster(connection, row.vo, row.name, row.version)
        if other is not None and other.digest != digest:
            raise Conflict(f"{title} is published and names {other.digest}; publish under a new version")
        if known is None:
            clusters.add_cluster(connection, row)
        _keep(publishing, connection, known or row, accepted, now)
        if known is None and publishing.history is not None:
            publishing.history.record(PUBLISH, {"cluster": digest, "title": title}, now)
    return cluster_entry(known or row)


def accept_endorsements(
    publishing: PublicationService, digest: str, offered: Sequence[SignedStatement], now: datetime
) -> None:
    """Add endorsements to a published document; all of them must verify.

    Raises:
        NotFound: no such document is published.
        NotEntitled: one does not verify with a registered key of its VO.
        TooLarge: the document has as many as the catalog keeps.
    """
    with publishing.database.reading() as connection:
        row = clusters.get_cluster(connection, digest)
    if row is None:
        raise NotFound(f"no cluster document {digest} here")
    accepted = _accepted(publishing, row, offered, now)
    with publishing.database.writing() as connection:
        _keep(publishing, connection, row, accepted, now)


def cluster_entry(row: ClusterRow) -> ClusterEntry:
    """The entry of a document in a list."""
    return ClusterEntry(vo=row.vo, name=row.name, version=row.version, digest=row.digest, published=row.published)


def _accepted(
    publishing: PublicationService, row: ClusterRow, offered: Sequence[SignedStatement], now: datetime
) -> list[StoredEndorsement]:
    with publishing.database.reading() as connection:
        anchors = registered_anchors(connection, row.vo)
    pairs = [one.pair() for one in offered]
    subject = EndorsedSubject(row.digest, row.title, kind="cluster")
    checks = verify_endorsements(subject, pairs, anchors, now, x509=publishing.x509)
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
    """Store the endorsements and list them in the TUF metadata, in the same transaction."""
    fresh = images.add_endorsements(connection, row.digest, accepted, now)
    if len(images.list_endorsements(connection, row.digest)) > MAX_ENDORSEMENTS:
        raise TooLarge(f"this catalog keeps at most {MAX_ENDORSEMENTS} endorsements of a document")
    if fresh:
        publishing.repository.list_cluster(connection, row, now)
    for one in fresh:
        endorsed = parse_endorsement(one.statement, "cluster").predicate
        facts = {"cluster": row.digest, "title": row.title, "endorser": endorsed.endorser}
        facts |= {"role": endorsed.role, "statement": hashlib.sha256(one.statement).hexdigest()}
        publishing.history.record(ENDORSE, facts, now)


def _statement(offered: SignedStatement) -> VouchingStatement:
    try:
        return parse_endorsement(offered.pair()[0], "cluster")
    except DocumentError as exc:
        raise Malformed(f"not a valid endorsement of a cluster: {exc}") from exc
