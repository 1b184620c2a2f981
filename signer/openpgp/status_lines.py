"""Reads from GnuPG's status lines whether a signature is good. Pure.

GnuPG's exit code, the last status of a file and the text of user ids say less than they seem to (an expired key's
signature exits with 0; the last signature of a file hides the others, a bad first one ends the examination). So
signatures are examined one at a time, the lines are grouped by NEWSIG, and one whole group must say that it is good.
Source: GnuPG doc/DETAILS, "Format of the --status-fd output".
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from signer.errors import SignatureError
from signer.openpgp.keys import Key

SKEW = timedelta(minutes=5)
"""How far a signer's clock may be ahead of ours."""

STRONG_HASHES = {"8": "SHA256", "9": "SHA384", "10": "SHA512"}
"""Hash algorithms that count (RFC 4880, section 9.4). SHA-1 and MD5 have known collisions; the rest is not needed."""

BINARY_CLASS = "00"
"""Signature of a binary document (section 5.2.1): over the exact bytes, with no line endings changed."""

_FINGERPRINT = re.compile(r"[0-9A-F]{40}", re.ASCII)
_VALIDSIG = re.compile(r"[0-9A-F]+ [0-9-]+ [0-9]{1,11} [0-9]{1,11}( [0-9]+){4} [0-9A-F]{2} [0-9A-F]+.*", re.ASCII)
_OUTCOMES = {
    "GOODSIG": "",
    "BADSIG": "it was made over other bytes",
    "EXPSIG": "the signature has expired",
    "EXPKEYSIG": "its key has expired",
    "REVKEYSIG": "its key was revoked",
    "ERRSIG": "gpg cannot check it",
}
_ERRORS = {
    "4": "its algorithm is not supported",
    "9": "its key is not among the allowed ones",
    "39": "it is older than its key",
}
"""Reasons by the return code in ERRSIG (gpg-error numbers)."""

ALWAYS = datetime.max.replace(tzinfo=UTC)
"""The `until` of a result that time does not change."""

_MISPLACED = frozenset({"NODATA", "UNEXPECTED"})


@dataclass(frozen=True)
class SignatureCheck:
    """The result of examining one signature.

    Attributes:
        scheme: "openpgp" or "x509".
        good: whether a key of `fingerprint` signed exactly these bytes, and all our rules are met.
        fingerprint: of the primary key, or the certificate's subject; empty unless cryptographically valid.
        signer: fingerprint of the key or subkey that signed, or the certificate's serial number (hex); empty as above.
        made: when it was made, as the signature says.
        reason: a clause that says why it is not good; empty if it is.
        until: the instant until which another examination has the same result; None if unknown.
        holder_id: identifies the holder of a certificate (`signer.x509.certificates`); empty for OpenPGP.
        since: nothing issued earlier was signed with a valid certificate; None for OpenPGP.
    """

    scheme: str
    good: bool
    fingerprint: str = ""
    signer: str = ""
    made: datetime | None = None
    reason: str = ""
    until: datetime | None = None
    holder_id: str = ""
    since: datetime | None = None


@dataclass
class _Group:
    outcomes: list[tuple[str, str]] = field(default_factory=list)
    valid: list[list[str]] = field(default_factory=list)


def check_signature(lines: Iterable[tuple[str, str]], keys: Mapping[str, Key], now: datetime) -> SignatureCheck:
    """Evaluate one `gpg --verify` of one signature.

    Args:
        lines: (keyword, arguments) of the status lines, in order.
        keys: the keys that were allowed, by primary fingerprint.
        now: the time of the examination.

    Raises:
        SignatureError: GnuPG did not report on exactly one signature, so that its report cannot be assigned.
    """
    groups: list[_Group] = []
    for keyword, value in lines:
        if keyword in _MISPLACED:
            raise SignatureError("the signature is not a detached signature of this file")
        if keyword == "NEWSIG":
            groups.append(_Group())
        elif keyword in _OUTCOMES or keyword == "VALIDSIG":
            if not groups:
                raise SignatureError("the signature could not be examined: gpg reported out of order")
            if keyword == "VALIDSIG":
                groups[-1].valid.append(value.split(" "))
            else:
                groups[-1].outcomes.append((keyword, value))
    if len(groups) != 1:
        raise SignatureError(f"gpg reported on {len(groups)} signatures instead of one")
    return _check(groups[0], keys, now)


def next_instant(now: datetime, instants: Iterable[datetime | None]) -> datetime:
    """Return the first of the instants after now; ALWAYS if there is none."""
    return min((instant for instant in instants if instant is not None and instant > now), default=ALWAYS)


def _check(group: _Group, keys: Mapping[str, Key], now: datetime) -> SignatureCheck:
    for outcome, value in group.outcomes:
        if outcome != "GOODSIG":
            code = "".join(value.split(" ")[5:6]) if outcome == "ERRSIG" else ""
            # Bad stays bad, expired stays expired; but that gpg could not check may be a passing fault of this machine.
            until = ALWAYS if outcome != "ERRSIG" or code in _ERRORS else None
            return SignatureCheck("openpgp", good=False, reason=_ERRORS.get(code, _OUTCOMES[outcome]), until=until)
    if len(group.outcomes) != 1 or len(group.valid) != 1 or not _VALIDSIG.fullmatch(" ".join(group.valid[0])):
        return SignatureCheck("openpgp", good=False, reason="gpg did not report it as both good and valid")
    arguments = group.valid[0]
    signer, primary = arguments[0], arguments[9]
    if not (_FINGERPRINT.fullmatch(primary) and _FINGERPRINT.fullmatch(signer)):
        reason = "its key is not of version 4, with a fingerprint of 40 digits"
        return SignatureCheck("openpgp", good=False, reason=reason)
    made = datetime.fromtimestamp(int(arguments[2]), UTC)
    key = keys.get(primary)
    reason = _objection(arguments, made, key, now)
    return SignatureCheck("openpgp", not reason, primary, signer, made, reason, _until(arguments, made, key, now))


def _until(arguments: Sequence[str], made: datetime, key: Key | None, now: datetime) -> datetime:
    """Return the next instant, after now, at which the passing of time changes the result."""
    parts = [] if key is None else [part for part in (key.primary, key.find(arguments[0])) if part is not None]
    expires = None if arguments[3] == "0" else datetime.fromtimestamp(int(arguments[3]), UTC)
    return next_instant(now, [made - SKEW, expires, *(part.expires for part in parts)])


def _objection(arguments: Sequence[str], made: datetime, key: Key | None, now: datetime) -> str:
    """Say why a cryptographically valid signature is not good; empty if it is."""
    signer, _, _, expires, _, _, _, digest, kind = arguments[:9]
    used = key.find(signer) if key else None
    if key is None or used is None:
        return "its key is not among the allowed ones"
    if digest not in STRONG_HASHES:
        return f"it uses hash algorithm {digest}; only SHA-256, SHA-384 and SHA-512 count"
    if kind != BINARY_CLASS:
        return f"it is of class {kind}; only a signature over the exact bytes (class 00) counts"
    if made > now + SKEW:
        return f"it is dated {made:%Y-%m-%d %H:%M} UTC, in the future"
    if made < max(used.created, key.primary.created):
        return "it is older than its key"
    if expires != "0" and datetime.fromtimestamp(int(expires), UTC) <= now:
        return "the signature has expired"
    # GnuPG uses its own clock; the key itself is checked here by the caller's.
    if reason := key.unusable_reason(now) or used.unusable_reason(now):
        return f"its key {reason}"
    return ""
