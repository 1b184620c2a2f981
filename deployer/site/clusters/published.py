"""Cluster documents that a catalog has published, and whether the site's policy takes them. Pure but for the catalog.

Whoever orders a published cluster orders what somebody put together for a whole VO, so the site asks of the document what
its policy asks of the VO's images: enough endorsers, in the roles that are wanted, recent enough, none of them withdrawn.
Each role's image is judged by itself all the same, at admission and on its node: a document's endorsement stands for none.
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
from signer.verification.endorsements import verify_cluster
from signer.verification.revocations import apply_revocations
from signer.verification.signature_cache import SignatureCache
from signer.verification.trust import EndorsementCheck


def resolve_published(
    catalog: TrustedCatalog,
    text: str,
    policy: Policy,
    withdrawn: RevocationState,
    now: datetime,
    memory: SignatureCache | None = None,
) -> tuple[str, ClusterDocument]:
    """The document that a reference means now, and its full name.

    Args:
        catalog: see there.
        text: VO/NAME@VERSION or VO/NAME.
        policy: in force.
        withdrawn: what has been revoked or blocked.
        now: aware, UTC.
        memory: of signatures that were examined before.

    Raises:
        Misused: it is no name of a published cluster, or what is published is no cluster document of ours.
        Refused: the policy does not take it.
        Errors of catalog and signer: it is not there, or cannot be verified now.
    """
    try:
        reference = Reference.parse(text)
    except Misused as exc:
        raise Misused(f"{text[:80]!r} names no published cluster; give VO/NAME@VERSION or VO/NAME") from exc
    title, data = catalog.cluster(reference)
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    vo = title.partition("/")[0]
    checks = verify_cluster(
        digest,
        title,
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
        raise Refused(f"the site's policy does not take the cluster {title}: {why}")
    try:
        return title, parse_canonical(ClusterDocument, data, f"cluster {title}", limit=MAX_CLUSTER)
    except DocumentError as exc:
        raise Misused(str(exc)) from exc


def missing_endorsement(policy: Policy, vo: str, checks: Sequence[EndorsementCheck]) -> str:
    """What keeps a document of a VO from being taken, as a sentence; empty if nothing does."""
    quorum = policy.quorum(vo)
    counted = [check for check in checks if check.counts and check.fingerprint not in policy.endorsers.deny]
    others = dict.fromkeys(check.reason for check in checks if check not in counted)
    vouching = {check.fingerprint for check in counted}
    if len(vouching) < quorum.threshold:
        told = f"; not counted: {' '.join(others)}" if others else ""
        return f"{len(vouching)} of {quorum.threshold} endorsers of {vo} vouch for it{told}"
    for role, least in sorted(quorum.roles.items()):
        found = {check.fingerprint for check in counted if check.role == role}
        if len(found) < least:
            return f"{len(found)} of {least} endorsers as {role} of {vo} vouch for it"
    return ""
