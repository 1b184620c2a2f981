"""Revocation statements, which are signed: they revoke an endorsement, an image or a key.

An in-toto Statement like an endorsement, with a type of its own, so that neither can serve as the other.
signer.verification.revocations says what a revocation does.
"""

import hashlib
import re
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from signer.documents import Document, canonical, parse_canonical, validate
from signer.statements.endorsement import (
    MAX_STATEMENT,
    STATEMENT_TYPE,
    Comment,
    Endorser,
    Instant,
    Role,
    Sha256Digest,
    check_plain_text,
    write_instant,
)

REVOCATION_TYPE = "urn:partita:revocation:v1"
SECURITY_OFFICER = "security-officer"
"""The role that may revoke what others of its VO vouched for."""

RevocationKind = Literal["endorsement", "image", "key"]
RevocationReason = Literal["compromised", "superseded", "retired"]
"""Compromised: the key is in other hands, and everything that it signed is void. Superseded or retired: there is a
successor, or it is no longer needed, and only what came after `since` is void."""

_TITLE = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}/[a-z0-9][a-z0-9._-]{0,127}@[A-Za-z0-9.+_~-]{1,64}", re.ASCII)
_KEY = re.compile(r"openpgp:[0-9A-F]{40}|x509:(/[A-Za-z0-9.]{1,64}=.+)+", re.ASCII)


class RevocationSubject(Document):
    """The revoked object: VO/name@version with the SHA-256 of the endorsement's statement or of the manifest; or a key's
    name (`openpgp:FINGERPRINT`, `x509:SUBJECT`) with the SHA-256 of that text."""

    name: Annotated[str, Field(max_length=1024), AfterValidator(check_plain_text)]
    digest: Sha256Digest


class Revocation(Document):
    """The predicate.

    Attributes:
        revoker: the signer, named as in an endorsement.
        vo: the VO to which the revocation applies.
        role: the function in which the revoker acts.
        since: from when on; irrelevant for a compromised key.
        serial: of one certificate of the subject, lower-case hex; None means all of them.
    """

    kind: RevocationKind
    revoker: Endorser
    vo: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
    role: Role
    reason: RevocationReason
    issued: Instant
    since: Instant
    serial: Annotated[str, Field(pattern=r"^[0-9a-f]{1,40}$")] | None = None
    comment: Comment


class RevocationStatement(Document):
    """An in-toto Statement whose predicate is a revocation."""

    type: Annotated[Literal["https://in-toto.io/Statement/v1"], Field(alias="_type")]
    subject: Annotated[tuple[RevocationSubject, ...], Field(min_length=1, max_length=1)]
    predicate_type: Annotated[Literal["urn:partita:revocation:v1"], Field(alias="predicateType")]
    predicate: Revocation

    @model_validator(mode="after")
    def _of_its_kind(self) -> Self:
        name, serial = self.target, self.predicate.serial
        if self.predicate.kind == "key":
            if not _KEY.fullmatch(name):
                raise ValueError(f"{name[:80]!r} is not a valid key name; write openpgp:FINGERPRINT or x509:SUBJECT")
            if self.digest != hashlib.sha256(name.encode()).hexdigest():
                raise ValueError("the digest of a revoked key must be the SHA-256 of its name")
        elif not _TITLE.fullmatch(name):
            raise ValueError(f"{name[:80]!r} is not a valid image name; write VO/NAME@VERSION")
        if serial is not None and not name.startswith("x509:"):
            raise ValueError("only a certificate has a serial number")
        return self

    @property
    def target(self) -> str:
        """The name of the revoked object."""
        return self.subject[0].name

    @property
    def digest(self) -> str:
        """The digest of the revoked object, 64 hex digits."""
        return self.subject[0].digest.sha256

    @property
    def scheme(self) -> str:
        """The revoker's scheme: `openpgp` or `x509`."""
        return self.predicate.revoker.partition(":")[0]

    @property
    def fingerprint(self) -> str:
        """The revoker's key or subject."""
        return self.predicate.revoker.partition(":")[2]


@dataclass(frozen=True)
class RevokedObject:
    """What is revoked.

    Attributes:
        kind: the kind of object.
        name: VO/name@version, or `openpgp:FINGERPRINT` or `x509:SUBJECT` for a key.
        digest: of the endorsement's statement, or of the manifest: 64 hex digits, with or without `sha256:`.
        serial: of one certificate, hex.
        since: from when on; by default when the revocation is issued.
    """

    kind: RevocationKind
    name: str
    digest: str = ""
    serial: str | None = None
    since: datetime | None = None


def revocation_statement(
    revoked: RevokedObject,
    revoker: str,
    vo: str,
    role: str,
    reason: RevocationReason,
    issued: datetime,
    comment: str = "",
) -> bytes:
    """Make the canonical bytes of a revocation, ready to be signed.

    Args:
        revoked: the object.
        revoker: `openpgp:FINGERPRINT` or `x509:SUBJECT` of the signer.
        vo, role: the VO concerned, and the signer's function.
        reason: see `RevocationReason`.
        issued: now.
        comment: free text.

    Raises:
        DocumentError: an argument is malformed; the message says which.
    """
    hashed = hashlib.sha256(revoked.name.encode()).hexdigest()
    if revoked.kind != "key":
        hashed = revoked.digest.removeprefix("sha256:")
    predicate = {
        "kind": revoked.kind,
        "revoker": revoker,
        "vo": vo,
        "role": role,
        "reason": reason,
        "issued": write_instant(issued),
        "since": write_instant(revoked.since or issued),
        "comment": comment,
    }
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": revoked.name, "digest": {"sha256": hashed}}],
        "predicateType": REVOCATION_TYPE,
        "predicate": predicate | ({"serial": revoked.serial} if revoked.serial is not None else {}),
    }
    return canonical(validate(RevocationStatement, statement, "revocation"))


@lru_cache(maxsize=4096)
def parse_revocation(data: bytes) -> RevocationStatement:
    """Read a revocation from its canonical bytes; anything else raises DocumentError."""
    return parse_canonical(RevocationStatement, data, "revocation", limit=MAX_STATEMENT)
