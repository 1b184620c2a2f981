"""The errors of `signer`, and the base of all packages' errors: faults of input, files and programs.

A programmer's mistake stays a built-in exception. Each package has one such module and one base error below PartitaError.
`str(error)` is one sentence for people: what is wrong, where, and what to do.
"""

from collections.abc import Mapping
from typing import ClassVar

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_REFUSED = 3
EXIT_UNVERIFIED = 4
EXIT_UNAVAILABLE = 5

HTTP_UNAVAILABLE = 503


class PartitaError(Exception):
    """Base of all errors of Partita. Each crosses the wire as a problem document (`catalog.schema.problems`)."""

    exit_code: ClassVar[int] = EXIT_FAILED
    """What the command line ends with (docs/operations.md lists them)."""
    code: ClassVar[str] = "partita-failed"
    """The stable end of the problem's type; a class without one of its own travels as its base."""
    status: ClassVar[int] = 500
    """The HTTP status that a service answers with."""
    carried: ClassVar[Mapping[str, type]] = {}
    """The attributes that travel with the sentence, with their JSON types. One with a default in the class may be missing."""

    def __init_subclass__(cls, *, code: str = "", status: int = 0, exit_code: int = 0) -> None:
        """`class NotFound(CatalogError, code="not-found", status=404)`: what is not given is as the base class has it."""
        super().__init_subclass__()
        cls.code, cls.status, cls.exit_code = code or cls.code, status or cls.status, exit_code or cls.exit_code

    @property
    def headers(self) -> Mapping[str, str]:
        """What an HTTP answer with this error has in its header."""
        return {"Retry-After": "1"} if self.status == HTTP_UNAVAILABLE else {}


class SignerError(PartitaError, code="signer-failed"):
    """Base of all errors of this package."""


class DocumentError(SignerError, code="malformed-document", status=400):
    """A document is malformed, at a place and for a reason.

    Attributes:
        what: which document, as a person would call it ("manifest", "policy site.toml").
        path: where, as a JSON path (RFC 9535): `$.disks[0].size`.
        reason: what is wrong there and what would be right.
    """

    carried: ClassVar[Mapping[str, type]] = {"what": str, "path": str, "reason": str}

    def __init__(self, what: str, path: str, reason: str) -> None:
        super().__init__(f"{what}: {path}: {reason}")
        self.what, self.path, self.reason = what, path, reason


class SettingsError(SignerError, code="setting-unusable", status=500, exit_code=EXIT_USAGE):
    """A setting is unknown or has an unusable value; the message names its origin."""


class KeyUnusable(SignerError, code="key-unusable", status=500):
    """A key cannot be made, found, read or used."""


class SignatureError(SignerError, code="signature-unusable", status=422, exit_code=EXIT_UNVERIFIED):
    """A signature cannot be made, or a signature file cannot be examined at all."""


class AuditUnwritable(SignerError, code="audit-unwritable", status=503, exit_code=EXIT_UNAVAILABLE):
    """The audit log cannot be read or written; the action to be recorded has not been carried out."""


class AuditBroken(SignerError, code="audit-broken", status=500, exit_code=EXIT_UNVERIFIED):
    """The audit log was changed after it was written; the message says where."""


class ReceiptRefused(SignerError, code="receipt-refused", status=422, exit_code=EXIT_UNVERIFIED):
    """A receipt does not verify; the message says why."""
