"""Statements: what gets signed. An in-toto Statement v1 around our own predicates, in canonical JSON (RFC 8785).

The type stands inside the signed bytes, so a signature on one kind of statement can never serve as another: a reader
asks for one kind and refuses every other. docs/formats.md describes the endorsement byte for byte.
Source: in-toto Attestation Framework, spec/v1/statement.md.
"""

import re
from datetime import UTC, datetime
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, PlainSerializer, PlainValidator, model_validator

from signer.documents import Document, canonical, parse_canonical, read_json, validate

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
ENDORSEMENT_TYPE = "urn:partita:endorsement:v1"
PARTITION_TYPE = "urn:partita:partition-endorsement:v1"
CLUSTER_TYPE = "urn:partita:cluster-endorsement:v1"
MAX_STATEMENT = 64 << 10
"""Bytes. An endorsement has some 500; its comment is the only free text."""

_INSTANT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z", re.ASCII)


def _instant(value: object) -> datetime:
    """Text as documents have it; a datetime when a document is made in code."""
    if isinstance(value, datetime) and value.utcoffset() is not None and not value.microsecond:
        value = write_instant(value)
    if not isinstance(value, str) or not _INSTANT.fullmatch(value):
        raise ValueError(f"{str(value)[:40]!r} is no instant; write it in UTC with seconds, as 2026-01-31T12:00:00Z")
    try:
        return datetime.fromisoformat(value)
    except ValueError as exc:
        raise ValueError(f"{value!r} is no instant: {exc}") from exc


def write_instant(instant: datetime) -> str:
    """The one text form of an instant in documents: RFC 3339 in UTC, seconds, `Z`."""
    if instant.utcoffset():
        instant = instant.astimezone(UTC)
    return instant.replace(tzinfo=None, microsecond=0).isoformat() + "Z"


Instant = Annotated[datetime, PlainValidator(_instant), PlainSerializer(write_instant)]
"""A point in time in a document: UTC, whole seconds, one spelling."""


def plain(text: str) -> str:
    """Return a text without control or invisible characters, or raise ValueError."""
    if not all(char.isprintable() for char in text):
        raise ValueError("has control or invisible characters; plain text only")
    return text


Role = Annotated[str, Field(pattern=r"^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$")]
"""In what function somebody vouches, such as `image-administrator` or `site-reviewer`."""

Endorser = Annotated[
    str,
    Field(pattern=r"^(openpgp:[0-9A-F]{40}|x509:(/[A-Za-z0-9.]{1,64}=.+)+)$", max_length=1024),
    AfterValidator(plain),
]
"""Who vouches, with the scheme of the signature as prefix: the fingerprint of an OpenPGP primary key (version 4), or the
subject of an X.509 certificate as `signer.x509` writes it."""

Title = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,127}/[a-z0-9][a-z0-9._-]{0,127}@[A-Za-z0-9.+_~-]{1,64}$")]
"""VO/name@version."""

Comment = Annotated[str, Field(max_length=1024), AfterValidator(plain)]


class Digest(Document):
    """The SHA-256 of the manifest's bytes, 64 lower-case hex digits: the image ID without its prefix."""

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Subject(Document):
    """What the statement is about."""

    name: Title
    digest: Digest


class Endorsement(Document):
    """The predicate: I vouch for this image, in this role, from then until then."""

    endorser: Endorser
    issued: Instant
    expires: Instant
    role: Role
    comment: Comment

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.issued >= self.expires:
            raise ValueError("an endorsement expires after it is issued")
        return self


class EndorsementStatement(Document):
    """An in-toto Statement whose predicate is an endorsement."""

    type: Annotated[Literal["https://in-toto.io/Statement/v1"], Field(alias="_type")]
    subject: Annotated[tuple[Subject, ...], Field(min_length=1, max_length=1)]
    predicate_type: Annotated[Literal["urn:partita:endorsement:v1"], Field(alias="predicateType")]
    predicate: Endorsement

    @property
    def image_id(self) -> str:
        """`sha256:` and 64 hex digits."""
        return f"sha256:{self.subject[0].digest.sha256}"

    @property
    def title(self) -> str:
        """VO/name@version, as the endorser saw it."""
        return self.subject[0].name

    @property
    def vo(self) -> str:
        """The VO for which the endorser vouches."""
        return self.title.partition("/")[0]

    @property
    def address(self) -> str:
        """Of no single partition: empty."""
        return ""

    @property
    def scheme(self) -> str:
        """How the endorser signs: `openpgp` or `x509`."""
        return self.predicate.endorser.partition(":")[0]

    @property
    def fingerprint(self) -> str:
        """The endorser's key, in the terms of the scheme: a fingerprint, or a certificate's subject."""
        return self.predicate.endorser.partition(":")[2]


class PartitionDigest(Document):
    """The Merkle root of a partition (BEP 52 `pieces root`), 64 lower-case hex digits."""

    pieces_root: Annotated[str, Field(alias="piecesRoot", pattern=r"^[0-9a-f]{64}$")]


class PartitionSubject(Document):
    """The partition that a statement is about, and what its endorser calls it."""

    name: Title
    digest: PartitionDigest


class PartitionEndorsement(Endorsement):
    """The predicate: I vouch for these bytes as a part of images. Root and size together are what is meant."""

    size: Annotated[int, Field(ge=1)]


class PartitionStatement(Document):
    """An in-toto Statement whose predicate is the endorsement of one partition, in whatever image it is used."""

    type: Annotated[Literal["https://in-toto.io/Statement/v1"], Field(alias="_type")]
    subject: Annotated[tuple[PartitionSubject, ...], Field(min_length=1, max_length=1)]
    predicate_type: Annotated[Literal["urn:partita:partition-endorsement:v1"], Field(alias="predicateType")]
    predicate: PartitionEndorsement

    @property
    def image_id(self) -> str:
        """Of no single image: empty."""
        return ""

    @property
    def address(self) -> str:
        """The partition's address, ROOT-SIZE."""
        return f"{self.subject[0].digest.pieces_root}-{self.predicate.size}"

    @property
    def title(self) -> str:
        """VO/name@version, as the endorser calls the partition."""
        return self.subject[0].name

    @property
    def vo(self) -> str:
        """The VO, or the site, in whose name the endorser vouches."""
        return self.title.partition("/")[0]

    @property
    def scheme(self) -> str:
        """As for an image."""
        return self.predicate.endorser.partition(":")[0]

    @property
    def fingerprint(self) -> str:
        """As for an image."""
        return self.predicate.endorser.partition(":")[2]


class ClusterStatement(Document):
    """An in-toto Statement whose predicate is the endorsement of a cluster document: its SHA-256 is what is meant."""

    type: Annotated[Literal["https://in-toto.io/Statement/v1"], Field(alias="_type")]
    subject: Annotated[tuple[Subject, ...], Field(min_length=1, max_length=1)]
    predicate_type: Annotated[Literal["urn:partita:cluster-endorsement:v1"], Field(alias="predicateType")]
    predicate: Endorsement

    @property
    def image_id(self) -> str:
        """Of the document, in the form of an image's: `sha256:` and 64 hex digits."""
        return f"sha256:{self.subject[0].digest.sha256}"

    @property
    def address(self) -> str:
        """Of no partition: empty."""
        return ""

    @property
    def title(self) -> str:
        """VO/name@version, as the endorser saw it."""
        return self.subject[0].name

    @property
    def vo(self) -> str:
        """The VO for which the endorser vouches."""
        return self.title.partition("/")[0]

    @property
    def scheme(self) -> str:
        """As for an image."""
        return self.predicate.endorser.partition(":")[0]

    @property
    def fingerprint(self) -> str:
        """As for an image."""
        return self.predicate.endorser.partition(":")[2]


def endorse_statement(
    image_id: str, title: str, endorser: str, role: str, issued: datetime, expires: datetime, comment: str = ""
) -> bytes:
    """The canonical bytes of an endorsement, ready to be signed.

    Args:
        image_id: `sha256:` and 64 hex digits.
        title: VO/name@version.
        endorser: `openpgp:` and the 40 upper-case hex digits of the primary key's fingerprint.
        role: in what function the endorser vouches.
        issued, expires: timezone-aware; fractions of a second are dropped.
        comment: free text, at most 1024 characters, no control characters.

    Raises:
        DocumentError: one of them is not of its form; says which.
    """
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": title, "digest": {"sha256": image_id.removeprefix("sha256:")}}],
        "predicateType": ENDORSEMENT_TYPE,
        "predicate": {
            "endorser": endorser,
            "issued": write_instant(issued),
            "expires": write_instant(expires),
            "role": role,
            "comment": comment,
        },
    }
    return canonical(validate(EndorsementStatement, statement, "endorsement"))


def partition_statement(
    address: str, title: str, endorser: str, role: str, issued: datetime, expires: datetime, comment: str = ""
) -> bytes:
    """The canonical bytes of a partition's endorsement, ready to be signed.

    Args:
        address: ROOT-SIZE.
        title: what the endorser calls the partition, VO/name@version; the VO is the one in whose name he vouches.
        endorser, role, issued, expires, comment: as for an image.

    Raises:
        DocumentError: one of them is not of its form; says which.
    """
    root, _, size = address.partition("-")
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": title, "digest": {"piecesRoot": root}}],
        "predicateType": PARTITION_TYPE,
        "predicate": {
            "endorser": endorser,
            "issued": write_instant(issued),
            "expires": write_instant(expires),
            "role": role,
            "comment": comment,
            "size": int(size) if size.isdecimal() and len(size) < 16 else -1,
        },
    }
    return canonical(validate(PartitionStatement, statement, "endorsement of a partition"))


def cluster_statement(
    digest: str, title: str, endorser: str, role: str, issued: datetime, expires: datetime, comment: str = ""
) -> bytes:
    """The canonical bytes of a cluster document's endorsement, ready to be signed.

    Args:
        digest: `sha256:` and 64 hex digits, of the canonical document.
        title: VO/name@version.
        endorser, role, issued, expires, comment: as for an image.
    """
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": title, "digest": {"sha256": digest.removeprefix("sha256:")}}],
        "predicateType": CLUSTER_TYPE,
        "predicate": {
            "endorser": endorser,
            "issued": write_instant(issued),
            "expires": write_instant(expires),
            "role": role,
            "comment": comment,
        },
    }
    return canonical(validate(ClusterStatement, statement, "endorsement of a cluster"))


def parse_cluster_endorsement(data: bytes) -> ClusterStatement:
    """Read a cluster document's endorsement from its canonical bytes; anything else raises DocumentError."""
    return parse_canonical(ClusterStatement, data, "endorsement of a cluster", limit=MAX_STATEMENT)


def parse_vouching(data: bytes) -> EndorsementStatement | PartitionStatement:
    """Read an endorsement of either kind, of an image or a partition; anything else raises DocumentError."""
    value = read_json(data, "endorsement", limit=MAX_STATEMENT)
    if isinstance(value, dict) and value.get("predicateType") == PARTITION_TYPE:
        return parse_canonical(PartitionStatement, data, "endorsement of a partition", limit=MAX_STATEMENT)
    return parse_endorsement(data)


def parse_endorsement(data: bytes) -> EndorsementStatement:
    """Read an endorsement from its canonical bytes; anything else, other predicates too, raises DocumentError."""
    return parse_canonical(EndorsementStatement, data, "endorsement", limit=MAX_STATEMENT)
