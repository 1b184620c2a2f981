"""Withdrawing what was vouched for, and finding out what withdrawals there are and what they void.

Who may: the endorser himself (his endorsements, his key, and his word for an image), and any anchor of the same VO in the
role of security officer (everything of the VO, images as such). A revocation that was good when it was issued stays
good: that its signer's key expires later brings nothing back. Nothing voids a revocation; where people revoke each other
in anger or after a theft, nothing runs until the site has changed its anchors.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from signer.errors import DocumentError, SignatureError
from signer.openpgp.status_lines import SKEW, SignatureCheck
from signer.statements.endorsement import MAX_STATEMENT
from signer.statements.revocation import (
    SECURITY_OFFICER,
    RevocationKind,
    RevocationReason,
    RevocationStatement,
    parse_revocation,
    revocation_statement,
)
from signer.verification.batch import SCHEMES, examine_all
from signer.verification.signature_cache import SignatureCache, anchors_digest
from signer.verification.signers import Signer
from signer.verification.trust import Anchor, EndorsementCheck, ExaminedStatement
from signer.x509.cms_verifier import X509Rules

MAX_REVOCATIONS = 65536
"""Revocations that are looked at; a catalog that sends more is broken or hostile."""


@dataclass(frozen=True)
class EffectiveRevocation:
    """A revocation that holds.

    Attributes:
        statement: what it says.
        officer: whether its signer is a security officer of the VO, and not only the endorser concerned.
    """

    statement: RevocationStatement
    officer: bool

    @property
    def text(self) -> str:
        """What was withdrawn, by whom, when and why, as a clause."""
        says = self.statement.predicate
        comment = f" ({says.comment})" if says.comment else ""
        return f"revoked as {says.reason} on {says.issued:%Y-%m-%d} by {self.statement.fingerprint}{comment}"

    def voids(self, check: EndorsementCheck) -> bool:
        """Whether an endorsement that counted so far counts no more."""
        says = self.statement.predicate
        own = (check.scheme, check.fingerprint) == (self.statement.scheme, self.statement.fingerprint)
        if says.vo != check.vo or not (self.officer or own):
            return False
        match says.kind:
            case "endorsement":
                return self.statement.digest == check.digest
            case "image":
                return check.image_id == f"sha256:{self.statement.digest}"
            case "key":
                late = check.issued is None or check.issued >= says.since
                one = says.serial is None or says.serial == check.signer
                return self.names(check) and one and (says.reason == "compromised" or late)

    def names(self, check: EndorsementCheck) -> bool:
        """Whether it is about the key that endorsed."""
        return self.statement.target == f"{check.scheme}:{check.fingerprint}"

    def stops(self, image_id: str, vo: str) -> bool:
        """Whether it withdraws the image as such, whoever vouches for it."""
        says = self.statement.predicate
        return (says.kind, says.vo) == ("image", vo) and self.officer and image_id == f"sha256:{self.statement.digest}"


@dataclass(frozen=True)
class RevocationCheck:
    """What a signed revocation is worth: the withdrawal, or why it does not count (a sentence)."""

    withdrawal: EffectiveRevocation | None
    reason: str

    @property
    def counts(self) -> bool:
        """Whether it holds."""
        return self.withdrawal is not None


def revoke(
    signer: Signer,
    kind: RevocationKind,
    target: str,
    vo: str,
    now: datetime,
    *,
    reason: RevocationReason,
    role: str = SECURITY_OFFICER,
    digest: str = "",
    since: datetime | None = None,
    serial: str | None = None,
    comment: str = "",
) -> tuple[bytes, bytes]:
    """Withdraw something: the statement's bytes and the signature. Arguments as `revocation_statement` takes them.

    Raises:
        DocumentError: an argument is not of its form.
        KeyUnusable, SignatureError: as whoever signs.
    """
    statement = revocation_statement(
        kind,
        target,
        signer.endorser,
        vo,
        role,
        reason,
        now,
        digest=digest,
        since=since,
        serial=serial,
        comment=comment,
    )
    return statement, signer.sign(statement, now)


def verify_revocations(
    pairs: Sequence[tuple[bytes, bytes]],
    anchors: Sequence[Anchor],
    now: datetime,
    *,
    x509: X509Rules | None = None,
    memory: SignatureCache | None = None,
) -> list[RevocationCheck]:
    """What each revocation is worth, in the order given; arguments as for endorsements.

    Raises:
        SignatureError: more revocations than there can be.
        KeyUnusable: what an anchor gives as its key is none.
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
    known = b"" if memory is None else anchors_digest(anchors)
    for scheme in SCHEMES:
        wanted = {at: pairs[at] for at, (said, _) in claims.items() if said.scheme == scheme}
        keys = [anchor.key for at in wanted for anchor in claims[at][1]]
        for at, examined in examine_all(scheme, wanted, keys, known, now, memory, x509) if wanted else ():
            said, named = claims[at]
            by = _signers(examined, said, named)
            if not by and said.predicate.issued < now:
                # Keys expire, and what they withdrew stays withdrawn.
                lax = x509 and replace(x509, crls="if-present")
                then = examine_all(scheme, {at: pairs[at]}, keys, b"", said.predicate.issued, None, lax)
                by = [anchor for _, each in then for anchor in _signers(each, said, named)]
            checks[at] = _checked(said, by, examined)
    return [check for check in checks if check is not None]


def apply_revocations(
    checks: Iterable[EndorsementCheck], withdrawals: Sequence[EffectiveRevocation]
) -> list[EndorsementCheck]:
    """The endorsements after withdrawals: those that are void do not count, and say why. Pure."""
    found = []
    for check in checks:
        by = next((each for each in withdrawals if check.counts and each.voids(check)), None)
        if by is not None:
            what = {"endorsement": "It", "image": "The image", "key": "Its key"}[by.statement.predicate.kind]
            check = replace(check, counts=False, reason=f"{what} was {by.text}.")
        found.append(check)
    return found


def _claim(data: bytes, anchors: Sequence[Anchor], now: datetime) -> tuple[RevocationStatement, list[Anchor]] | str:
    try:
        said = parse_revocation(data)
    except DocumentError as exc:
        return f"{exc}."
    says = said.predicate
    named = [
        anchor
        for anchor in anchors
        if (anchor.scheme, anchor.fingerprint, anchor.vo) == (said.scheme, said.fingerprint, says.vo)
    ]
    if not named:
        return f"{said.fingerprint} is nobody here who could revoke anything of {says.vo}."
    if says.issued > now + SKEW:
        return f"It is issued on {says.issued:%Y-%m-%d %H:%M} UTC, in the future."
    return said, named


def _signers(examined: ExaminedStatement, said: RevocationStatement, named: Sequence[Anchor]) -> list[Anchor]:
    """The anchors whose holder signed: of namesakes with certificates by different CAs only the one who did."""
    good = {check.names for check in examined.signatures if _by_whom_it_says(check, said)}
    return [anchor for anchor in named if anchor.names in good]


def _by_whom_it_says(check: SignatureCheck, said: RevocationStatement) -> bool:
    return check.good and (check.scheme, check.fingerprint) == (said.scheme, said.fingerprint)


def _checked(said: RevocationStatement, by: Sequence[Anchor], examined: ExaminedStatement) -> RevocationCheck:
    if not by:
        reasons = examined.problem or ", ".join(check.reason for check in examined.signatures if check.reason)
        return RevocationCheck(None, f"The signature does not count: {reasons or 'it is by somebody else'}.")
    withdrawal = EffectiveRevocation(said, officer=any(anchor.role == SECURITY_OFFICER for anchor in by))
    return RevocationCheck(withdrawal, f"{said.target} was {withdrawal.text}.")
