"""The authority that admits to restricted swarms: short-lived TLS certificates, each for one content. The door to the library.

A restricted content's swarm speaks TLS, and a peer is believed when its certificate was signed by the authority in the
info dict and names the torrent (libtorrent's manual, "SSL torrents"). The node makes its key itself and it never travels.
There is no revocation; certificates end within hours instead.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from catalog.errors import Malformed

AUTHORITY_LIFE = timedelta(days=3650)
"""The authority is part of the swarms' names, so it is kept for long; who has its key has the catalog's database."""

SKEW = timedelta(hours=1)
"""How far a node's clock may be behind ours."""

MAX_REQUEST = 4096
"""Characters of a certificate request; one for a P-256 key has 500."""


@dataclass(frozen=True)
class SwarmCa:
    """Its certificate (PEM) and private key (PEM)."""

    certificate: bytes
    key: bytes

    @classmethod
    def make(cls, now: datetime) -> Self:
        """A new one, on P-256."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Partita swarms")])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - SKEW)
            .not_valid_after(now + AUTHORITY_LIFE)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs=True), critical=True)
            .sign(key, hashes.SHA256())
        )
        return cls(
            certificate.public_bytes(serialization.Encoding.PEM),
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
        )

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read what :meth:`joined` wrote."""
        key, mark, certificate = data.partition(b"-----BEGIN CERTIFICATE-----")
        return cls(mark + certificate, key)

    def joined(self) -> bytes:
        """Both, as kept in the database."""
        return self.key + self.certificate

    def issue(self, request: str, torrent: str, holder: str, now: datetime, life: timedelta) -> str:
        """A certificate (PEM) for the key in a request (PKCS #10, PEM), good for one torrent until `now + life`.

        Args:
            request: only its key counts, and that its holder has the private one.
            torrent: the torrent's name, which libtorrent compares with the subjectAltName, byte for byte.
            holder: whom it is issued to, for people.

        Raises:
            Malformed: the request is none, or not for a P-256 key, or not signed with it.
        """
        try:
            asked = x509.load_pem_x509_csr(request[:MAX_REQUEST].encode())
            public = asked.public_key()
            right = isinstance(public, ec.EllipticCurvePublicKey) and isinstance(public.curve, ec.SECP256R1)
            right = right and asked.is_signature_valid
        except (ValueError, InvalidSignature, UnsupportedAlgorithm) as exc:
            raise Malformed("the certificate request is none (PKCS #10, PEM)") from exc
        if not right:
            raise Malformed("the certificate request is not for a P-256 key and signed with it")
        issuer = x509.load_pem_x509_certificate(self.certificate)
        key = serialization.load_pem_private_key(self.key, None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)  # noqa: S101 - we made it
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, holder[:64])]))
            .issuer_name(issuer.subject)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - SKEW)
            .not_valid_after(now + life)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(torrent)]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs=False), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]),
                critical=False,
            )
            .sign(key, hashes.SHA256())
        )
        return certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        key_cert_sign=signs,
        crl_sign=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
