"""Revocations: statements that withdraw an endorsement, an image or a key. What gets signed; `revoking` says what it does.

An in-toto Statement like an endorsement, with a type of its own, so that neither can serve as the other.
"""

import hashlib
import re
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
"""The role that may withdraw what others of its VO vouched for."""

RevocationKind = Literal["endorsement", "image", "key"]
RevocationReason = Literal["compromised", "superseded", "retired"]
"""Why: the key is in other hands, and whatever it signed is void; or there is a successor, or none is needed any more,
and only what came after `since` is void."""

_TITLE = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}/[a-z0-9][a-z0-9._-]{0,127}@[A-Za-z0-9.+_~-]{1,64}", re.ASCII)
_KEY = re.compile(r"openpgp:[0-9A-F]{40}|x509:(/[A-Za-z0-9.]{1,64}=.+)+", re.ASCII)


class RevocationSubject(Document):
    """What is withdrawn: VO/name@version with the SHA-256 of the endorsement's statement or of the manifest; or a key's
    name (`openpgp:FINGERPRINT`, `x509:SUBJECT`) with the SHA-256 of that text."""

    name: Annotated[str, Field(max_length=1024), AfterValidator(check_plain_text)]
    digest: Sha256Digest


class Revocation(Document):
    """The predicate.

    Attributes:
        revoker: who withdraws, as in an endorsement.
        vo: for which VO.
        role: in what function.
        since: from when on; for a compromised key it does not matter.
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
                raise ValueError(f"{name[:80]!r} is no key; write openpgp:FINGERPRINT or x509:SUBJECT")
            if self.digest != hashlib.sha256(name.encode()).hexdigest():
                raise ValueError("a revoked key's digest is the SHA-256 of its name")
        elif not _TITLE.fullmatch(name):
            raise ValueError(f"{name[:80]!r} is no name of an image; write VO/NAME@VERSION")
        if serial is not None and not name.startswith("x509:"):
            raise ValueError("only a certificate has a serial number")
        return self

    @property
    def target(self) -> str:
        """The name of what is withdrawn."""
        return self.subject[0].name

    @property
    def digest(self) -> str:
        """Of what is withdrawn, 64 hex digits."""
        return self.subject[0].digest.sha256

    @property
    def scheme(self) -> str:
        """How the revoker signs: `openpgp` or `x509`."""
        return self.predicate.revoker.partition(":")[0]

    @property
    def fingerprint(self) -> str:
        """The revoker's key or subject."""
        return self.predicate.revoker.partition(":")[2]


def revocation_statement(
    kind: RevocationKind,
    target: str,
    revoker: str,
    vo: str,
    role: str,
    reason: RevocationReason,
    issued: datetime,
    *,
    digest: str = "",
    since: datetime | None = None,
    serial: str | None = None,
    comment: str = "",
) -> bytes:
    """The canonical bytes of a revocation, ready to be signed.

    Args:
        kind: what is withdrawn.
        target: VO/name@version, or `openpgp:FINGERPRINT` or `x509:SUBJECT` for a key.
        revoker: `openpgp:FINGERPRINT` or `x509:SUBJECT` of whoever signs.
        vo, role: for which VO, in what function.
        reason: see `RevocationReason`.
        issued: now.
        digest: of the endorsement's statement, or of the manifest: 64 hex digits, `sha256:` before them or not.
        since: from when on; `issued` if not given.
        serial: of one certificate, hex.
        comment: free text.

    Raises:
        DocumentError: one of them is not of its form; says which.
    """
    hashed = hashlib.sha256(target.encode()).hexdigest() if kind == "key" else digest.removeprefix("sha256:")
    predicate = {
        "kind": kind,
        "revoker": revoker,
        "vo": vo,
        "role": role,
        "reason": reason,
        "issued": write_instant(issued),
        "since": write_instant(since or issued),
        "comment": comment,
    }
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": target, "digest": {"sha256": hashed}}],
        "predicateType": REVOCATION_TYPE,
        "predicate": predicate | ({"serial": serial} if serial is not None else {}),
    }
    return canonical(validate(RevocationStatement, statement, "revocation"))


@lru_cache(maxsize=4096)
def parse_revocation(data: bytes) -> RevocationStatement:
    """Read a revocation from its canonical bytes; anything else raises DocumentError."""
    return parse_canonical(RevocationStatement, data, "revocation", limit=MAX_STATEMENT)
