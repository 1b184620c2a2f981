"""Everything that `signer` raises for the world's faults. A programmer's mistake stays a built-in exception.

Each package has one such module and one base error. `str(error)` is one sentence for people: what is wrong, where, and
what to do. `exit_code` is what the command line ends with (docs/operations.md lists them).
"""

from typing import ClassVar

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_REFUSED = 3
EXIT_UNVERIFIED = 4
EXIT_UNAVAILABLE = 5


class SignerError(Exception):
    """Base of all errors of this package."""

    exit_code: ClassVar[int] = EXIT_FAILED


class DocumentError(SignerError):
    """A document is malformed, at a place and for a reason.

    Attributes:
        what: which document, as a person would call it ("manifest", "policy site.toml").
        path: where, as a JSON path (RFC 9535): `$.disks[0].size`.
        reason: what is wrong there and what would be right.
    """

    def __init__(self, what: str, path: str, reason: str) -> None:
        super().__init__(f"{what}: {path}: {reason}")
        self.what, self.path, self.reason = what, path, reason


class SettingsError(SignerError):
    """A setting is unknown or has an unusable value; the message names its origin."""

    exit_code = EXIT_USAGE


class KeyUnusable(SignerError):
    """A key cannot be made, found, read or used."""


class SignatureError(SignerError):
    """A signature cannot be made, or what was offered as one cannot be examined at all."""

    exit_code = EXIT_UNVERIFIED


class AuditUnwritable(SignerError):
    """The audit log cannot be read or written; what it was to tell has not been done."""

    exit_code = EXIT_UNAVAILABLE


class AuditBroken(SignerError):
    """The audit log is not as it was written; the message says where."""

    exit_code = EXIT_UNVERIFIED


class ReceiptRefused(SignerError):
    """A receipt is not what it claims to be; the message says why."""

    exit_code = EXIT_UNVERIFIED
