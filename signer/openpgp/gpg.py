"""The only module that runs gpg: one run, its status lines and output, and the GnuPG homes that it works in.

python-gnupg finds GnuPG and builds the command lines. The process is run here, because three habits of that library let
untrusted text pass for GnuPG's own: status lines and log share one pipe; lines end at any Unicode line separator (a user
id may hold one, and forge whole status lines with it); the last signature of a file decides.
"""

import logging
import os
import resource
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen, TimeoutExpired, run

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


@dataclass(frozen=True)
class GpgResult:
    """What came of one run.

    Attributes:
        lines: all status lines in order, uninterpreted: keyword and arguments.
        data: the output.
        stderr: the beginning of the log, for error messages.
    """

    lines: tuple[tuple[str, str], ...]
    data: bytes
    stderr: str

    def values(self, keyword: str) -> list[str]:
        """Return the arguments of every line with that keyword."""
        return [value for key, value in self.lines if key == keyword]


class Gpg:
    """gpg on one home, with a status pipe of its own, resource limits, a deadline and lines that end at line feeds only."""

    def __init__(self, home: Path, *options: str) -> None:
        self._env = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8"}
        try:
            self._commands = gnupg.GPG(gnupghome=str(home), options=["--no-options", *options], env=self._env)
        except OSError as exc:
            raise KeyUnusable("gpg cannot be run; install GnuPG (package gnupg)") from exc
        except ValueError as exc:
            raise KeyUnusable(f"gpg does not start in {home}: {exc}") from exc

    def run(self, args: Sequence[str], data: bytes = b"", passphrase: str | None = None) -> GpgResult:
        """Run gpg with these arguments and input; SignatureError if the run was killed."""
        command = self._commands.make_args(list(args), passphrase is not None)
        status, write = os.pipe()
        with os.fdopen(status, "rb") as lines, tempfile.TemporaryFile() as log, ThreadPoolExecutor(1) as reader:
            try:
                command[command.index("--status-fd") + 1] = str(write)
                process = Popen(command, stdin=PIPE, stdout=PIPE, stderr=log, pass_fds=(write,), env=self._env)
            finally:
                os.close(write)
            status_data = reader.submit(lines.read)  # at the same time as the output, as gpg waits for both readers
            with process:
                output = _communicate(process, _passphrase_line(passphrase) + data)
            log.seek(0)
            stderr = escape_unprintable(log.read(MAX_LOG).decode("utf-8", "backslashreplace").strip())
        if process.returncode < 0:
            raise SignatureError(
                f"gpg was killed by signal {-process.returncode}: it ran too long or used too much memory"
            )
        return GpgResult(_status_lines(status_data.result()), output, stderr)


def _communicate(process: "Popen[bytes]", data: bytes) -> bytes:
    with suppress(ProcessLookupError):  # gpg may have ended already
        for limit, value in GPG_LIMITS.items():
            resource.prlimit(process.pid, limit, (value, value))
    try:
        return process.communicate(data, TIMEOUT)[0]
    except TimeoutExpired:
        process.kill()
        return process.communicate()[0]


def _passphrase_line(passphrase: str | None) -> bytes:
    """The first line of gpg's input. In the encoding of python-gnupg, by which keys have been protected so far."""
    if not passphrase:
        return b""
    try:
        return f"{passphrase}\n".encode("latin-1")
    except UnicodeEncodeError:
        return f"{passphrase}\n".encode()


def _status_lines(data: bytes) -> tuple[tuple[str, str], ...]:
    # GnuPG escapes line feeds in quoted text, but not the other characters that end a line for Python's readers.
    found = (
        line.removeprefix("[GNUPG:] ").partition(" ")
        for line in data.decode("latin-1").split("\n")
        if line.startswith("[GNUPG:] ")
    )
    return tuple((keyword, value) for keyword, _, value in found)


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
