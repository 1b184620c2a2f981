"""Makes revocations, and verifies which of them are in effect and what they void.

Endorsers may revoke their own endorsements, keys, and support for an image; any anchor of the same VO in the role of
security officer may revoke everything of the VO, images as such included. A revocation that was good when it was issued
stays good, even when its signer's key expires later. Nothing voids a revocation; if people revoke each other, in anger or
after a theft, nothing runs until the site has changed its anchors.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from signer.errors import DocumentError, SignatureError
from signer.openpgp.status_lines import SKEW
from signer.statements.endorsement import MAX_STATEMENT
from signer.statements.revocation import (
    SECURITY_OFFICER,
    RevocationReason,
    RevocationStatement,
    RevokedObject,
    parse_revocation,
    revocation_statement,
)
from signer.verification.batch import SCHEMES, examine_all
from signer.verification.signature_cache import SignatureCache, anchors_digest
from signer.verification.signers import Signer
from signer.verification.trust import Anchor, EndorsementCheck, ExaminedStatement
from signer.x509.cms_verifier import X509Rules

MAX_REVOCATIONS = 65536
"""Revocations that are examined; a catalog that sends more is broken or hostile."""


@dataclass(frozen=True)
class EffectiveRevocation:
    """A revocation that is in effect.

    Attributes:
        statement: the signed statement.
        officer: whether its signer is a security officer of the VO, and not only the endorser concerned.
    """

    statement: RevocationStatement
    officer: bool

    @property
    def text(self) -> str:
        """By whom, when and why the object was revoked, as a clause."""
        predicate = self.statement.predicate
        comment = f" ({predicate.comment})" if predicate.comment else ""
        return f"revoked as {predicate.reason} on {predicate.issued:%Y-%m-%d} by {self.statement.fingerprint}{comment}"

    def voids(self, check: EndorsementCheck) -> bool:
        """Whether it voids an endorsement that counts otherwise."""
        predicate = self.statement.predicate
        own = (check.scheme, check.fingerprint) == (self.statement.scheme, self.statement.fingerprint)
        if predicate.vo != check.vo or not (self.officer or own):
            return False
        match predicate.kind:
            case "endorsement":
                return self.statement.digest == check.digest
            case "image":
                return check.image_id == f"sha256:{self.statement.digest}"
            case "key":
                late = check.issued is None or check.issued >= predicate.since
                one = predicate.serial is None or predicate.serial == check.signer
                named = self.statement.target == f"{check.scheme}:{check.fingerprint}"
                return named and one and (predicate.reason == "compromised" or late)

    def stops(self, image_id: str, vo: str) -> bool:
        """Whether it revokes the image as such, by whomever it is endorsed."""
        predicate = self.statement.predicate
        return (
            (predicate.kind, predicate.vo) == ("image", vo)
            and self.officer
            and image_id == f"sha256:{self.statement.digest}"
        )


@dataclass(frozen=True)
class RevocationCheck:
    """The result of verifying a signed revocation: the effective revocation, or why it does not count (a sentence)."""

    revocation: EffectiveRevocation | None
    reason: str

    @property
    def counts(self) -> bool:
        """Whether it is in effect."""
        return self.revocation is not None


def revoke(
    signer: Signer,
    revoked: RevokedObject,
    vo: str,
    now: datetime,
    *,
    reason: RevocationReason,
    role: str = SECURITY_OFFICER,
    comment: str = "",
) -> tuple[bytes, bytes]:
    """Make a revocation: the statement's bytes and the signature. Arguments as in `revocation_statement`.

    Raises:
        DocumentError: an argument is malformed.
        KeyUnusable, SignatureError: as `Signer.sign`.
    """
    statement = revocation_statement(revoked, signer.endorser, vo, role, reason, now, comment)
    return statement, signer.sign(statement, now)


def verify_revocations(
    pairs: Sequence[tuple[bytes, bytes]],
    anchors: Sequence[Anchor],
    now: datetime,
    *,
    x509: X509Rules | None = None,
    cache: SignatureCache | None = None,
) -> list[RevocationCheck]:
    """Verify revocations; returns a check of each, in the order given. Arguments as for endorsements.

    Raises:
        SignatureError: there are more than MAX_REVOCATIONS.
        KeyUnusable: the key of an anchor is not a public key or certificate.
    """
    if len(pairs) > MAX_REVOCATIONS:
        raise SignatureError(f"there are {len(pairs)} revocations, more than the {MAX_REVOCATIONS} allowed")
    checks: list[RevocationCheck | None] = []
    claims: dict[int, tuple[RevocationStatement, list[Anchor]]] = {}
    for at, (data, _) in enumerate(pairs):
        claim = _claim(data[: MAX_STATEMENT + 1], anchors, now)
        checks.append(RevocationCheck(None, claim) if isinstance(claim, str) else None)
        if not isinstance(claim, str):
            claims[at] = claim
    digest = b"" if cache is None else anchors_digest(anchors)
    for scheme in SCHEMES:
        wanted = {at: pairs[at] for at, (statement, _) in claims.items() if statement.scheme == scheme}
        keys = [anchor.key for at in wanted for anchor in claims[at][1]]
        for at, examined in examine_all(scheme, wanted, keys, digest, now, cache, x509) if wanted else ():
            statement, named = claims[at]
            by = _signers(examined, statement, named)
            if not by and statement.predicate.issued < now:
                # Keys expire, but their revocations stay in effect.
                lax = x509 and replace(x509, crls="if-present")
                then = examine_all(scheme, {at: pairs[at]}, keys, b"", statement.predicate.issued, None, lax)
                by = [anchor for _, each in then for anchor in _signers(each, statement, named)]
            checks[at] = _check(statement, by, examined)
    return [check for check in checks if check is not None]


def apply_revocations(
    checks: Iterable[EndorsementCheck], revocations: Sequence[EffectiveRevocation]
) -> list[EndorsementCheck]:
    """Apply revocations to endorsements: those that are void do not count, and say why. Pure."""
    found = []
    for check in checks:
        by = next((each for each in revocations if check.counts and each.voids(check)), None)
        if by is not None:
            what = {"endorsement": "It", "image": "The image", "key": "Its key"}[by.statement.predicate.kind]
            check = replace(check, counts=False, reason=f"{what} was {by.text}.")
        found.append(check)
    return found


def _claim(data: bytes, anchors: Sequence[Anchor], now: datetime) -> tuple[RevocationStatement, list[Anchor]] | str:
    try:
        statement = parse_revocation(data)
    except DocumentError as exc:
        return f"{exc}."
    predicate, revoker = statement.predicate, (statement.scheme, statement.fingerprint)
    named = [one for one in anchors if (one.scheme, one.fingerprint) == revoker and one.vo == predicate.vo]
    if not named:
        return f"{statement.fingerprint} is not trusted here to revoke anything of {predicate.vo}."
    if predicate.issued > now + SKEW:
        return f"It is issued on {predicate.issued:%Y-%m-%d %H:%M} UTC, in the future."
    return statement, named


def _signers(examined: ExaminedStatement, statement: RevocationStatement, named: Sequence[Anchor]) -> list[Anchor]:
    """The anchors whose holder signed: of namesakes with certificates by different CAs only the one who did."""
    revoker = (statement.scheme, statement.fingerprint)
    good = {one.holder_id for one in examined.signatures if one.good and (one.scheme, one.fingerprint) == revoker}
    return [anchor for anchor in named if anchor.holder_id in good]


def _check(statement: RevocationStatement, by: Sequence[Anchor], examined: ExaminedStatement) -> RevocationCheck:
    if not by:
        reasons = examined.problem or ", ".join(check.reason for check in examined.signatures if check.reason)
        return RevocationCheck(None, f"The signature does not count: {reasons or 'it is by another signer'}.")
    revocation = EffectiveRevocation(statement, officer=any(anchor.role == SECURITY_OFFICER for anchor in by))
    return RevocationCheck(revocation, f"{statement.target} was {revocation.text}.")
