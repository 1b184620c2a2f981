"""Signers of statements, with an OpenPGP key or an X.509 certificate: one interface for both.

A signature that every site would refuse is refused here first, so that its maker learns of it.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from signer.errors import KeyUnusable, SignatureError
from signer.openpgp.keyring import Keyring
from signer.openpgp.keys import normalize_fingerprint
from signer.openpgp.status_lines import SKEW
from signer.openpgp.verifier import examine, read_keys
from signer.verification.trust import Anchor
from signer.x509.certificates import Credential
from signer.x509.cms_parser import read_signed_data
from signer.x509.cms_verifier import CmsExaminer, X509Rules
from signer.x509.path_validation import signing_faults


class Signer(Protocol):
    """Signs statements."""

    @property
    def endorser(self) -> str:
        """The signer's name in statements: `openpgp:FINGERPRINT` or `x509:SUBJECT`."""

    def sign(self, data: bytes, now: datetime) -> bytes:
        """Make a detached signature over the bytes; KeyUnusable or SignatureError if no site could accept it."""

    def anchor(self, vo: str, role: str) -> Anchor:
        """Make the anchor with which a site trusts this signer."""


@dataclass(frozen=True)
class KeySigner:
    """Signs with a key in a keyring; `passphrase` is empty if it has none."""

    keyring: Keyring
    fingerprint: str
    passphrase: str = ""

    def __post_init__(self) -> None:
        """Normalize the fingerprint; KeyUnusable if it is not one."""
        object.__setattr__(self, "fingerprint", normalize_fingerprint(self.fingerprint))

    @property
    def endorser(self) -> str:
        """`openpgp:` and the fingerprint."""
        return f"openpgp:{self.fingerprint}"

    def sign(self, data: bytes, now: datetime) -> bytes:
        """Make a binary detached OpenPGP signature."""
        # A key made a moment after `now` was read must not be asked to sign before it existed.
        key = self.keyring.export(self.fingerprint)
        creation_times = [part.created for each in read_keys(key) for part in (each.primary, *each.subkeys)]
        dated = max([now, *(moment for moment in creation_times if moment <= now + SKEW)])
        signature = self.keyring.sign(data, self.fingerprint, passphrase=self.passphrase, now=dated)
        for check in examine(data, signature, [key], now):
            if not check.good:
                raise SignatureError(f"the new signature would not count: {check.reason}")
        return signature

    def anchor(self, vo: str, role: str) -> Anchor:
        """Make an anchor of the key, in a role."""
        return Anchor(vo, role, self.fingerprint, self.keyring.export(self.fingerprint))


@dataclass(frozen=True)
class CertificateSigner:
    """Signs with a certificate. With `rules`, each signature is verified as a site with these CAs would."""

    credential: Credential
    rules: X509Rules | None = None

    @property
    def endorser(self) -> str:
        """`x509:` and the subject."""
        return f"x509:{self.credential.certificate.subject}"

    def sign(self, data: bytes, now: datetime) -> bytes:
        """Make a detached CMS signature in DER."""
        certificate = self.credential.certificate
        for fault in signing_faults(certificate):
            raise KeyUnusable(f"the certificate of {certificate.subject} {fault}")
        if not certificate.not_before <= now <= certificate.not_after:
            until = f"{certificate.not_before:%Y-%m-%d} to {certificate.not_after:%Y-%m-%d}"
            raise KeyUnusable(f"the certificate of {certificate.subject} is only valid from {until}")
        signature = self.credential.sign(data)
        read_signed_data(signature)
        if self.rules is not None:
            (check,) = CmsExaminer([certificate.pem()], self.rules).examine(data, signature, now)
            if not check.good:
                raise SignatureError(f"the new signature would not count: {check.reason}")
        return signature

    def anchor(self, vo: str, role: str) -> Anchor:
        """Make an anchor of the certificate's holder, in a role."""
        certificate = self.credential.certificate
        return Anchor(vo, role, certificate.subject, certificate.pem(), "x509")
