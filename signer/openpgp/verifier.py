"""Verifies OpenPGP signature files in a private GnuPG home that holds the allowed keys and nothing else.

Nothing here decides about trust: signer.openpgp.status_lines reads what GnuPG reports, signer.verification.trust decides
which signatures count.
"""

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path

from signer.errors import KeyUnusable
from signer.openpgp.gpg import Gpg, clock_options, import_keys, list_keys
from signer.openpgp.keys import Key
from signer.openpgp.packets import split_signatures
from signer.openpgp.status_lines import SKEW, SignatureCheck, check_signature
from signer.runtime.clock import utc_now


class OpenPgpExaminer(AbstractContextManager["OpenPgpExaminer"]):
    """A private, short-lived GnuPG home that holds the allowed public keys and nothing else. A context manager.

    Raises:
        KeyUnusable: no key is given, or one of them is not a public key.
    """

    def __init__(self, allowed_keys: Sequence[bytes]) -> None:
        if not allowed_keys:
            raise KeyUnusable("no key is allowed, so no signature can count")
        self._directory = tempfile.TemporaryDirectory(prefix="partita-", ignore_cleanup_errors=True)  # mode 0700
        self._home = Path(self._directory.name)
        try:
            self._gpg = Gpg(
                self._home,
                *("--no-autostart", "--no-auto-key-retrieve", "--no-auto-key-locate", "--disable-dirmngr"),
                *("--no-default-keyring", "--keyring", str(self._home / "allowed.kbx"), "--trust-model", "always"),
            )
            # Nothing is verified yet, but gpg neither imports nor lists keys from the future, and clocks differ.
            latest = utc_now() + SKEW
            for key in dict.fromkeys(allowed_keys):
                import_keys(self._gpg, key, latest)
            self.keys: Mapping[str, Key] = {key.fingerprint: key for key in list_keys(self._gpg, now=latest)}
        except BaseException:
            self._directory.cleanup()
            raise

    def __exit__(self, *_: object) -> None:
        self._directory.cleanup()

    def examine(self, data: bytes, signature: bytes, now: datetime) -> tuple[SignatureCheck, ...]:
        """Check each signature of a detached signature file over exactly these bytes.

        Raises:
            SignatureError: the file is not a binary detached signature, or GnuPG did not report on exactly one.
        """
        signatures = split_signatures(signature)
        signed, detached = self._home / "signed", self._home / "signed.sig"
        signed.write_bytes(data)
        checks = []
        # One at a time: in a file of several, gpg stops at a bad one, and none may speak for another.
        for each in signatures:
            detached.write_bytes(each)
            # gpg works at the caller's time plus SKEW, so that a key as young as a signature may be is not refused.
            result = self._gpg.run([*clock_options(now + SKEW), "--verify", "--", str(detached), str(signed)])
            checks.append(check_signature(result.lines, self.keys, now))
        return tuple(checks)


def examine(data: bytes, signature: bytes, allowed_keys: Sequence[bytes], now: datetime) -> tuple[SignatureCheck, ...]:
    """Examine one signature file with a fresh private home; errors as in :class:`OpenPgpExaminer`."""
    with OpenPgpExaminer(allowed_keys) as examiner:
        return examiner.examine(data, signature, now)


def read_keys(data: bytes) -> list[Key]:
    """Read the public keys in a file (armoured or binary) without keeping them; KeyUnusable if it holds none."""
    with OpenPgpExaminer([data]) as examiner:
        return list(examiner.keys.values())
