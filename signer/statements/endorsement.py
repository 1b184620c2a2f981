"""Endorsement statements, which are signed: in-toto Statement v1 with our own predicates, in canonical JSON (RFC 8785).

The type is inside the signed bytes, so a signature on one kind of statement can never serve as another: a reader asks
for one kind and refuses every other. docs/formats.md describes the endorsement byte for byte.
Source: in-toto Attestation Framework, spec/v1/statement.md.
"""

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, PlainSerializer, PlainValidator, model_validator

from signer.documents import Document, canonical, parse_canonical, read_json, validate

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
MAX_STATEMENT = 64 << 10
"""Bytes. An endorsement has some 500; its comment is the only free text."""

_INSTANT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z", re.ASCII)


def _instant(value: object) -> datetime:
    """Accept the text form of documents, and a datetime when a document is made in code."""
    if isinstance(value, datetime) and value.utcoffset() is not None and not value.microsecond:
        value = write_instant(value)
    if not isinstance(value, str) or not _INSTANT.fullmatch(value):
        raise ValueError(f"{str(value)[:40]!r} is not a valid instant; write UTC with seconds, as 2026-01-31T12:00:00Z")
    try:
        return datetime.fromisoformat(value)
    except ValueError as exc:
        raise ValueError(f"{value!r} is not a valid instant: {exc}") from exc


def write_instant(instant: datetime) -> str:
    """Write an instant in the one text form of documents: RFC 3339 in UTC, seconds, `Z`."""
    if instant.utcoffset():
        instant = instant.astimezone(UTC)
    return instant.replace(tzinfo=None, microsecond=0).isoformat() + "Z"


Instant = Annotated[datetime, PlainValidator(_instant), PlainSerializer(write_instant)]
"""A point in time in a document: UTC, whole seconds, one spelling."""


def check_plain_text(text: str) -> str:
    """Return a text without control or invisible characters, or raise ValueError."""
    if not all(char.isprintable() for char in text):
        raise ValueError("has control or invisible characters; plain text only")
    return text


Role = Annotated[str, Field(pattern=r"^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$")]
"""The function in which an endorser vouches, such as `image-administrator` or `site-reviewer`."""

Endorser = Annotated[
    str,
    Field(pattern=r"^(openpgp:[0-9A-F]{40}|x509:(/[A-Za-z0-9.]{1,64}=.+)+)$", max_length=1024),
    AfterValidator(check_plain_text),
]
"""The endorser, with the scheme of the signature as prefix: the fingerprint of an OpenPGP primary key (version 4), or the
subject of an X.509 certificate as `signer.x509.certificates` writes it."""

Title = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,127}/[a-z0-9][a-z0-9._-]{0,127}@[A-Za-z0-9.+_~-]{1,64}$")]
"""VO/name@version."""

Comment = Annotated[str, Field(max_length=1024), AfterValidator(check_plain_text)]


class Sha256Digest(Document):
    """The SHA-256 of the manifest's bytes, 64 lower-case hex digits: the image ID without its prefix."""

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class PartitionDigest(Document):
    """The Merkle root of a partition (BEP 52 `pieces root`), 64 lower-case hex digits."""

    pieces_root: Annotated[str, Field(alias="piecesRoot", pattern=r"^[0-9a-f]{64}$")]


class NamedSubject(Document):
    """The subject of a statement, as far as all kinds agree: the name that the endorser gives it."""

    name: Title


class DigestSubject(NamedSubject):
    """An image or a cluster document, named by the SHA-256 of its bytes."""

    digest: Sha256Digest


class PartitionSubject(NamedSubject):
    """A partition, named by its Merkle root."""

    digest: PartitionDigest


class Endorsement(Document):
    """The predicate: I vouch for this in this role, from `issued` until `expires`."""

    endorser: Endorser
    issued: Instant
    expires: Instant
    role: Role
    comment: Comment

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.issued >= self.expires:
            raise ValueError("an endorsement must expire after it is issued")
        return self


class PartitionEndorsement(Endorsement):
    """The predicate: I vouch for these bytes as a part of images. Root and size together identify them."""

    size: Annotated[int, Field(ge=1)]


class VouchingStatement(Document):
    """The common form of all endorsements: an in-toto Statement about one subject. Each kind narrows the last three
    members."""

    type: Annotated[Literal["https://in-toto.io/Statement/v1"], Field(alias="_type")]
    subject: Annotated[tuple[NamedSubject, ...], Field(min_length=1, max_length=1)]
    predicate_type: Annotated[str, Field(alias="predicateType")]
    predicate: Endorsement

    @property
    def image_id(self) -> str:
        """`sha256:` and 64 hex digits, of an image or a cluster document; empty for a partition, which is in many."""
        return ""

    @property
    def address(self) -> str:
        """A partition's address, ROOT-SIZE; empty for other subjects."""
        return ""

    @property
    def title(self) -> str:
        """VO/name@version, the endorser's name for the subject."""
        return self.subject[0].name

    @property
    def vo(self) -> str:
        """The VO, or the site, in whose name the endorser vouches."""
        return self.title.partition("/")[0]

    @property
    def scheme(self) -> str:
        """The endorser's scheme: `openpgp` or `x509`."""
        return self.predicate.endorser.partition(":")[0]

    @property
    def fingerprint(self) -> str:
        """The endorser's key, in the terms of the scheme: a fingerprint, or a certificate's subject."""
        return self.predicate.endorser.partition(":")[2]


class DigestStatement(VouchingStatement):
    """A statement about a document that is named by the SHA-256 of its bytes."""

    subject: Annotated[tuple[DigestSubject, ...], Field(min_length=1, max_length=1)]

    @property
    def image_id(self) -> str:
        """`sha256:` and 64 hex digits; of a cluster document in the form of an image's."""
        return f"sha256:{self.subject[0].digest.sha256}"


class EndorsementStatement(DigestStatement):
    """A statement whose predicate is the endorsement of an image."""

    predicate_type: Annotated[Literal["urn:partita:endorsement:v1"], Field(alias="predicateType")]


class ClusterStatement(DigestStatement):
    """A statement whose predicate is the endorsement of a cluster document, named by its SHA-256."""

    predicate_type: Annotated[Literal["urn:partita:cluster-endorsement:v1"], Field(alias="predicateType")]


class PartitionStatement(VouchingStatement):
    """A statement whose predicate is the endorsement of one partition, in any image that uses it."""

    subject: Annotated[tuple[PartitionSubject, ...], Field(min_length=1, max_length=1)]
    predicate_type: Annotated[Literal["urn:partita:partition-endorsement:v1"], Field(alias="predicateType")]
    predicate: PartitionEndorsement

    @property
    def address(self) -> str:
        """The partition's address, ROOT-SIZE."""
        return f"{self.subject[0].digest.pieces_root}-{self.predicate.size}"


SubjectKind = Literal["image", "partition", "cluster"]
"""The kinds of subjects that are endorsed: an image, one partition in any image that uses it, a cluster document."""

_FORMS: dict[SubjectKind, tuple[type[VouchingStatement], str, str]] = {
    "image": (EndorsementStatement, "urn:partita:endorsement:v1", "endorsement"),
    "partition": (PartitionStatement, "urn:partita:partition-endorsement:v1", "endorsement of a partition"),
    "cluster": (ClusterStatement, "urn:partita:cluster-endorsement:v1", "endorsement of a cluster"),
}
"""The statements about each kind of subject: their class, their type, their name in errors."""


def endorsement_statement(
    subject: str,
    title: str,
    endorser: str,
    role: str,
    issued: datetime,
    expires: datetime,
    comment: str = "",
    kind: SubjectKind = "image",
) -> bytes:
    """Make the canonical bytes of an endorsement, ready to be signed.

    Args:
        subject: `sha256:` and 64 hex digits, the image ID or the digest of the canonical cluster document; of a partition
            its address, ROOT-SIZE.
        title: VO/name@version; of a partition the endorser's name for it, in whose VO the endorser vouches.
        endorser: `openpgp:` and the 40 upper-case hex digits of the primary key's fingerprint; or `x509:` and a subject.
        role: the function in which the endorser vouches.
        issued, expires: timezone-aware; fractions of a second are dropped.
        comment: free text, at most 1024 characters, no control characters.
        kind: of the subject.

    Raises:
        DocumentError: an argument is malformed; the message says which.
    """
    model, predicate_type, what = _FORMS[kind]
    predicate: dict[str, Any] = {
        "endorser": endorser,
        "issued": write_instant(issued),
        "expires": write_instant(expires),
        "role": role,
        "comment": comment,
    }
    digest = {"sha256": subject.removeprefix("sha256:")}
    if kind == "partition":
        root, _, size = subject.partition("-")
        digest = {"piecesRoot": root}
        predicate["size"] = int(size) if size.isdecimal() and len(size) < 16 else -1
    statement = {
        "_type": STATEMENT_TYPE,
        "predicateType": predicate_type,
        "subject": [{"name": title, "digest": digest}],
        "predicate": predicate,
    }
    return canonical(validate(model, statement, what))


def parse_endorsement(data: bytes, *kinds: SubjectKind) -> VouchingStatement:
    """Read an endorsement of one of these kinds of subjects (by default an image) from its canonical bytes.

    Raises:
        DocumentError: anything else, endorsements of other kinds included.
    """
    forms = [_FORMS[kind] for kind in kinds or ("image",)]
    value = read_json(data, forms[0][2], limit=MAX_STATEMENT)
    stated = value.get("predicateType") if isinstance(value, dict) else None
    model, _, what = next((form for form in forms if form[1] == stated), forms[0])
    return parse_canonical(model, data, what, limit=MAX_STATEMENT)
