"""OpenPGP: examining signatures in a private home, and keeping and using one's own keys.

Nothing here decides about trust: signer.openpgp.status_lines reads what GnuPG says, signer.verification.trust decides who counts.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

from signer.errors import KeyUnusable
from signer.openpgp.gpg import Gpg, GpgResult, clock_options, end_agent, import_keys, list_keys, passphrase_options
from signer.openpgp.keys import Key, normalize_fingerprint
from signer.openpgp.packets import split_signatures
from signer.openpgp.status_lines import SKEW, SignatureCheck, check_signature
from signer.runtime import files

DEFAULT_LIFETIME = timedelta(days=730)
"""Of a new key: it can be prolonged, and a lost key ends by itself."""

ALGORITHMS = ("ed25519", "rsa3072", "rsa4096")
MAX_USER_ID = 200

_SOCKET_LIMIT = 107
"""Bytes of a unix socket's path (unix(7)); the agent's longest socket name in a home has 20."""


class OpenPgpExaminer:
    """A private, short-lived GnuPG home that holds the allowed public keys and nothing else. A context manager.

    Raises:
        KeyUnusable: no key at all, or what was given as a key is none.
    """

    def __init__(self, allowed_keys: Sequence[bytes]) -> None:
        if not allowed_keys:
            raise KeyUnusable("no key is allowed, so no signature can count")
        self._home = Path(tempfile.mkdtemp(prefix="partita-"))  # mode 0700
        try:
            self._gpg = Gpg(
                self._home,
                *("--no-autostart", "--no-auto-key-retrieve", "--no-auto-key-locate", "--disable-dirmngr"),
                *("--no-default-keyring", "--keyring", str(self._home / "allowed.kbx"), "--trust-model", "always"),
            )
            # Nothing is judged yet, but gpg neither keeps nor describes keys from the future: their makers' clocks vary.
            lately = utc_now() + SKEW
            for key in dict.fromkeys(allowed_keys):
                import_keys(self._gpg, key, lately)
            self.keys: Mapping[str, Key] = {key.fingerprint: key for key in list_keys(self._gpg, now=lately)}
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self._home, ignore_errors=True)

    def examine(self, data: bytes, signature: bytes, now: datetime) -> tuple[SignatureCheck, ...]:
        """Each signature of a detached signature file over exactly these bytes.

        Raises:
            SignatureError: the file is no binary detached signature, or GnuPG did not report on one as it should.
        """
        signatures = split_signatures(signature)
        signed, detached = self._home / "signed", self._home / "signed.sig"
        signed.write_bytes(data)
        checks = []
        # One at a time: in a file of several, gpg stops at a bad one, and none may speak for another.
        for each in signatures:
            detached.write_bytes(each)
            # gpg judges by the caller's time; a key as young as a signature may be is not from the future.
            said = self._gpg.run([*clock_options(now + SKEW), "--verify", "--", str(detached), str(signed)])
            checks.append(check_signature(said.lines, self.keys, now))
        return tuple(checks)


def examine(data: bytes, signature: bytes, allowed_keys: Sequence[bytes], now: datetime) -> tuple[SignatureCheck, ...]:
    """Examine one signature file with a fresh private home; errors as in :class:`OpenPgpExaminer`."""
    with OpenPgpExaminer(allowed_keys) as examiner:
        return examiner.examine(data, signature, now)


def read_keys(data: bytes) -> list[Key]:
    """The public keys in a file (armoured or binary), without keeping them; KeyUnusable if there is none."""
    with OpenPgpExaminer([data]) as examiner:
        return list(examiner.keys.values())


class Keyring:
    """One's own keys, in a GnuPG home that stock gpg can use too. Made (mode 0700) when the first key comes."""

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
            user_id: whose it is, such as `STAR images <images@star.example>`; plain text.
            lifetime: until it expires; None means never.
            algorithm: one of ALGORITHMS.
            passphrase: protects the private key; empty leaves it unprotected, readable by whoever reads the directory.
            now: when it is made; the clock's time unless given.
        """
        if not 1 <= len(user_id.strip()) <= MAX_USER_ID or not user_id.isprintable():
            raise KeyUnusable(
                f"a user id is plain text of 1 to {MAX_USER_ID} characters, such as 'Ann <ann@star.example>'"
            )
        if algorithm not in ALGORITHMS:
            raise KeyUnusable(
                f"{algorithm[:40]!r} is no algorithm for keys here; choose one of {', '.join(ALGORITHMS)}"
            )
        expires = "never" if lifetime is None else f"seconds={int(lifetime.total_seconds())}"
        with self._opened(create=True) as gpg:
            said = gpg.run(
                [
                    "--yes",
                    *clock_options(now),
                    *passphrase_options(passphrase),
                    "--quick-generate-key",
                    "--",
                    user_id,
                    algorithm,
                    "sign",
                    expires,
                ],
                passphrase=passphrase or None,
            )
        made = [value.split(" ")[1] for value in said.values("KEY_CREATED")]
        if not made:
            raise KeyUnusable(
                f"{self.home}: gpg could not make a key; is the directory writable and the disk not full?"
            )
        return made[0]

    def import_keys(self, key: bytes) -> list[str]:
        """Keep public keys (armoured or binary); returns their fingerprints."""
        with self._opened(create=True) as gpg:
            return import_keys(gpg, key, utc_now())

    def export(self, fingerprint: str) -> bytes:
        """The public key, armoured, without other people's signatures on it."""
        wanted = normalize_fingerprint(fingerprint)
        with self._opened() as gpg:
            key = bytes(
                gpg.run(
                    [
                        *clock_options(utc_now() + SKEW),
                        "--armor",
                        "--export-options",
                        "export-minimal",
                        "--export",
                        "--",
                        wanted,
                    ]
                ).data
            )
        if not key:
            raise self._missing(wanted)
        return key

    def keys(self) -> list[Key]:
        """All keys here, one's own first."""
        if not self.home.is_dir():
            return []
        with self._opened() as gpg:
            secret = {key.fingerprint for key in list_keys(gpg, "--list-secret-keys") if key.secret}
            keys = [replace(key, secret=key.fingerprint in secret) for key in list_keys(gpg)]
        return sorted(keys, key=lambda key: (not key.secret, key.primary.created, key.fingerprint))

    def sign(self, data: bytes, fingerprint: str, *, passphrase: str = "", now: datetime | None = None) -> bytes:
        """A binary detached signature (SHA-512, class 00) by exactly that key or its signing subkey.

        It is dated `now`, by default the clock's time.

        Raises:
            KeyUnusable: it is not here, cannot sign (any more), or the passphrase is wrong.
        """
        wanted = normalize_fingerprint(fingerprint)
        with self._opened() as gpg:
            said = gpg.run(
                [
                    *clock_options(now),
                    *passphrase_options(passphrase),
                    "--digest-algo",
                    "SHA512",
                    "--local-user",
                    wanted,
                    "--detach-sign",
                ],
                data,
                passphrase=passphrase or None,
            )
            held = [] if said.data else [key for key in list_keys(gpg) if key.fingerprint == wanted]
        if not said.values("SIG_CREATED") or not said.data:
            raise self._unusable(wanted, held, said, now or utc_now(), protected=bool(passphrase))
        return bytes(said.data)

    def _unusable(
        self, fingerprint: str, held: Sequence[Key], said: GpgResult, now: datetime, *, protected: bool
    ) -> KeyUnusable:
        if not held:
            return self._missing(fingerprint)
        if fault := held[0].fault(now):
            return KeyUnusable(f"the key {fingerprint} {fault}; sign with another one")
        if said.values("INV_SGNR"):
            return KeyUnusable(f"the private part of the key {fingerprint} is not here; sign where it was made")
        hint = "the passphrase is wrong" if protected else "is it protected? then give --passphrase-file"
        return KeyUnusable(f"the key {fingerprint} did not sign: {hint}")

    def _missing(self, fingerprint: str) -> KeyUnusable:
        return KeyUnusable(f"{self.home}: there is no key {fingerprint}; `partita key list` shows those that are")

    @contextmanager
    def _opened(self, *, create: bool = False) -> Iterator[Gpg]:
        """gpg on this home: one command at a time, at a path short enough for sockets, and no agent left behind."""
        with ExitStack() as undo:
            try:
                if create:
                    self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
                elif not self.home.is_dir():
                    raise KeyUnusable(f"{self.home}: there are no keys here yet; make one with `partita key new`")
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


def utc_now() -> datetime:
    """The time for commands; everything else takes it as an argument."""
    return datetime.now(UTC)
