"""A certificate authority: a P-256 key that signs certificates for other P-256 keys (RFC 5280).

Private keys are never sent: a request (PKCS #10, RFC 2986) proves that its sender has one, and only the key of a request is
used, never a name in it.
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

AUTHORITY_LIFE = timedelta(days=3650)
"""An authority's certificate is pinned by others, so it is valid for long."""

SKEW = timedelta(hours=1)
"""How far another machine's clock may be behind ours."""

MAX_SIGNING_REQUEST = 4096
"""Characters of a certificate request; one for a P-256 key has 500."""

PublicKey = ec.EllipticCurvePublicKey

SERVER = (ExtendedKeyUsageOID.SERVER_AUTH,)
CLIENT_AND_SERVER = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)


@dataclass(frozen=True)
class CertificateKeyPair:
    """A certificate and its private key, both PEM."""

    certificate: bytes
    key: bytes


@dataclass(frozen=True)
class X509Authority(CertificateKeyPair):
    """An authority: its certificate and private key."""

    @classmethod
    def named(cls, name: str, now: datetime) -> Self:
        """Make a new one with this common name."""
        key, subject = ec.generate_private_key(ec.SECP256R1()), subject_name(name)
        certificate = (
            _builder(key.public_key(), subject, subject, now, now + AUTHORITY_LIFE)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs=True), critical=True)
            .sign(key, hashes.SHA256())
        )
        return cls(certificate.public_bytes(serialization.Encoding.PEM), private_pem(key))

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read what :meth:`joined` wrote."""
        key, mark, certificate = data.partition(b"-----BEGIN CERTIFICATE-----")
        return cls(mark + certificate, key)

    def joined(self) -> bytes:
        """Key and certificate (PEM), one after the other, as databases keep them."""
        return self.key + self.certificate

    def sign(
        self,
        public: PublicKey,
        subject: x509.Name,
        names: Sequence[str],
        now: datetime,
        life: timedelta,
        purposes: Sequence[ObjectIdentifier],
    ) -> str:
        """A certificate (PEM) for a key, until `now + life` or the end of the authority's own.

        Args:
            public, subject: whose certificate it is.
            names: host names and addresses, byte for byte as they stand in subjectAltName.
            purposes: of the extended key usage.
        """
        issuer = x509.load_pem_x509_certificate(self.certificate)
        key = serialization.load_pem_private_key(self.key, None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)  # noqa: S101 - we made it
        builder = (
            _builder(public, subject, issuer.subject, now, min(now + life, issuer.not_valid_after_utc))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        )
        if names:
            found = x509.SubjectAlternativeName([_general(name) for name in names])
            builder = builder.add_extension(found, critical=False)
        return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode("ascii")

    def issued(self, certificate: bytes, now: datetime) -> bool:
        """Whether this authority signed a certificate (DER), and it holds now."""
        try:
            found = x509.load_der_x509_certificate(certificate)
            found.verify_directly_issued_by(x509.load_pem_x509_certificate(self.certificate))
        except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
            return False
        return found.not_valid_before_utc <= now <= found.not_valid_after_utc


def requested_key(request: str) -> PublicKey:
    """Return the key of a certificate request (PKCS #10, PEM); ValueError unless it is signed by a P-256 key."""
    try:
        asked = x509.load_pem_x509_csr(request[:MAX_SIGNING_REQUEST].encode())
        public, signed = asked.public_key(), asked.is_signature_valid
    except (ValueError, InvalidSignature, UnsupportedAlgorithm, x509.InvalidVersion) as exc:
        raise ValueError("not a certificate request (expected PKCS #10 in PEM)") from exc
    if not (isinstance(public, ec.EllipticCurvePublicKey) and isinstance(public.curve, ec.SECP256R1) and signed):
        raise ValueError("the certificate request is not for a P-256 key, or not signed with that key")
    return public


def subject_name(common: str, unit: str = "") -> x509.Name:
    """Make a name of a common name, cut to 64 characters, and an organizational unit."""
    units = [x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit)] if unit else []
    return x509.Name([*units, x509.NameAttribute(NameOID.COMMON_NAME, common[:64])])


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Write a private key as files and databases store it: PKCS #8, PEM, not encrypted."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _builder(
    public: PublicKey, subject: x509.Name, issuer: x509.Name, now: datetime, until: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(until)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
