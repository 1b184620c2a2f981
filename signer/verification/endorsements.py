"""Makes endorsements, and verifies which of them count: statements, signatures and anchors together."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from signer.errors import SignatureError
from signer.statements.endorsement import MAX_STATEMENT, SubjectKind, endorsement_statement
from signer.verification.batch import SCHEMES, examine_all
from signer.verification.signature_cache import SignatureCache, anchors_digest
from signer.verification.signers import Signer
from signer.verification.trust import Anchor, Claim, EndorsedSubject, EndorsementCheck, evaluate_claim, read_claim
from signer.x509.cms_verifier import X509Rules

MAX_ENDORSEMENTS = 64
"""Endorsements of one image that are examined; a catalog that sends more is broken or hostile."""

ENDORSEMENT_LIFETIME = timedelta(days=365)
DEFAULT_ROLE = "image-administrator"


def endorse(
    signer: Signer,
    subject: str,
    title: str,
    now: datetime,
    *,
    kind: SubjectKind = "image",
    role: str = DEFAULT_ROLE,
    lifetime: timedelta = ENDORSEMENT_LIFETIME,
    comment: str = "",
) -> tuple[bytes, bytes]:
    """Endorse an image, a partition or a cluster document; returns the statement's bytes and the detached signature over them.

    Args:
        signer: the endorser.
        subject, title, kind: as in :func:`signer.statements.endorsement.endorsement_statement`.
        now: the time of issue.
        role: the endorser's function; a site trusts a key for named roles.
        lifetime: how long the endorsement is valid.
        comment: free text for people.

    Raises:
        DocumentError: an argument is malformed.
        KeyUnusable, SignatureError: as `Signer.sign`.
    """
    statement = endorsement_statement(subject, title, signer.endorser, role, now, now + lifetime, comment, kind)
    return statement, signer.sign(statement, now)


def verify_endorsements(
    subject: EndorsedSubject,
    pairs: Sequence[tuple[bytes, bytes]],
    anchors: Sequence[Anchor],
    now: datetime,
    *,
    max_age: timedelta | None = None,
    cache: SignatureCache | None = None,
    x509: X509Rules | None = None,
) -> list[EndorsementCheck]:
    """Verify endorsements; returns a check of each, in the order given. One that does not count is not an error.

    Args:
        subject: the image or cluster document in question.
        pairs: (statement, detached signature).
        anchors: the endorsers that the site trusts, by VO and role.
        now: the time of the decision.
        max_age: since the endorsement was issued; None for any.
        cache: of earlier results; without one all signatures are examined.
        x509: the rules and CAs for certificates; without them no certificate counts.

    Raises:
        SignatureError: there are more than MAX_ENDORSEMENTS.
        KeyUnusable: the key of an anchor is not a public key or certificate.
    """
    # 1. Sizes come first: nothing oversized is parsed, hashed or passed on.
    if len(pairs) > MAX_ENDORSEMENTS:
        raise SignatureError(
            f"{subject.digest} has {len(pairs)} endorsements, more than the {MAX_ENDORSEMENTS} allowed"
        )
    # 2 to 4. The claims; the parser limits the size of statements.
    claims = [read_claim(subject, statement[: MAX_STATEMENT + 1], anchors) for statement, _ in pairs]
    checks: list[EndorsementCheck | None] = [None if isinstance(claim, Claim) else claim for claim in claims]
    # 5 to 9, for the statements that claim something.
    digest = b"" if cache is None else anchors_digest(anchors)
    found = {at: claim for at, claim in enumerate(claims) if isinstance(claim, Claim)}
    for scheme in SCHEMES:
        wanted = {at: claim for at, claim in found.items() if claim.statement.scheme == scheme}
        if wanted:
            offered = {at: pairs[at] for at in wanted}
            keys = [anchor.key for claim in wanted.values() for anchor in claim.anchors]
            for at, examined in examine_all(scheme, offered, keys, digest, now, cache, x509):
                # 7 to 9.
                checks[at] = evaluate_claim(wanted[at], examined, now, max_age=max_age)
    return [check for check in checks if check is not None]
