"""The user's own keys in a GnuPG home: making, importing, exporting and signing with them."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

from signer.errors import KeyUnusable
from signer.openpgp.gpg import Gpg, GpgResult, clock_options, end_agent, import_keys, list_keys, passphrase_options
from signer.openpgp.keys import Key, normalize_fingerprint
from signer.openpgp.status_lines import SKEW
from signer.runtime import files
from signer.runtime.clock import utc_now

DEFAULT_LIFETIME = timedelta(days=730)
"""Of a new key: its expiry can be extended, and a lost key expires by itself."""

ALGORITHMS = ("ed25519", "rsa3072", "rsa4096")
MAX_USER_ID = 200

_SOCKET_LIMIT = 107
"""Bytes of a unix socket's path (unix(7)); the agent's longest socket name in a home has 20."""


class Keyring:
    """The user's own keys, in a GnuPG home that stock gpg can use too. Made (mode 0700) with the first key."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def generate(
        self,
        user_id: str,
        *,
        lifetime: timedelta | None = DEFAULT_LIFETIME,
        algorithm: str = "ed25519",
        passphrase: str = "",
        now: datetime | None = None,
    ) -> str:
        """Make a signing key; returns its fingerprint.

        Args:
            user_id: the key's owner, such as `STAR images <images@star.example>`; plain text.
            lifetime: until it expires; None means never.
            algorithm: one of ALGORITHMS.
            passphrase: protects the private key; without one, anyone who can read the directory can use the key.
            now: the time of creation; by default the clock's time.
        """
        if not 1 <= len(user_id.strip()) <= MAX_USER_ID or not user_id.isprintable():
            raise KeyUnusable(
                f"a user id is plain text of 1 to {MAX_USER_ID} characters, such as 'Ann <ann@star.example>'"
            )
        if algorithm not in ALGORITHMS:
            raise KeyUnusable(f"{algorithm[:40]!r} is not a supported algorithm; choose one of {', '.join(ALGORITHMS)}")
        expires = "never" if lifetime is None else f"seconds={int(lifetime.total_seconds())}"
        options = ["--yes", *clock_options(now), *passphrase_options(passphrase)]
        with self._opened(create=True) as gpg:
            command = [*options, "--quick-generate-key", "--", user_id, algorithm, "sign", expires]
            result = gpg.run(command, passphrase=passphrase or None)
        made = [value.split(" ")[1] for value in result.values("KEY_CREATED")]
        if not made:
            raise KeyUnusable(
                f"{self.home}: gpg could not make a key; check that the directory is writable and the disk is not full"
            )
        return made[0]

    def import_keys(self, key: bytes) -> list[str]:
        """Import public keys (armoured or binary); returns their fingerprints."""
        with self._opened(create=True) as gpg:
            return import_keys(gpg, key, utc_now())

    def export(self, fingerprint: str) -> bytes:
        """Export the public key, armoured, without other people's signatures on it."""
        wanted = normalize_fingerprint(fingerprint)
        options = [*clock_options(utc_now() + SKEW), "--armor", "--export-options", "export-minimal"]
        with self._opened() as gpg:
            key = bytes(gpg.run([*options, "--export", "--", wanted]).data)
        if not key:
            raise self._missing(wanted)
        return key

    def keys(self) -> list[Key]:
        """List all keys of the keyring, the user's own first."""
        if not self.home.is_dir():
            return []
        with self._opened() as gpg:
            secret = {key.fingerprint for key in list_keys(gpg, "--list-secret-keys") if key.secret}
            keys = [replace(key, secret=key.fingerprint in secret) for key in list_keys(gpg)]
        return sorted(keys, key=lambda key: (not key.secret, key.primary.created, key.fingerprint))

    def sign(self, data: bytes, fingerprint: str, *, passphrase: str = "", now: datetime | None = None) -> bytes:
        """Make a binary detached signature (SHA-512, class 00) by exactly that key or its signing subkey.

        It is dated `now`, by default the clock's time.

        Raises:
            KeyUnusable: the key is missing, cannot sign (any more), or the passphrase is wrong.
        """
        wanted = normalize_fingerprint(fingerprint)
        options = [*clock_options(now), *passphrase_options(passphrase), "--digest-algo", "SHA512"]
        with self._opened() as gpg:
            command = [*options, "--local-user", wanted, "--detach-sign"]
            result = gpg.run(command, data, passphrase=passphrase or None)
            matching = [] if result.data else [key for key in list_keys(gpg) if key.fingerprint == wanted]
        if not result.values("SIG_CREATED") or not result.data:
            raise self._unusable(wanted, matching, result, now or utc_now(), protected=bool(passphrase))
        return bytes(result.data)

    def _unusable(
        self, fingerprint: str, matching: Sequence[Key], result: GpgResult, now: datetime, *, protected: bool
    ) -> KeyUnusable:
        if not matching:
            return self._missing(fingerprint)
        if reason := matching[0].unusable_reason(now):
            return KeyUnusable(f"the key {fingerprint} {reason}; sign with another one")
        if result.values("INV_SGNR"):
            return KeyUnusable(
                f"the keyring does not have the private part of the key {fingerprint}; sign where the key was made"
            )
        hint = "the passphrase is wrong" if protected else "if the key has a passphrase, give --passphrase-file"
        return KeyUnusable(f"the key {fingerprint} did not sign: {hint}")

    def _missing(self, fingerprint: str) -> KeyUnusable:
        return KeyUnusable(f"{self.home}: no key {fingerprint}; `partita key list` shows the keys of this keyring")

    @contextmanager
    def _opened(self, *, create: bool = False) -> Iterator[Gpg]:
        """gpg on this home: one command at a time, at a path short enough for sockets, and no agent left behind."""
        with ExitStack() as undo:
            try:
                if create:
                    self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
                elif not self.home.is_dir():
                    raise KeyUnusable(f"{self.home}: no keys yet; make one with `partita key new`")
                undo.enter_context(files.locked(self.home / "partita.lock", wait=True))
            except OSError as exc:
                raise KeyUnusable(f"{self.home}: cannot be used for keys: {exc.strerror}") from exc
            short = undo.enter_context(tempfile.TemporaryDirectory(prefix="partita-"))
            home = self.home.absolute()
            if len(os.fsencode(home)) + len("/S.gpg-agent.browser") > _SOCKET_LIMIT:
                home = Path(short) / "home"
                home.symlink_to(self.home.absolute())
            try:
                yield Gpg(home)
            finally:
                end_agent(home)
