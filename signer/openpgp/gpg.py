"""The only module that runs gpg: one run, its status lines and output, and the GnuPG homes that it works in.

python-gnupg builds the command lines and feeds the process. Three of its habits are replaced here, because each lets
untrusted text pass for GnuPG's own: status lines and log share one pipe; lines end at any Unicode line separator (a user
id may hold one, and forge whole status lines with it); the last signature of a file decides.
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
"""Bytes of a public key file. A key has some hundred; others may append signatures to it (certificate flooding)."""

TIMEOUT = 60.0
"""Seconds for one run of gpg. Verifying takes a hundredth of one, making an RSA key some seconds."""

GPG_LIMITS = {
    resource.RLIMIT_CPU: 30,  # seconds
    resource.RLIMIT_AS: 1 << 30,  # bytes; gpg takes some 20 MiB, its agent some 100
    resource.RLIMIT_FSIZE: 64 << 20,  # bytes of any file written; a keyring has some thousand
}
"""Limits of one run of gpg, which reads untrusted bytes.

Set from outside, a moment after it has started. Not RLIMIT_CORE: gpg forbids core dumps itself, by reading that limit
and writing it back, and dies if it was lowered in between.
"""


MAX_LOG = 4096
"""Bytes of gpg's log that are kept for error messages."""

logging.getLogger("gnupg").setLevel(logging.ERROR)  # it warns about exit codes, which are not used here


class GpgResult(gnupg.StatusHandler):  # type: ignore[misc]
    """All status lines of one run, in order, uninterpreted."""

    data = b""
    stderr = ""
    returncode = 0

    def __init__(self, gpg: object) -> None:
        super().__init__(gpg)
        self.lines: list[tuple[str, str]] = []

    def handle_status(self, key: str, value: str) -> None:
        """Keep a status line."""
        self.lines.append((key, value))

    def values(self, keyword: str) -> list[str]:
        """Return the arguments of every line with that keyword."""
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
        """Run gpg with these arguments and input; SignatureError if the run was killed."""
        result = GpgResult(self)
        # gpg may refuse its arguments and exit before it has read its input.
        with suppress(BrokenPipeError):
            self._handle_io(list(args), BytesIO(data), result, passphrase=passphrase, binary=True)
        if result.returncode < 0:
            raise SignatureError(
                f"gpg was killed by signal {-result.returncode}: it ran too long or used too much memory"
            )
        return result

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
        with suppress(ProcessLookupError):  # gpg may have ended already
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
        # GnuPG escapes line feeds in quoted text, but not the other characters that end a line for Python's readers.
        for line in stream.read().split("\n"):
            if line.startswith("[GNUPG:] "):
                keyword, _, value = line.removeprefix("[GNUPG:] ").partition(" ")
                result.handle_status(keyword, value)


def list_keys(gpg: Gpg, kind: str = "--list-keys", *, now: datetime | None = None) -> list[Key]:
    """List the keys of a home; with kind `--list-secret-keys` those that have their private part."""
    options = ["--with-fingerprint", "--with-fingerprint", "--fixed-list-mode"]
    return read_listing(gpg.run([*clock_options(now), *options, kind]).data)


def import_keys(gpg: Gpg, key: bytes, now: datetime) -> list[str]:
    """Import public keys; returns the primary fingerprints."""
    if len(key) > MAX_KEY:
        raise KeyUnusable(f"the key file has {len(key)} bytes, more than the {MAX_KEY} allowed; export it minimally")
    # Without the agent no private key is imported: one in the file is an accident that must not spread.
    result = gpg.run([*clock_options(now), "--no-autostart", "--import-options", "self-sigs-only", "--import"], key)
    counts = (result.values("IMPORT_RES") or [""])[0].split(" ")
    if len(counts) > 9 and counts[9] != "0":
        raise KeyUnusable("the key file holds a private key; give the public one (`partita key export`)")
    found = [value.split(" ")[1] for value in result.values("IMPORT_OK")]
    if not found:
        raise KeyUnusable("the key file holds no OpenPGP public key; write one with `partita key export FINGERPRINT`")
    return list(dict.fromkeys(found))


def clock_options(now: datetime | None) -> list[str]:
    """Return the options that make gpg work at that time; with None it uses its own clock."""
    return [] if now is None else ["--faked-system-time", f"{int(now.timestamp())}!"]


def passphrase_options(passphrase: str) -> list[str]:
    """Return the options for a passphrase. An empty one is passed here, so that gpg does not prompt for it; python-gnupg
    passes any other one."""
    return [] if passphrase else ["--pinentry-mode", "loopback", "--passphrase", ""]


def end_agent(home: Path) -> None:
    """Stop the agent that gpg started for this home, and wait until it has ended (it removes its socket last)."""
    socket = home / "S.gpg-agent"
    if not socket.exists():
        return
    command = ["gpgconf", "--homedir", str(home), "--kill", "all"]
    with suppress(OSError, TimeoutExpired):
        run(command, stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL, check=False, timeout=TIMEOUT)
    deadline = time.monotonic() + 10
    while socket.exists() and time.monotonic() < deadline:
        time.sleep(0.002)
