"""The only door to GnuPG: making and keeping keys, signing, and examining signatures in a private home.

python-gnupg builds the command lines and feeds the process. Three of its habits are replaced here, because each lets
text from strangers pass for GnuPG's own words: status lines and log share one pipe; lines end wherever Unicode knows a
line separator (a user id may hold one, and forge whole status lines with it); the last signature of a file decides.
Nothing here decides about trust: signer.status reads what GnuPG says, signer.trust decides who counts.
"""

import fcntl
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen, TimeoutExpired, run
from threading import Timer
from types import TracebackType
from typing import Any, Self

import gnupg

from signer.errors import KeyUnusable, SignatureError
from signer.keys import Key, normal_fingerprint, read_listing
from signer.packets import count_signatures
from signer.status import SKEW, SignatureCheck, check_signatures

MAX_KEY = 1 << 20
"""Bytes of a public key file. A key has some hundred; anybody may append signatures to it (certificate flooding)."""

TIMEOUT = 60.0
"""Seconds for one run of gpg. Verifying takes a hundredth of one, making an RSA key some seconds."""

LIMITS = {
    resource.RLIMIT_CPU: 30,  # seconds
    resource.RLIMIT_AS: 1 << 30,  # bytes; gpg takes some 20 MiB, its agent some 100
    resource.RLIMIT_FSIZE: 64 << 20,  # bytes of any file written; a keyring has some thousand
    resource.RLIMIT_CORE: 0,  # a core dump could hold a private key
}
"""What one run of gpg may use: it reads bytes from strangers."""

DEFAULT_LIFETIME = timedelta(days=730)
"""Of a new key: it can be prolonged, and a lost key ends by itself."""

ALGORITHMS = ("ed25519", "rsa3072", "rsa4096")
MAX_USER_ID = 200

_SOCKET_LIMIT = 107
"""Bytes of a unix socket's path (unix(7)); the agent's longest socket name in a home has 20."""

_REFUSALS = {"4": "it was revoked", "5": "it has expired", "9": "its private part is not here"}
"""INV_SGNR reasons (GnuPG doc/DETAILS)."""


class _Said(gnupg.StatusHandler):  # type: ignore[misc]
    """All status lines of one run, in order, uninterpreted."""

    data = b""
    stderr = ""
    returncode = 0

    def __init__(self, gpg: object) -> None:
        super().__init__(gpg)
        self.lines: list[tuple[str, str]] = []

    def handle_status(self, key: str, value: str) -> None:
        """Keep the line."""
        self.lines.append((key, value))

    def values(self, keyword: str) -> list[str]:
        """The arguments of every line with that keyword."""
        return [value for key, value in self.lines if key == keyword]


class _Gpg(gnupg.GPG):  # type: ignore[misc]
    """python-gnupg with a status pipe of its own, resource limits, a deadline and lines that end at line feeds only."""

    result_map = dict.fromkeys(gnupg.GPG.result_map, _Said)

    def __init__(self, home: Path, *options: str) -> None:
        env = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8"}
        try:
            super().__init__(gnupghome=str(home), options=["--no-options", *options], env=env)
        except (OSError, ValueError) as exc:
            raise KeyUnusable("gpg cannot be run; install GnuPG (package gnupg)") from exc

    def run(self, args: Sequence[str], data: bytes = b"", passphrase: str | None = None) -> _Said:
        """Run gpg with these arguments and that input. A run that was stopped raises SignatureError."""
        said = _Said(self)
        # gpg may refuse its arguments and go before it has read its input.
        with suppress(BrokenPipeError):
            self._handle_io(list(args), BytesIO(data), said, passphrase=passphrase, binary=True)
        if said.returncode < 0:
            raise SignatureError(
                f"gpg was stopped by signal {-said.returncode}: it ran too long or took too much memory"
            )
        return said

    def _open_subprocess(self, args: list[str], passphrase: bool = False) -> Any:
        command = self.make_args(args, passphrase)
        status, write = os.pipe()
        try:
            command[command.index("--status-fd") + 1] = str(write)
            process = Popen(command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, pass_fds=(write,), env=self.env)
        except BaseException:
            os.close(status)
            raise
        finally:
            os.close(write)
        process.stderr = os.fdopen(status, "rb")
        with suppress(ProcessLookupError):  # it may be done already
            for limit, value in LIMITS.items():
                resource.prlimit(process.pid, limit, (value, value))
        self._deadline = Timer(TIMEOUT, process.kill)
        self._deadline.daemon = True
        self._deadline.start()
        return process

    def _collect_output(self, process: Any, result: Any, writer: Any = None, stdin: Any = None) -> int:
        try:
            return int(super()._collect_output(process, result, writer, stdin))
        finally:
            self._deadline.cancel()

    def _read_response(self, stream: Any, result: Any) -> None:
        # GnuPG escapes line feeds in what it quotes, and no other character that ends a line for Python's readers.
        for line in stream.read().split("\n"):
            if line.startswith("[GNUPG:] "):
                keyword, _, value = line.removeprefix("[GNUPG:] ").partition(" ")
                result.handle_status(keyword, value)


def _listed(gpg: _Gpg, kind: str = "--list-keys") -> list[Key]:
    return read_listing(gpg.run(["--with-fingerprint", "--with-fingerprint", "--fixed-list-mode", kind]).data)


def _import(gpg: _Gpg, key: bytes) -> list[str]:
    """Import public keys; returns the primary fingerprints."""
    if len(key) > MAX_KEY:
        raise KeyUnusable(f"the key file has {len(key)} bytes, more than the {MAX_KEY} allowed; export it minimally")
    # The agent is never asked: a private key in the file is an accident that must not be repeated here.
    said = gpg.run(["--no-autostart", "--import-options", "self-sigs-only", "--import"], key)
    counts = (said.values("IMPORT_RES") or [""])[0].split(" ")
    if len(counts) > 9 and counts[9] != "0":
        raise KeyUnusable("the key file holds a private key; give the public one (`partita key export`)")
    found = [value.split(" ")[1] for value in said.values("IMPORT_OK")]
    if not found:
        raise KeyUnusable("the key file holds no OpenPGP public key; make one with `partita key export FINGERPRINT`")
    return list(dict.fromkeys(found))


class Examiner:
    """A private, short-lived GnuPG home that holds the allowed public keys and nothing else. A context manager.

    Raises:
        KeyUnusable: no key at all, or what was given as a key is none.
    """

    def __init__(self, allowed_keys: Sequence[bytes]) -> None:
        if not allowed_keys:
            raise KeyUnusable("no key is allowed, so no signature can count")
        self._home = Path(tempfile.mkdtemp(prefix="partita-"))  # mode 0700
        try:
            self._gpg = _Gpg(
                self._home,
                *("--no-autostart", "--no-auto-key-retrieve", "--no-auto-key-locate", "--disable-dirmngr"),
                *("--no-default-keyring", "--keyring", str(self._home / "allowed.kbx"), "--trust-model", "always"),
            )
            for key in dict.fromkeys(allowed_keys):
                _import(self._gpg, key)
            self.keys: Mapping[str, Key] = {key.fingerprint: key for key in _listed(self._gpg)}
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
            SignatureError: the file is no binary detached signature, or GnuPG did not report on all of it.
        """
        expected = count_signatures(signature)
        signed, detached = self._home / "signed", self._home / "signed.sig"
        signed.write_bytes(data)
        detached.write_bytes(signature)
        # GnuPG judges by the caller's time, not its own; a key as young as a signature may be is not from the future.
        said = self._gpg.run([*_at(now + SKEW), "--verify", "--", str(detached), str(signed)])
        return check_signatures(said.lines, expected, self.keys, now)


def examine(data: bytes, signature: bytes, allowed_keys: Sequence[bytes], now: datetime) -> tuple[SignatureCheck, ...]:
    """Examine one signature file with a fresh private home; errors as in :class:`Examiner`."""
    with Examiner(allowed_keys) as examiner:
        return examiner.examine(data, signature, now)


def read_keys(data: bytes) -> list[Key]:
    """The public keys in a file (armoured or binary), without keeping them; KeyUnusable if there is none."""
    with Examiner([data]) as examiner:
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
                    *_at(now),
                    *_unprotected(passphrase),
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
            return _import(gpg, key)

    def export(self, fingerprint: str) -> bytes:
        """The public key, armoured, without other people's signatures on it."""
        wanted = normal_fingerprint(fingerprint)
        with self._opened() as gpg:
            key = bytes(gpg.run(["--armor", "--export-options", "export-minimal", "--export", "--", wanted]).data)
        if not key:
            raise self._missing(wanted)
        return key

    def keys(self) -> list[Key]:
        """All keys here, one's own first."""
        if not self.home.is_dir():
            return []
        with self._opened() as gpg:
            secret = {key.fingerprint for key in _listed(gpg, "--list-secret-keys") if key.secret}
            keys = [replace(key, secret=key.fingerprint in secret) for key in _listed(gpg)]
        return sorted(keys, key=lambda key: (not key.secret, key.primary.created, key.fingerprint))

    def sign(self, data: bytes, fingerprint: str, *, passphrase: str = "", now: datetime | None = None) -> bytes:
        """A binary detached signature (SHA-512, class 00) by exactly that key or its signing subkey.

        It is dated `now`, by default the clock's time.

        Raises:
            KeyUnusable: it is not here, cannot sign (any more), or the passphrase is wrong.
        """
        wanted = normal_fingerprint(fingerprint)
        with self._opened() as gpg:
            said = gpg.run(
                [
                    *_at(now),
                    *_unprotected(passphrase),
                    "--digest-algo",
                    "SHA512",
                    "--local-user",
                    wanted,
                    "--detach-sign",
                ],
                data,
                passphrase=passphrase or None,
            )
            held = [] if said.data else [key.fingerprint for key in _listed(gpg)]
        if not said.values("SIG_CREATED") or not said.data:
            raise self._unusable(wanted, said, known=wanted in held, protected=bool(passphrase))
        return bytes(said.data)

    def _unusable(self, fingerprint: str, said: _Said, *, known: bool, protected: bool) -> KeyUnusable:
        refusals = [value.split(" ")[0] for value in said.values("INV_SGNR")]
        if not known:
            return self._missing(fingerprint)
        if refusals:
            return KeyUnusable(f"the key {fingerprint} cannot sign: {_REFUSALS.get(refusals[0], 'gpg refuses it')}")
        hint = "the passphrase is wrong" if protected else "is it protected? then give --passphrase-file"
        return KeyUnusable(f"the key {fingerprint} did not sign: {hint}")

    def _missing(self, fingerprint: str) -> KeyUnusable:
        return KeyUnusable(f"{self.home}: there is no key {fingerprint}; `partita key list` shows those that are")

    @contextmanager
    def _opened(self, *, create: bool = False) -> Iterator[_Gpg]:
        """gpg on this home: one command at a time, at a path short enough for sockets, and no agent left behind."""
        try:
            if create:
                self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
            elif not self.home.is_dir():
                raise KeyUnusable(f"{self.home}: there are no keys here yet; make one with `partita key new`")
            lock = (self.home / "partita.lock").open("a")
        except OSError as exc:
            raise KeyUnusable(f"{self.home}: cannot be used for keys: {exc.strerror}") from exc
        with lock, tempfile.TemporaryDirectory(prefix="partita-") as short:
            fcntl.flock(lock, fcntl.LOCK_EX)
            home = self.home.absolute()
            if len(os.fsencode(home)) + len("/S.gpg-agent.browser") > _SOCKET_LIMIT:
                home = Path(short) / "home"
                home.symlink_to(self.home.absolute())
            try:
                yield _Gpg(home)
            finally:
                _end_agent(home)


def _at(now: datetime | None) -> list[str]:
    return [] if now is None else ["--faked-system-time", f"{int(now.timestamp())}!"]


def _unprotected(passphrase: str) -> list[str]:
    """Without a passphrase gpg is told that it is empty, lest it ask somebody; with one, python-gnupg hands it over."""
    return [] if passphrase else ["--pinentry-mode", "loopback", "--passphrase", ""]


def _end_agent(home: Path) -> None:
    """Stop the agent that gpg started for this home, and wait until it has gone (it removes its socket last)."""
    socket = home / "S.gpg-agent"
    if not socket.exists():
        return
    with suppress(OSError, TimeoutExpired):
        run(
            ["gpgconf", "--homedir", str(home), "--kill", "all"],
            stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL, check=False, timeout=TIMEOUT,
        )  # fmt: skip
    deadline = time.monotonic() + 2
    while socket.exists() and time.monotonic() < deadline:
        time.sleep(0.002)


def utc_now() -> datetime:
    """The time for commands; everything else takes it as an argument."""
    return datetime.now(UTC)
