"""Keys as values, read from GnuPG's listings, and the settings of the user's keyring. Pure.

Times are timezone-aware. User ids are untrusted: they are for display only, never compared, and leave this module with
every control character escaped.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from pydantic import Field

from signer.documents import Document
from signer.errors import KeyUnusable
from signer.runtime.settings import state_directory

_FINGERPRINT = re.compile(r"[0-9A-F]{40}", re.ASCII)


class SignerSettings(Document):
    """Section `signer`: the directory of the user's own keys, a GnuPG home that nothing else uses."""

    home: Path = Field(default_factory=lambda: state_directory("keys"))


@dataclass(frozen=True)
class Subkey:
    """One key of a certificate, the primary one included; `expires` None means never."""

    fingerprint: str
    created: datetime
    expires: datetime | None
    revoked: bool
    signs: bool

    def unusable_reason(self, now: datetime) -> str:
        """Say why it may not sign at that time; empty if it may."""
        if self.revoked:
            return "was revoked"
        if self.expires is not None and self.expires <= now:
            return f"expired on {self.expires:%Y-%m-%d}"
        return "" if self.signs else "is not made for signing"


@dataclass(frozen=True)
class Key:
    """A certificate: a primary key, its subkeys and its (escaped) user ids. `secret`: the private part is here too."""

    primary: Subkey
    user_ids: tuple[str, ...] = ()
    subkeys: tuple[Subkey, ...] = ()
    secret: bool = field(default=False, compare=False)

    @property
    def fingerprint(self) -> str:
        """Of the primary key: 40 upper-case hex digits."""
        return self.primary.fingerprint

    def find(self, fingerprint: str) -> Subkey | None:
        """Return the primary key or subkey with that fingerprint."""
        return next((key for key in (self.primary, *self.subkeys) if key.fingerprint == fingerprint), None)

    def unusable_reason(self, now: datetime) -> str:
        """Say why no signature by it or its subkeys counts at that time; empty if one may."""
        primary = replace(self.primary, signs=True).unusable_reason(now)
        reasons = [key.unusable_reason(now) for key in (self.primary, *self.subkeys)]
        return primary or ("" if "" in reasons else reasons[0])


def normalize_fingerprint(text: str) -> str:
    """Turn a fingerprint as people type it (spaces, lower case, `openpgp:`) into 40 upper-case hex digits.

    Raises:
        KeyUnusable: the text is not a fingerprint. Key ids and user ids can be forged and are not accepted anywhere.
    """
    digits = text.removeprefix("openpgp:").replace(" ", "").upper()
    if not _FINGERPRINT.fullmatch(digits):
        raise KeyUnusable(
            f"{escape_unprintable(text[:80])!r} is not a valid fingerprint; give the 40 hex digits from `partita key list`"
        )
    return digits


def sole_signing_key(keys: Sequence[Key], now: datetime) -> str:
    """Return the fingerprint of the user's only key that may sign; KeyUnusable if there is none or more than one."""
    own = [key.fingerprint for key in keys if key.secret and not key.unusable_reason(now)]
    if not own:
        raise KeyUnusable("you have no key that may sign; make one with `partita key new`")
    if len(own) > 1:
        raise KeyUnusable(f"you have {len(own)} keys that may sign; name one of {', '.join(own)}")
    return own[0]


def escape_unprintable(text: str) -> str:
    """Escape control, invisible and direction-changing characters: untrusted names must not control terminals."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def read_listing(listing: bytes) -> list[Key]:
    """Read the output of `gpg --with-colons --list-keys` (GnuPG doc/DETAILS, "Format of the colon listings").

    Lines end at line feeds only: a user id may hold other characters that some readers take for a line end.
    """
    keys: list[Key] = []
    for record in _records(listing):
        match record[0]:
            case "pub" | "sec":
                keys.append(Key(_subkey(record), secret=record[0] == "sec" and record[14] != "#"))
            case "sub" | "ssb" if keys:
                keys[-1] = replace(keys[-1], subkeys=(*keys[-1].subkeys, _subkey(record)))
            case "fpr" if keys:
                keys[-1] = _with_fingerprint(keys[-1], record[9])
            case "uid" if keys:
                keys[-1] = replace(keys[-1], user_ids=(*keys[-1].user_ids, _user_id(record[9])))
            case _:
                pass
    return keys


def _records(listing: bytes) -> Iterator[list[str]]:
    for line in listing.split(b"\n"):
        if line:
            fields = line.decode("utf-8", "backslashreplace").split(":")
            yield fields + [""] * (20 - len(fields))


def _subkey(record: list[str]) -> Subkey:
    # Lower-case capability letters are the key's own; upper-case ones sum up the whole certificate.
    return Subkey("", _time(record[5]), _time(record[6]) if record[6] else None, record[1] == "r", "s" in record[11])


def _time(text: str) -> datetime:
    return datetime.fromtimestamp(int(text), UTC)


def _with_fingerprint(key: Key, fingerprint: str) -> Key:
    if key.subkeys:
        *rest, last = key.subkeys
        return replace(key, subkeys=(*rest, replace(last, fingerprint=fingerprint)))
    return replace(key, primary=replace(key.primary, fingerprint=fingerprint))


def _user_id(text: str) -> str:
    """Undo the listing's own escapes (\\x3a), then escape the characters that must not reach a terminal."""
    raw = re.sub(rb"\\x([0-9a-f]{2})", lambda match: bytes.fromhex(match[1].decode()), text.encode())
    return escape_unprintable(raw.decode("utf-8", "backslashreplace"))
