"""The only door to GnuPG: one run of gpg, what it said, and the homes that it works in.

python-gnupg builds the command lines and feeds the process. Three of its habits are replaced here, because each lets
text from strangers pass for GnuPG's own words: status lines and log share one pipe; lines end wherever Unicode knows a
line separator (a user id may hold one, and forge whole status lines with it); the last signature of a file decides.
"""

import logging
import os
import resource
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from io import BytesIO
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen, TimeoutExpired, run
from threading import Timer
from typing import Any

import gnupg

from signer.errors import KeyUnusable, SignatureError
from signer.openpgp.keys import Key, escape_unprintable, read_listing

MAX_KEY = 1 << 20
"""Bytes of a public key file. A key has some hundred; anybody may append signatures to it (certificate flooding)."""

TIMEOUT = 60.0
"""Seconds for one run of gpg. Verifying takes a hundredth of one, making an RSA key some seconds."""

GPG_LIMITS = {
    resource.RLIMIT_CPU: 30,  # seconds
    resource.RLIMIT_AS: 1 << 30,  # bytes; gpg takes some 20 MiB, its agent some 100
    resource.RLIMIT_FSIZE: 64 << 20,  # bytes of any file written; a keyring has some thousand
}
"""What one run of gpg may use: it reads bytes from strangers.

Set from outside, a moment after it has started. Not RLIMIT_CORE: gpg forbids core dumps itself, by reading that limit
and writing it back, and dies if it was lowered in between.
"""


MAX_LOG = 4096
"""Bytes of gpg's log that are kept for error messages."""

logging.getLogger("gnupg").setLevel(logging.ERROR)  # it warns of exit codes, which mean nothing here


class GpgResult(gnupg.StatusHandler):  # type: ignore[misc]
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


class Gpg(gnupg.GPG):  # type: ignore[misc]
    """python-gnupg with a status pipe of its own, resource limits, a deadline and lines that end at line feeds only."""

    result_map = dict.fromkeys(gnupg.GPG.result_map, GpgResult)

    def __init__(self, home: Path, *options: str) -> None:
        env = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8"}
        try:
            super().__init__(gnupghome=str(home), options=["--no-options", *options], env=env)
        except OSError as exc:
            raise KeyUnusable("gpg cannot be run; install GnuPG (package gnupg)") from exc
        except ValueError as exc:
            raise KeyUnusable(f"gpg does not start in {home}: {exc}") from exc

    def run(self, args: Sequence[str], data: bytes = b"", passphrase: str | None = None) -> GpgResult:
        """Run gpg with these arguments and that input. A run that was stopped raises SignatureError."""
        said = GpgResult(self)
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
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed when the run ends
        try:
            command[command.index("--status-fd") + 1] = str(write)
            process = Popen(command, stdin=PIPE, stdout=PIPE, stderr=self._log, pass_fds=(write,), env=self.env)
        except BaseException:
            os.close(status)
            self._log.close()
            raise
        finally:
            os.close(write)
        process.stderr = os.fdopen(status, "rb")
        with suppress(ProcessLookupError):  # it may be done already
            for limit, value in GPG_LIMITS.items():
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
            with self._log as log:
                log.seek(0)
                result.stderr = escape_unprintable(log.read(MAX_LOG).decode("utf-8", "backslashreplace").strip())

    def _read_response(self, stream: Any, result: Any) -> None:
        # GnuPG escapes line feeds in what it quotes, and no other character that ends a line for Python's readers.
        for line in stream.read().split("\n"):
            if line.startswith("[GNUPG:] "):
                keyword, _, value = line.removeprefix("[GNUPG:] ").partition(" ")
                result.handle_status(keyword, value)


def list_keys(gpg: Gpg, kind: str = "--list-keys", *, now: datetime | None = None) -> list[Key]:
    """The keys of a home; with kind `--list-secret-keys` those whose private part is there."""
    return read_listing(
        gpg.run([*clock_options(now), "--with-fingerprint", "--with-fingerprint", "--fixed-list-mode", kind]).data
    )


def import_keys(gpg: Gpg, key: bytes, now: datetime) -> list[str]:
    """Import public keys; returns the primary fingerprints."""
    if len(key) > MAX_KEY:
        raise KeyUnusable(f"the key file has {len(key)} bytes, more than the {MAX_KEY} allowed; export it minimally")
    # The agent is never asked: a private key in the file is an accident that must not be repeated here.
    said = gpg.run([*clock_options(now), "--no-autostart", "--import-options", "self-sigs-only", "--import"], key)
    counts = (said.values("IMPORT_RES") or [""])[0].split(" ")
    if len(counts) > 9 and counts[9] != "0":
        raise KeyUnusable("the key file holds a private key; give the public one (`partita key export`)")
    found = [value.split(" ")[1] for value in said.values("IMPORT_OK")]
    if not found:
        raise KeyUnusable("the key file holds no OpenPGP public key; make one with `partita key export FINGERPRINT`")
    return list(dict.fromkeys(found))


def clock_options(now: datetime | None) -> list[str]:
    """Options that make gpg work at that time; none leaves it its own clock."""
    return [] if now is None else ["--faked-system-time", f"{int(now.timestamp())}!"]


def passphrase_options(passphrase: str) -> list[str]:
    """How gpg gets its passphrase. Without a passphrase gpg is told that it is empty, lest it ask somebody; with one, python-gnupg hands it over."""
    return [] if passphrase else ["--pinentry-mode", "loopback", "--passphrase", ""]


def end_agent(home: Path) -> None:
    """Stop the agent that gpg started for this home, and wait until it has gone (it removes its socket last)."""
    socket = home / "S.gpg-agent"
    if not socket.exists():
        return
    with suppress(OSError, TimeoutExpired):
        run(
            ["gpgconf", "--homedir", str(home), "--kill", "all"],
            stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL, check=False, timeout=TIMEOUT,
        )  # fmt: skip
    deadline = time.monotonic() + 10
    while socket.exists() and time.monotonic() < deadline:
        time.sleep(0.002)
