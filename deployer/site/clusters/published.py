"""Cluster documents that a catalog has published, and their acceptance by the site's policy. Pure but for the catalog.

A published cluster is composed for a whole VO, so the site demands of the document what its policy demands of the VO's images:
enough endorsers, in the required roles, recent enough, none of them revoked. Each role's image is still judged separately, at
admission and on its node: the endorsement of a document covers no image.
"""

import hashlib
from collections.abc import Sequence
from datetime import datetime, timedelta

from catalog.client.trusted import TrustedCatalog
from catalog.errors import Misused
from catalog.image.reference import Reference
from deployer.errors import Refused
from deployer.policy.evaluation import effective_revocations
from deployer.policy.model import Policy
from deployer.policy.revocations import RevocationState
from deployer.site.model.cluster import MAX_CLUSTER, ClusterDocument
from signer.documents import parse_canonical
from signer.errors import DocumentError
from signer.verification.endorsements import verify_endorsements
from signer.verification.revocations import apply_revocations
from signer.verification.signature_cache import SignatureCache
from signer.verification.trust import EndorsedSubject, EndorsementCheck


def resolve_published(
    catalog: TrustedCatalog,
    text: str,
    policy: Policy,
    withdrawn: RevocationState,
    now: datetime,
    memory: SignatureCache | None = None,
) -> tuple[str, ClusterDocument]:
    """The full name and the document that a reference resolves to now.

    Args:
        catalog: the site's verified catalog.
        text: VO/NAME@VERSION or VO/NAME.
        policy: in force.
        withdrawn: the revocations and blocks.
        now: aware, UTC.
        memory: a cache of verified signatures.

    Raises:
        Misused: the text is not a name of a published cluster, or the published document is invalid.
        Refused: the policy does not accept the document.
        Errors of catalog and signer: it does not exist, or cannot be verified now.
    """
    try:
        reference = Reference.parse(text)
    except Misused as exc:
        raise Misused(f"{text[:80]!r} is not a name of a published cluster; give VO/NAME@VERSION or VO/NAME") from exc
    title, data = catalog.cluster(reference)
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    vo = title.partition("/")[0]
    checks = verify_endorsements(
        EndorsedSubject(digest, title, kind="cluster"),
        catalog.cluster_endorsements(digest),
        [anchor for anchor in policy.anchors if anchor.vo == vo],
        now,
        max_age=timedelta(seconds=policy.quorum(vo).max_age),
        cache=memory,
        x509=policy.x509_rules,
    )
    held = effective_revocations(policy, withdrawn, now, memory)
    checks = apply_revocations(withdrawn.blocks.void(checks), held)
    if why := missing_endorsement(policy, vo, checks):
        raise Refused(f"the site's policy does not accept the cluster {title}: {why}")
    try:
        return title, parse_canonical(ClusterDocument, data, f"cluster {title}", limit=MAX_CLUSTER)
    except DocumentError as exc:
        raise Misused(str(exc)) from exc


def missing_endorsement(policy: Policy, vo: str, checks: Sequence[EndorsementCheck]) -> str:
    """Why a document of a VO is not accepted, as a sentence; empty if it is."""
    quorum = policy.quorum(vo)
    counted = [check for check in checks if check.counts and check.fingerprint not in policy.endorsers.deny]
    others = dict.fromkeys(check.reason for check in checks if check not in counted)
    vouching = {check.fingerprint for check in counted}
    if len(vouching) < quorum.threshold:
        omitted = f"; not counted: {' '.join(others)}" if others else ""
        return f"{len(vouching)} of {quorum.threshold} endorsers of {vo} vouch for it{omitted}"
    for role, least in sorted(quorum.roles.items()):
        found = {check.fingerprint for check in counted if check.role == role}
        if len(found) < least:
            return f"{len(found)} of {least} endorsers as {role} of {vo} vouch for it"
    return ""
