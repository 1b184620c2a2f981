"""Runs OpenSSL on a detached CMS signature. The only module that runs its command.

It gets exactly the CAs and revocation lists that our own rules chose, no directory and no default store, and the
caller's time. Only its exit code and the signer's certificate that it wrote are used.
"""

import os
import resource
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from signer.errors import SignatureError

TIMEOUT = 20
"""Seconds for one run, which takes some hundredths."""

LIMITS = {resource.RLIMIT_AS: 1 << 30, resource.RLIMIT_CPU: 10, resource.RLIMIT_FSIZE: 1 << 20}
"""Limits of one run, which reads untrusted bytes: address space, CPU seconds, bytes of a file."""


def verify_cms(
    data: bytes, signature: bytes, authorities: Sequence[bytes], lists: Sequence[bytes], now: datetime
) -> bytes:
    """Verify a detached signature with OpenSSL at a given time; returns the signer's certificate (PEM).

    Args:
        data: the signed bytes.
        signature: CMS in DER.
        authorities: the CAs of the signer's chain, PEM, including the root.
        lists: current revocation lists, PEM: one for each CA, or none for no check against lists.
        now: the time of the examination.

    Raises:
        SignatureError: the signature does not verify, or OpenSSL cannot be run.
    """
    with tempfile.TemporaryDirectory(prefix="partita-") as place:
        home = Path(place)
        (home / "data").write_bytes(data)
        (home / "signature").write_bytes(signature)
        (home / "trusted").write_bytes(b"".join((*authorities, *lists)))
        command = ["openssl", "cms", "-verify", "-binary", "-inform", "DER", "-in", "signature", "-content", "data"]
        command += ["-CAfile", "trusted", "-no-CApath", "-no-CAstore", "-purpose", "any", "-out", os.devnull]
        command += ["-attime", str(int(now.timestamp())), "-signer", "signer"]
        command += ["-crl_check_all"] if lists else []
        try:
            process = subprocess.Popen(
                command,
                cwd=home,
                env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "OPENSSL_CONF": os.devnull},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
        except OSError as exc:
            raise SignatureError("openssl cannot be run, so no CMS signature can be verified; install it") from exc
        with process:
            for kind, most in LIMITS.items():
                with suppress(ProcessLookupError):  # it may have ended already
                    resource.prlimit(process.pid, kind, (most, most))
            try:
                _, complaint = process.communicate(timeout=TIMEOUT)
            except subprocess.TimeoutExpired as exc:
                process.kill()
                raise SignatureError(f"openssl did not end within {TIMEOUT} seconds") from exc
        signer = home / "signer"
        if process.returncode != 0 or not signer.is_file():
            raise SignatureError(f"OpenSSL refuses it: {_last_reason(complaint)}")
        return signer.read_bytes()


def _last_reason(stderr: bytes) -> str:
    """Return OpenSSL's last complaint: `...:Verify error:REASON` or the reason of the last error."""
    lines = [line for line in stderr.decode("utf-8", "backslashreplace").splitlines() if ":error:" in line]
    last = lines[-1] if lines else "it gives no reason"
    fields = last.split(":")
    shown = fields[-1] if fields[-1].strip() and "Verify error" in last else (fields[5] if len(fields) > 5 else last)
    return "".join(char for char in shown if char.isprintable())[:200]
