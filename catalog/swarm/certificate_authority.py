"""The CA of restricted swarms, which issues short-lived TLS certificates, each for one content. The door to the library.

The swarm of a restricted content uses TLS; a peer is accepted if the CA in the info dict signed its certificate and the
certificate names the torrent (libtorrent's manual, "SSL torrents"). A node generates its own key, which never leaves it.
Certificates are not revoked; they expire within hours.
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
"""The CA certificate is part of the swarms' info-hashes, so it lives long; its key is in the catalog's database."""

SKEW = timedelta(hours=1)
"""How far a node's clock may be slow."""

MAX_REQUEST = 4096
"""Characters of a certificate request; one for a P-256 key has 500."""


@dataclass(frozen=True)
class SwarmCa:
    """The CA: certificate (PEM) and private key (PEM)."""

    certificate: bytes
    key: bytes

    @classmethod
    def make(cls, now: datetime) -> Self:
        """Make a new CA with a P-256 key."""
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
        """Read the form that :meth:`joined` returns."""
        key, mark, certificate = data.partition(b"-----BEGIN CERTIFICATE-----")
        return cls(mark + certificate, key)

    def joined(self) -> bytes:
        """Key and certificate (PEM) as stored in the database."""
        return self.key + self.certificate

    def issue(self, request: str, torrent: str, holder: str, now: datetime, life: timedelta) -> str:
        """Issue a certificate (PEM) for the key in a request (PKCS #10, PEM), valid for one torrent until `now + life`.

        Args:
            request: only its key is used, and the proof that the sender has the private key.
            torrent: the torrent's name, which libtorrent compares with the subjectAltName, byte for byte.
            holder: the node's name, for people who read the certificate.

        Raises:
            Malformed: not a certificate request, not for a P-256 key, or not signed with that key.
        """
        try:
            asked = x509.load_pem_x509_csr(request[:MAX_REQUEST].encode())
            public = asked.public_key()
            right = isinstance(public, ec.EllipticCurvePublicKey) and isinstance(public.curve, ec.SECP256R1)
            right = right and asked.is_signature_valid
        except (ValueError, InvalidSignature, UnsupportedAlgorithm) as exc:
            raise Malformed("not a certificate request (expected PKCS #10 in PEM)") from exc
        if not right:
            raise Malformed("the certificate request is not for a P-256 key, or not signed with that key")
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
