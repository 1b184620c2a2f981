"""Vouching for an image, and finding out who does: statements, signatures and anchors brought together."""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta

from signer.errors import SignatureError
from signer.openpgp.keyring import Keyring
from signer.statements.endorsement import MAX_STATEMENT, cluster_statement, endorsement_statement, partition_statement
from signer.verification.batch import SCHEMES, examine_all
from signer.verification.signature_cache import SignatureCache, anchors_digest
from signer.verification.signers import KeySigner, Signer
from signer.verification.trust import (
    Anchor,
    Claim,
    EndorsementCheck,
    Verdict,
    count_endorsers,
    evaluate_claim,
    read_claim,
    read_cluster_claim,
)
from signer.x509.cms_verifier import X509Rules

MAX_ENDORSEMENTS = 64
"""Endorsements of one image that are looked at; a catalog that sends more is broken or hostile."""

ENDORSEMENT_LIFETIME = timedelta(days=365)
DEFAULT_ROLE = "image-administrator"


def endorse(
    keyring: Keyring,
    image_id: str,
    title: str,
    fingerprint: str,
    now: datetime,
    *,
    role: str = DEFAULT_ROLE,
    lifetime: timedelta = ENDORSEMENT_LIFETIME,
    comment: str = "",
    passphrase: str = "",
) -> tuple[bytes, bytes]:
    """Vouch for an image: the statement's bytes and the detached signature over them.

    Args:
        keyring: where the key lies.
        image_id: `sha256:` and 64 hex digits.
        title: VO/name@version.
        fingerprint: of the primary key to sign with.
        now: when it is issued.
        role: in what function; a site trusts a key for named roles.
        lifetime: how long the endorsement holds.
        comment: free text for people.
        passphrase: of the key; empty if it has none.

    Raises:
        DocumentError: an argument is not of its form.
        KeyUnusable: the key is not here or cannot sign.
        SignatureError: what was made does not verify, such as by a key that gpg takes but sites would not.
    """
    signer = KeySigner(keyring, fingerprint, passphrase)
    return endorse_as(signer, image_id, title, now, role=role, lifetime=lifetime, comment=comment)


def endorse_as(
    signer: Signer,
    image_id: str,
    title: str,
    now: datetime,
    *,
    role: str = DEFAULT_ROLE,
    lifetime: timedelta = ENDORSEMENT_LIFETIME,
    comment: str = "",
) -> tuple[bytes, bytes]:
    """Vouch for an image as whoever signs; arguments, result and errors otherwise as in :func:`endorse`."""
    statement = endorsement_statement(image_id, title, signer.endorser, role, now, now + lifetime, comment)
    return statement, signer.sign(statement, now)


def endorse_partition(
    signer: Signer,
    address: str,
    title: str,
    now: datetime,
    *,
    role: str = DEFAULT_ROLE,
    lifetime: timedelta = ENDORSEMENT_LIFETIME,
    comment: str = "",
) -> tuple[bytes, bytes]:
    """Vouch for one partition, in whatever image it is used.

    Args:
        signer: who vouches.
        address: of the partition, ROOT-SIZE.
        title: what the signer calls it, VO/name@version; the VO (or site) is the one in whose name he vouches.
        now, role, lifetime, comment: as in :func:`endorse`.
    """
    statement = partition_statement(address, title, signer.endorser, role, now, now + lifetime, comment)
    return statement, signer.sign(statement, now)


def endorse_cluster(
    signer: Signer,
    cluster: str,
    title: str,
    now: datetime,
    *,
    role: str = DEFAULT_ROLE,
    lifetime: timedelta = ENDORSEMENT_LIFETIME,
    comment: str = "",
) -> tuple[bytes, bytes]:
    """Vouch for a cluster document.

    Args:
        signer: who vouches.
        cluster: `sha256:` and 64 hex digits, of the canonical document.
        title: VO/name@version under which it is published.
        now, role, lifetime, comment: as in :func:`endorse`.
    """
    statement = cluster_statement(cluster, title, signer.endorser, role, now, now + lifetime, comment)
    return statement, signer.sign(statement, now)


def verify_endorsements(
    image_id: str,
    pairs: Sequence[tuple[bytes, bytes]],
    anchors: Sequence[Anchor],
    now: datetime,
    *,
    title: str | None = None,
    max_age: timedelta | None = None,
    memory: SignatureCache | None = None,
    x509: X509Rules | None = None,
    addresses: Collection[str] = (),
) -> list[EndorsementCheck]:
    """What each endorsement is worth, in the order given. One that does not count says why; it is no error.

    Args:
        image_id: the image in question, `sha256:` and 64 hex digits.
        pairs: (statement, detached signature).
        anchors: whom the site trusts, for which VO and role.
        now: the time of the decision.
        title: the image's VO/name@version from its manifest; an endorsement of another title does not count. Without it,
            compare the `vo` of each check with the manifest's.
        max_age: since the endorsement was issued; None for any.
        memory: of signatures that were examined before; without one all are examined.
        x509: by which CAs certificates are judged; without it none counts.
        addresses: of the image's partitions; endorsements of these are taken as well, and their checks say so.

    Raises:
        SignatureError: more endorsements than anybody would make.
        KeyUnusable: what an anchor gives as its key is none.
    """
    # 1. Sizes come first: nothing oversized is parsed, hashed or handed on.
    if len(pairs) > MAX_ENDORSEMENTS:
        raise SignatureError(
            f"{image_id} comes with {len(pairs)} endorsements, more than the {MAX_ENDORSEMENTS} allowed"
        )
    # 2 to 4. What is claimed; statements are capped by their parser.
    claims = [
        read_claim(image_id, statement[: MAX_STATEMENT + 1], anchors, title=title, addresses=addresses)
        for statement, _ in pairs
    ]
    return _weighed(claims, pairs, anchors, now, max_age, memory, x509)


def verify_cluster(
    cluster: str,
    title: str,
    pairs: Sequence[tuple[bytes, bytes]],
    anchors: Sequence[Anchor],
    now: datetime,
    *,
    max_age: timedelta | None = None,
    memory: SignatureCache | None = None,
    x509: X509Rules | None = None,
) -> list[EndorsementCheck]:
    """What each endorsement of a cluster document is worth; otherwise as :func:`verify_endorsements`.

    Args:
        cluster: `sha256:` and 64 hex digits, of the canonical document.
        title: VO/name@version under which it is published.
    """
    if len(pairs) > MAX_ENDORSEMENTS:
        raise SignatureError(f"{title} comes with {len(pairs)} endorsements, more than the {MAX_ENDORSEMENTS} allowed")
    claims = [
        read_cluster_claim(cluster, statement[: MAX_STATEMENT + 1], anchors, title=title) for statement, _ in pairs
    ]
    return _weighed(claims, pairs, anchors, now, max_age, memory, x509)


def _weighed(
    claims: Sequence[Claim | EndorsementCheck],
    pairs: Sequence[tuple[bytes, bytes]],
    anchors: Sequence[Anchor],
    now: datetime,
    max_age: timedelta | None,
    memory: SignatureCache | None,
    x509: X509Rules | None,
) -> list[EndorsementCheck]:
    """Steps 5 to 9 of those that claim something."""
    checks: list[EndorsementCheck | None] = [None if isinstance(claim, Claim) else claim for claim in claims]
    known = b"" if memory is None else anchors_digest(anchors)
    for scheme in SCHEMES:
        wanted = {
            at: claim
            for at, claim in enumerate(claims)
            if isinstance(claim, Claim) and claim.statement.scheme == scheme
        }
        if wanted:
            offered = {at: pairs[at] for at in wanted}
            keys = [anchor.key for claim in wanted.values() for anchor in claim.anchors]
            for at, examined in examine_all(scheme, offered, keys, known, now, memory, x509):
                # 7 to 9.
                checks[at] = evaluate_claim(wanted[at], examined, now, max_age=max_age)
    return [check for check in checks if check is not None]


def verify_image(
    image_id: str,
    pairs: Sequence[tuple[bytes, bytes]],
    anchors: Sequence[Anchor],
    now: datetime,
    *,
    threshold: int = 1,
    max_age: timedelta | None = None,
    title: str | None = None,
    x509: X509Rules | None = None,
) -> Verdict:
    """Whether enough distinct endorsers vouch (step 10); arguments and errors as in :func:`verify_endorsements`."""
    checks = verify_endorsements(image_id, pairs, anchors, now, title=title, max_age=max_age, x509=x509)
    return count_endorsers(checks, anchors, threshold)
