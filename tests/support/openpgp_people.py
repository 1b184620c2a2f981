"""People with keys, made once by stock gpg for all tests of the signer."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from signer.openpgp.keyring import Keyring
from signer.verification.endorsements import endorse
from signer.verification.signers import KeySigner
from signer.verification.trust import Anchor

IMAGE = "sha256:" + "ab" * 32
TITLE = "star/worker@1.0"
ROLE = "image-administrator"

FORGED = "D" * 40
"""A fingerprint that is nobody's."""


@dataclass
class People:
    """Keys by name in one GnuPG home, and stock gpg on it."""

    home: Path
    now: datetime
    fingerprints: dict[str, str] = field(default_factory=dict)
    public: dict[str, bytes] = field(default_factory=dict)

    def gpg(self, *args: str, data: bytes = b"", at: datetime | None = None) -> bytes:
        """Run gpg; returns what it printed."""
        when = [] if at is None else ["--faked-system-time", f"{int(at.timestamp())}!"]
        command = ["gpg", "--homedir", str(self.home), "--batch", "--no-tty", "--yes", "--passphrase", ""]
        command += ["--pinentry-mode", "loopback", *when, *args]
        done = subprocess.run(command, input=data, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    def make(self, name: str, user_id: str, *, at: datetime, until: str = "2y", kind: str = "ed25519") -> None:
        """Make a key and remember it under a name."""
        before = set(self._listed("fpr"))
        self.gpg("--quick-generate-key", "--", user_id, kind, "sign", until, at=at)
        (self.fingerprints[name],) = set(self._listed("fpr")) - before

    def add_subkey(self, name: str, *, at: datetime, until: str = "2y") -> str:
        """Add a signing subkey; returns its fingerprint."""
        before = set(self._listed("fpr"))
        self.gpg("--quick-add-key", self.fingerprints[name], "ed25519", "sign", until, at=at)
        (made,) = set(self._listed("fpr")) - before
        return made

    def export(self, name: str) -> None:
        """Take the public key as it is now."""
        self.public[name] = self.gpg("--export", self.fingerprints[name])

    def sign(self, name: str, data: bytes, *options: str, at: datetime | None = None) -> bytes:
        """A binary detached signature by that person, or by a key given as `FINGERPRINT!`."""
        who = self.fingerprints.get(name, name)
        how = options or ("--detach-sign",)
        return self.gpg("--digest-algo", "SHA256", "--local-user", who, *how, data=data, at=at or self.now)

    def anchor(self, name: str, *, vo: str = "star", role: str = ROLE) -> Anchor:
        """Trust in that person."""
        return Anchor(vo, role, self.fingerprints[name], self.public[name])

    def endorse(self, name: str, *, role: str = ROLE, title: str = TITLE, image: str = IMAGE) -> tuple[bytes, bytes]:
        """An endorsement by that person, made by our own code."""
        return endorse(KeySigner(Keyring(self.home), self.fingerprints[name]), image, title, self.now, role=role)

    def _listed(self, kind: str) -> list[str]:
        listing = self.gpg("--with-colons", "--with-subkey-fingerprint", "--list-keys").decode()
        return [line.split(":")[9] for line in listing.split("\n") if line.startswith(kind + ":")]


@pytest.fixture(scope="session")
def people() -> Iterator[People]:
    """Ann and Bob; expired, revoked, weak and odd keys; two people whose user ids attack whoever reads them."""
    with tempfile.TemporaryDirectory(prefix="keys-") as home:
        now = datetime.now(UTC).replace(microsecond=0)
        people = People(Path(home), now)
        year_ago, long_ago = now - timedelta(days=365), now - timedelta(days=900)
        people.make("ann", "Ann <ann@star.example>", at=year_ago)
        people.make("bob", "Bob <bob@star.example>", at=year_ago)
        people.make("eve", "Eve <eve@evil.example>", at=year_ago)
        people.make("expired", "Otto <otto@star.example>", at=long_ago, until="1y")
        people.make("revoked", "Rex <rex@star.example>", at=year_ago)
        people.make("rsa", "Rosa <rosa@star.example>", at=year_ago, kind="rsa2048")
        people.make("subkeys", "Sam <sam@star.example>", at=year_ago)
        people.make("forger", forging_user_id(people.fingerprints["ann"]), at=year_ago)
        people.make("painter", "\x9b31mPaint\u202eer <p@evil.example>", at=year_ago)
        for name in ("first", "second"):
            people.fingerprints[name] = people.add_subkey("subkeys", at=year_ago)
        people.fingerprints["stale"] = people.add_subkey("subkeys", at=year_ago, until="1w")
        people.make("ends", "Enno <enno@star.example>", at=long_ago, until="1y")
        people.fingerprints["outlives"] = people.add_subkey("ends", at=long_ago, until="5y")
        revoke(people, "revoked")
        for name in ("ann", "bob", "eve", "expired", "revoked", "rsa", "subkeys", "forger", "painter", "ends"):
            people.export(name)
        try:
            yield people
        finally:
            subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=True)


def forging_user_id(victim: str) -> str:
    """A user id that, split at NEL (U+0085), reads as the status lines of a good signature by the victim."""
    lines = [
        "NEWSIG",
        f"GOODSIG {victim[-16:]} Ann",
        f"VALIDSIG {victim} 2026-01-01 1767225600 0 4 0 22 8 00 {victim}",
        "NEWSIG",
    ]
    return "Fred" + "".join(f"\x85[GNUPG:] {line}" for line in lines) + " <fred@evil.example>"


def revoke(people: People, name: str) -> None:
    """Apply the revocation certificate that gpg made with the key (its armour is defused by a colon)."""
    file = people.home / "openpgp-revocs.d" / f"{people.fingerprints[name]}.rev"
    people.gpg("--import", data=file.read_bytes().replace(b"\n:-----BEGIN", b"\n-----BEGIN"))


def processes_naming(text: str) -> list[str]:
    """Command lines of living processes that contain a text."""
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                line = (Path(entry.path) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if text in line:
                found.append(line)
    return found
