"""Who counts: from statements, examined signatures and trust anchors to a verdict. Pure: no files, no clock, no gpg.

The verifier's steps are numbered here as in docs/trust-model.md and happen in that order. Steps 1, 5 and 6 lie in
signer.verification.endorsements, signer.openpgp.keyring and signer.openpgp.status_lines; whatever they find out comes in as values.
"""

import hashlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from signer.errors import DocumentError, KeyUnusable
from signer.openpgp.keys import normalize_fingerprint
from signer.openpgp.status_lines import SKEW, SignatureCheck
from signer.statements.endorsement import (
    PartitionStatement,
    VouchingStatement,
    parse_any_endorsement,
    parse_cluster_endorsement,
)
from signer.x509.certificates import read_certificate


def scheme_of(fingerprint: str) -> str:
    """How the holder of a key signs: a certificate's subject begins with a slash."""
    return "x509" if fingerprint.startswith("/") else "openpgp"


@dataclass(frozen=True)
class Anchor:
    """A key that a site trusts to vouch for a VO's images in a role.

    Attributes:
        vo: for whose images.
        role: in what function.
        fingerprint: of the primary key, 40 upper-case hex digits; or the subject of the certificate.
        key: the public key, armoured or binary; or a certificate. A certificate stands for its holder, that is for its
            subject and issuer, whose DER is compared: those who renew theirs stay trusted.
        scheme: `openpgp` or `x509`.
    """

    vo: str
    role: str
    fingerprint: str
    key: bytes
    scheme: str = "openpgp"

    def __post_init__(self) -> None:
        """KeyUnusable unless the fingerprint is in its one form: another could never match, and nobody would notice."""
        if self.scheme == "x509":
            if (subject := read_certificate(self.key).subject) != self.fingerprint:
                raise KeyUnusable(f"the certificate is that of {subject}, not of {self.fingerprint}")
        elif normalize_fingerprint(self.fingerprint) != self.fingerprint:
            raise KeyUnusable(f"write the fingerprint as {normalize_fingerprint(self.fingerprint)}")

    @property
    def names(self) -> str:
        """What tells holders of certificates apart; empty for OpenPGP, whose fingerprints do."""
        return read_certificate(self.key).names if self.scheme == "x509" else ""


@dataclass(frozen=True)
class EndorsementCheck:
    """What one endorsement is worth. `reason` is a sentence in either case.

    What stands in the statement is repeated here even where it does not count; it is empty or None where the statement
    could not be read. `image_id` and `title` are what the statement says it is about; `address` is set, and `image_id`
    empty, where that is one partition. `digest` is the SHA-256 of the statement's bytes; `signer` is which key or
    certificate of the endorser signed (see `SignatureCheck`), known only where it counts.
    """

    counts: bool
    reason: str
    fingerprint: str = ""
    vo: str = ""
    role: str = ""
    issued: datetime | None = None
    expires: datetime | None = None
    comment: str = ""
    title: str = ""
    image_id: str = ""
    address: str = ""
    scheme: str = ""
    digest: str = ""
    signer: str = ""


@dataclass(frozen=True)
class Claim:
    """A statement that would count if its signature holds: about the right image, in the name of an anchor.

    Attributes:
        anchors: all that fit; two certificates of one subject by different CAs are two.
        digest: the SHA-256 of the statement's bytes.
    """

    statement: VouchingStatement
    anchors: tuple[Anchor, ...]
    digest: str = ""


@dataclass(frozen=True)
class ExaminedStatement:
    """A statement's bytes with the signatures found on exactly them; `problem` says why there are none to look at."""

    statement: bytes
    signatures: tuple[SignatureCheck, ...] = ()
    problem: str = ""


@dataclass(frozen=True)
class Verdict:
    """Whether enough endorsers vouch, who does, and why the others do not. True or false by `bool()`."""

    signers: tuple[EndorsementCheck, ...]
    others: tuple[EndorsementCheck, ...]
    threshold: int
    reason: str
    accepted: bool

    @property
    def missing(self) -> int:
        """How many more distinct endorsers are needed."""
        return max(0, self.threshold - len(self.signers))

    def __bool__(self) -> bool:
        return self.accepted


def read_claim(
    image_id: str,
    data: bytes,
    anchors: Sequence[Anchor],
    *,
    title: str | None = None,
    addresses: Collection[str] = (),
) -> Claim | EndorsementCheck:
    """Steps 2 to 4: what the statement claims, or why it cannot count whoever signed it.

    Args:
        image_id: the image in question.
        data: the statement's bytes, the very ones that the signature is over.
        anchors: whom the site trusts.
        title: the image's VO/name@version where it is known; the statement must then name the same.
        addresses: of the image's partitions; a statement may be about one of them instead.
    """
    digest = hashlib.sha256(data).hexdigest()
    # 2. The statement is an endorsement, strictly parsed from its canonical bytes.
    try:
        statement = parse_any_endorsement(data)
    except DocumentError as exc:
        return EndorsementCheck(counts=False, reason=f"{exc}.")
    # 3. Its only subject is this very image.
    partition = isinstance(statement, PartitionStatement)
    if partition and statement.address not in addresses:
        return _refused(statement, f"It is about a partition that the image does not have, {statement.address}.")
    if not partition and statement.image_id != image_id:
        return _refused(statement, f"It is about another image, {statement.image_id}.")
    if not partition and title is not None and statement.title != title:
        return _refused(statement, f"It calls the image {statement.title}, but its manifest says {title}.")
    return _anchored(statement, anchors, digest)


def read_cluster_claim(
    cluster: str, data: bytes, anchors: Sequence[Anchor], *, title: str | None = None
) -> Claim | EndorsementCheck:
    """As :func:`read_claim`, of a cluster document: only a statement of that kind is about one.

    Args:
        cluster: `sha256:` and 64 hex digits, of the canonical document.
        data, anchors: as there.
        title: VO/name@version under which the document is published; the statement must then name the same.
    """
    try:
        statement = parse_cluster_endorsement(data)
    except DocumentError as exc:
        return EndorsementCheck(counts=False, reason=f"{exc}.")
    if statement.image_id != cluster:
        return _refused(statement, f"It is about another cluster document, {statement.image_id}.")
    if title is not None and statement.title != title:
        return _refused(statement, f"It calls the cluster {statement.title}, and it is published as {title}.")
    return _anchored(statement, anchors, hashlib.sha256(data).hexdigest())


def _anchored(statement: VouchingStatement, anchors: Sequence[Anchor], digest: str) -> Claim | EndorsementCheck:
    # 4. Its endorser is an anchor, for that VO and in that role.
    who = f"{statement.fingerprint} is not trusted"
    named = [anchor for anchor in anchors if (anchor.scheme, anchor.fingerprint) == _endorser(statement)]
    if not anchors:
        return _refused(statement, "No endorser is trusted here: name at least one trust anchor.")
    if not named:
        return _refused(statement, f"{who} as an endorser here.")
    of_vo = [anchor for anchor in named if anchor.vo == statement.vo]
    if not of_vo:
        return _refused(statement, f"{who} for images of VO {statement.vo}, only of {_list(a.vo for a in named)}.")
    fitting = [anchor for anchor in of_vo if anchor.role == statement.predicate.role]
    if not fitting:
        roles = _list(anchor.role for anchor in of_vo)
        return _refused(statement, f"{who} in the role {statement.predicate.role}, only as {roles}.")
    return Claim(statement, tuple(fitting), digest)


def evaluate_claim(
    claim: Claim, examined: ExaminedStatement, now: datetime, *, max_age: timedelta | None = None
) -> EndorsementCheck:
    """Steps 7 to 9: whether the claim holds, given the signatures on its bytes (steps 5 and 6)."""
    statement, says = claim.statement, claim.statement.predicate
    # 5, 6. At least one signature, each judged by itself.
    if examined.problem:
        return _refused(statement, f"{examined.problem[0].upper()}{examined.problem[1:]}.")
    # 7. A good signature is by the key that the statement names, and by no other.
    good = [check for check in examined.signatures if check.good]
    allowed = {(*_endorser(statement), anchor.names) for anchor in claim.anchors}
    by = next((check for check in good if (check.scheme, check.fingerprint, check.names) in allowed), None)
    if by is None:
        if good:
            return _refused(statement, f"It names {statement.fingerprint} but was signed by {good[0].fingerprint}.")
        reasons = _list(check.reason for check in examined.signatures) or "there is none"
        return _refused(statement, f"The signature does not count: {reasons}.")
    # 8. It has been issued, and has not expired.
    if says.issued > now + SKEW:
        return _refused(statement, f"It is issued on {says.issued:%Y-%m-%d %H:%M} UTC, in the future.")
    if says.expires <= now:
        return _refused(statement, f"It expired on {says.expires:%Y-%m-%d %H:%M} UTC.")
    if by.since is not None and says.issued < by.since:
        since = f"{by.since:%Y-%m-%d %H:%M} UTC"
        return _refused(statement, f"It was issued before its endorser's certificates were valid, from {since} on.")
    # 9. It is no older than the site allows.
    if max_age is not None and now - says.issued > max_age:
        return _refused(statement, f"It is {(now - says.issued).days} days old, more than the {max_age.days} allowed.")
    until = f"until {says.expires:%Y-%m-%d}"
    what = " for a partition" if statement.address else ""
    reason = f"{statement.fingerprint} vouches{what} as {says.role} of {statement.vo} {until}."
    return replace(_check(statement, reason, counts=True), digest=claim.digest, signer=by.signer)


def count_endorsers(checks: Sequence[EndorsementCheck], anchors: Sequence[Anchor], threshold: int) -> Verdict:
    """Step 10: whether enough distinct endorsers count. No anchors or no threshold is a refusal."""
    signers: dict[str, EndorsementCheck] = {}
    others = []
    for check in checks:
        if not check.counts:
            others.append(check)
        elif check.fingerprint not in signers:
            signers[check.fingerprint] = check
    enough = bool(anchors) and threshold >= 1 and len(signers) >= threshold
    if not anchors:
        reason = "No endorser is trusted here: name at least one trust anchor."
    elif threshold < 1:
        reason = f"A threshold of {threshold} demands nothing: demand at least one endorser."
    else:
        reason = f"{len(signers)} of {threshold} endorsers vouch."
    return Verdict(tuple(signers.values()), tuple(others), threshold, reason, enough)


def evaluate_endorsements(
    image_id: str,
    examined: Sequence[ExaminedStatement],
    anchors: Sequence[Anchor],
    now: datetime,
    *,
    threshold: int = 1,
    max_age: timedelta | None = None,
    title: str | None = None,
) -> Verdict:
    """Steps 2 to 10 over endorsements whose signatures have been examined.

    Args:
        image_id: the image in question, `sha256:` and 64 hex digits.
        examined: each statement with the signatures on it.
        anchors: whom the site trusts.
        now: the time of the decision.
        threshold: how many distinct endorsers must count.
        max_age: since the endorsement was issued; None for any.
        title: the image's VO/name@version where it is known.
    """
    checks = []
    for each in examined:
        claim = read_claim(image_id, each.statement, anchors, title=title)
        checks.append(evaluate_claim(claim, each, now, max_age=max_age) if isinstance(claim, Claim) else claim)
    return count_endorsers(checks, anchors, threshold)


def _endorser(statement: VouchingStatement) -> tuple[str, str]:
    return statement.scheme, statement.fingerprint


def _refused(statement: VouchingStatement, reason: str) -> EndorsementCheck:
    return _check(statement, reason, counts=False)


def _check(statement: VouchingStatement, reason: str, *, counts: bool) -> EndorsementCheck:
    says = statement.predicate
    return EndorsementCheck(
        counts=counts,
        reason=reason,
        fingerprint=statement.fingerprint,
        vo=statement.vo,
        role=says.role,
        issued=says.issued,
        expires=says.expires,
        comment=says.comment,
        title=statement.title,
        image_id=statement.image_id,
        address=statement.address,
        scheme=statement.scheme,
    )


def _list(texts: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(texts))
