"""Decides which endorsements count: statements, examined signatures and trust anchors in, checks out. Pure.

The verifier's steps are numbered here as in docs/trust-model.md and happen in that order. Steps 1, 5 and 6 are in
signer.verification.endorsements, signer.openpgp.verifier and signer.openpgp.status_lines; their results come in as values.
Step 10, how many endorsers must count, is the policy's (deployer.policy.rules).
"""

import hashlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

from signer.errors import DocumentError, KeyUnusable
from signer.openpgp.keys import normalize_fingerprint
from signer.openpgp.status_lines import SKEW, SignatureCheck
from signer.statements.endorsement import SubjectKind, VouchingStatement, parse_endorsement
from signer.x509.certificates import read_certificate


def scheme_of(fingerprint: str) -> str:
    """Return the scheme of a signer's fingerprint: a certificate's subject begins with a slash."""
    return "x509" if fingerprint.startswith("/") else "openpgp"


@dataclass(frozen=True)
class Anchor:
    """A key that a site trusts to vouch for a VO's images in a role.

    Attributes:
        vo: the VO whose images it may endorse.
        role: the function in which it may do so.
        fingerprint: of the primary key, 40 upper-case hex digits; or the subject of the certificate.
        key: the public key, armoured or binary; or a certificate. A certificate stands for its holder, that is for its
            subject and issuer, whose DER is compared: a holder who renews the certificate stays trusted.
        scheme: `openpgp` or `x509`.
    """

    vo: str
    role: str
    fingerprint: str
    key: bytes
    scheme: str = "openpgp"

    def __post_init__(self) -> None:
        """KeyUnusable unless the fingerprint is in its one form: another form would silently never match."""
        if self.scheme == "x509":
            if (subject := read_certificate(self.key).subject) != self.fingerprint:
                raise KeyUnusable(f"the certificate belongs to {subject}, not to {self.fingerprint}")
        elif normalize_fingerprint(self.fingerprint) != self.fingerprint:
            raise KeyUnusable(f"write the fingerprint as {normalize_fingerprint(self.fingerprint)}")

    @property
    def holder_id(self) -> str:
        """Identifies the holder of a certificate; empty for OpenPGP, where the fingerprint does."""
        return read_certificate(self.key).holder_id if self.scheme == "x509" else ""


@dataclass(frozen=True)
class EndorsementCheck:
    """Whether one endorsement counts. `reason` is a sentence in either case.

    The statement's members are repeated here even if it does not count; they are empty or None if it could not be read.
    `image_id` and `title` are the subject that the statement names; `address` is set, and `image_id` empty, if that is
    one partition. `digest` is the SHA-256 of the statement's bytes; `signer` is the endorser's key or certificate that
    signed (see `SignatureCheck`), known only if the endorsement counts.
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
    """A statement that counts if its signature is good: about the right image, in the name of an anchor.

    Attributes:
        anchors: all that match; two certificates of one subject by different CAs are two.
        digest: the SHA-256 of the statement's bytes.
    """

    statement: VouchingStatement
    anchors: tuple[Anchor, ...]
    digest: str = ""


@dataclass(frozen=True)
class ExaminedStatement:
    """A statement's bytes with the signatures on exactly these; `problem` says why they could not be examined."""

    statement: bytes
    signatures: tuple[SignatureCheck, ...] = ()
    problem: str = ""


@dataclass(frozen=True)
class EndorsedSubject:
    """The image or cluster document that endorsements are verified for.

    Attributes:
        digest: `sha256:` and 64 hex digits: the image ID, or of the canonical cluster document.
        title: VO/name@version, from an image's manifest or under which a cluster document is published; an endorsement of
            another title does not count. Without it, compare the `vo` of each check with the manifest's.
        addresses: of an image's partitions; endorsements of these are accepted as well, and their checks say so.
        kind: image or cluster document.
    """

    digest: str
    title: str | None = None
    addresses: Collection[str] = ()
    kind: Literal["image", "cluster"] = "image"


def read_claim(subject: EndorsedSubject, data: bytes, anchors: Sequence[Anchor]) -> Claim | EndorsementCheck:
    """Read what a statement claims (steps 2 to 4), or why it cannot count by any signature.

    Args:
        subject: the image or cluster document in question; a statement may be about a partition of the image instead.
        data: the statement's bytes, exactly those that are signed.
        anchors: the endorsers that the site trusts.
    """
    kinds: tuple[SubjectKind, ...] = ("image", "partition") if subject.kind == "image" else ("cluster",)
    noun, known_by = (
        ("image", "its manifest says") if subject.kind == "image" else ("cluster document", "it is published as")
    )
    # 2. The statement is an endorsement, strictly parsed from its canonical bytes.
    try:
        statement = parse_endorsement(data, *kinds)
    except DocumentError as exc:
        return EndorsementCheck(counts=False, reason=f"{exc}.")
    # 3. Its only subject is this image or document.
    if statement.address:
        if statement.address not in subject.addresses:
            return _refused(statement, f"It is about a partition that the image does not have, {statement.address}.")
    elif statement.image_id != subject.digest:
        return _refused(statement, f"It is about another {noun}, {statement.image_id}.")
    elif subject.title is not None and statement.title != subject.title:
        return _refused(statement, f"It calls the {noun} {statement.title}, but {known_by} {subject.title}.")
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
    return Claim(statement, tuple(fitting), hashlib.sha256(data).hexdigest())


def evaluate_claim(
    claim: Claim, examined: ExaminedStatement, now: datetime, *, max_age: timedelta | None = None
) -> EndorsementCheck:
    """Decide whether the claim holds (steps 7 to 9), given the signatures on its bytes (steps 5 and 6)."""
    statement, predicate = claim.statement, claim.statement.predicate
    # 5, 6. At least one signature, each examined by itself.
    if examined.problem:
        return _refused(statement, f"{examined.problem[0].upper()}{examined.problem[1:]}.")
    # 7. A good signature is by the key that the statement names, and by no other.
    good = [check for check in examined.signatures if check.good]
    allowed = {(*_endorser(statement), anchor.holder_id) for anchor in claim.anchors}
    by = next((check for check in good if (check.scheme, check.fingerprint, check.holder_id) in allowed), None)
    if by is None:
        if good:
            return _refused(statement, f"It names {statement.fingerprint} but was signed by {good[0].fingerprint}.")
        reasons = _list(check.reason for check in examined.signatures) or "the file holds no signature"
        return _refused(statement, f"The signature does not count: {reasons}.")
    # 8. It has been issued, and has not expired.
    if predicate.issued > now + SKEW:
        return _refused(statement, f"It is issued on {predicate.issued:%Y-%m-%d %H:%M} UTC, in the future.")
    if predicate.expires <= now:
        return _refused(statement, f"It expired on {predicate.expires:%Y-%m-%d %H:%M} UTC.")
    if by.since is not None and predicate.issued < by.since:
        since = f"{by.since:%Y-%m-%d %H:%M} UTC"
        return _refused(statement, f"It was issued before its endorser's certificates were valid, from {since} on.")
    # 9. It is no older than the site allows.
    if max_age is not None and now - predicate.issued > max_age:
        return _refused(
            statement, f"It is {(now - predicate.issued).days} days old, more than the {max_age.days} allowed."
        )
    until = f"until {predicate.expires:%Y-%m-%d}"
    what = " for a partition" if statement.address else ""
    reason = f"{statement.fingerprint} vouches{what} as {predicate.role} of {statement.vo} {until}."
    return replace(_check(statement, reason, counts=True), digest=claim.digest, signer=by.signer)


def _endorser(statement: VouchingStatement) -> tuple[str, str]:
    return statement.scheme, statement.fingerprint


def _refused(statement: VouchingStatement, reason: str) -> EndorsementCheck:
    return _check(statement, reason, counts=False)


def _check(statement: VouchingStatement, reason: str, *, counts: bool) -> EndorsementCheck:
    predicate = statement.predicate
    return EndorsementCheck(
        counts=counts,
        reason=reason,
        fingerprint=statement.fingerprint,
        vo=statement.vo,
        role=predicate.role,
        issued=predicate.issued,
        expires=predicate.expires,
        comment=predicate.comment,
        title=statement.title,
        image_id=statement.image_id,
        address=statement.address,
        scheme=statement.scheme,
    )


def _list(texts: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(texts))
