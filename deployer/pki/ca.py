"""The site's own CA: it says which key is which node's, which is the service's, and which a guest's. The door to the library.

One P-256 key, kept with what the site remembers. Nodes, guests and commands believe the site by its certificate alone,
whose SHA-256 is its fingerprint. Nobody's private key travels: a request (PKCS #10) proves that its sender has one, and
of a request only the key counts, never a name that stands in it. Certificates end by themselves; a node that was removed
is refused by what the site remembers of it, so there are no revocation lists.
"""

import hashlib
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

from catalog.errors import Misused

AUTHORITY_LIFE = timedelta(days=3650)
"""Nodes and commands pin this certificate: a new one means that every node joins again."""

SKEW = timedelta(hours=1)
"""How far another machine's clock may be behind ours."""

MAX_SIGNING_REQUEST = 4096
"""Characters of a certificate request; one for a P-256 key has 500."""

NODE = "node"
"""The organizational unit of node certificates: what tells them from a guest's or the service's."""

HOST = "host"
"""The organizational unit of guests' certificates."""

_SERVER = (ExtendedKeyUsageOID.SERVER_AUTH,)
_CLIENT = (ExtendedKeyUsageOID.CLIENT_AUTH,)


@dataclass(frozen=True)
class CertificateKeyPair:
    """A certificate and its private key, both PEM."""

    certificate: bytes
    key: bytes


@dataclass(frozen=True)
class CertificateAuthority:
    """The CA: its certificate (PEM) and private key (PEM)."""

    certificate: bytes
    key: bytes

    @classmethod
    def make(cls, now: datetime) -> Self:
        """A new one, named with a random number so that two sites are never taken for one."""
        key = ec.generate_private_key(ec.SECP256R1())
        serial = x509.random_serial_number()
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Partita site {serial % (1 << 64):016x}")])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(serial)
            .not_valid_before(now - SKEW)
            .not_valid_after(now + AUTHORITY_LIFE)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        return cls(certificate.public_bytes(serialization.Encoding.PEM), _private(key))

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read what :meth:`joined` wrote."""
        key, mark, certificate = data.partition(b"-----BEGIN CERTIFICATE-----")
        return cls(mark + certificate, key)

    def joined(self) -> bytes:
        """Both, as the site keeps them."""
        return self.key + self.certificate

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the certificate (DER), 64 hex digits."""
        return fingerprint(self.certificate)

    def node(self, request: str, uuid: str, now: datetime, life: timedelta) -> str:
        """A node's certificate (PEM), good for `life`: its UUID is the CN, and the name by which other nodes know it as a server.

        Args:
            request: PKCS #10, PEM; only its key counts, and that its sender has the private one.

        Raises:
            Misused: the request is none, its key is too weak, or it is not signed with it.
        """
        return self._issue(_asked(request), _name(NODE, uuid), (uuid,), now, life, (*_SERVER, *_CLIENT))

    def host(self, request: str, machine: str, names: Sequence[str], now: datetime, life: timedelta) -> str:
        """A guest's certificate (PEM), for exactly these host names and addresses; CN is its UUID. Errors as `node`."""
        return self._issue(_asked(request), _name(HOST, machine), names, now, life, (*_SERVER, *_CLIENT))

    def server(self, names: Sequence[str], now: datetime, life: timedelta) -> CertificateKeyPair:
        """A key and certificate for the service itself, under these host names and addresses."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
        return CertificateKeyPair(
            self._issue(key.public_key(), name, names, now, life, _SERVER).encode(), _private(key)
        )

    def _issue(
        self,
        public: ec.EllipticCurvePublicKey,
        subject: x509.Name,
        names: Sequence[str],
        now: datetime,
        life: timedelta,
        purposes: Sequence[ObjectIdentifier],
    ) -> str:
        issuer = x509.load_pem_x509_certificate(self.certificate)
        key = serialization.load_pem_private_key(self.key, None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)  # noqa: S101 - we made it
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer.subject)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - SKEW)
            .not_valid_after(min(now + life, issuer.not_valid_after_utc))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()),
                critical=False,
            )
        )
        if names:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([_general(name) for name in names]), critical=False
            )
        return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode("ascii")

    def issued(self, certificate: bytes, now: datetime) -> bool:
        """Whether this CA signed a certificate (DER), and it holds now."""
        try:
            found = x509.load_der_x509_certificate(certificate)
            found.verify_directly_issued_by(x509.load_pem_x509_certificate(self.certificate))
        except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
            return False
        return found.not_valid_before_utc <= now <= found.not_valid_after_utc

    def node_of(self, chain: Sequence[bytes], now: datetime) -> str | None:
        """The UUID of the node that shows a certificate chain (DER, its own first), or None if it is no node of ours."""
        if not chain or not self.issued(chain[0], now):
            return None
        subject = x509.load_der_x509_certificate(chain[0]).subject
        units = [str(found.value) for found in subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)]
        names = [str(found.value) for found in subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        return names[0] if units == [NODE] and len(names) == 1 else None


def create_request() -> tuple[bytes, str]:
    """A new private key (PEM), and a request for a certificate for it (PKCS #10, PEM)."""
    key = _private(ec.generate_private_key(ec.SECP256R1()))
    return key, request_for(key)


def request_for(key: bytes) -> str:
    """A request for a certificate for a private key (PEM); Misused if that is none of ours."""
    try:
        private = serialization.load_pem_private_key(key, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
        raise Misused("the node's key is no private key (PEM)") from exc
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise Misused("the node's key is no P-256 key")
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "whatever the site says")])
    asked = x509.CertificateSigningRequestBuilder().subject_name(name).sign(private, hashes.SHA256())
    return asked.public_bytes(serialization.Encoding.PEM).decode("ascii")


def fingerprint(certificates: bytes) -> str:
    """SHA-256 over certificates (PEM) in DER, one after the other, 64 hex digits; Misused if there is none."""
    try:
        found = x509.load_pem_x509_certificates(certificates)
    except ValueError as exc:
        raise Misused("the site's CA certificate is no certificate (PEM)") from exc
    return hashlib.sha256(b"".join(one.public_bytes(serialization.Encoding.DER) for one in found)).hexdigest()


def last_certificate(chain: bytes) -> bytes:
    """The last certificate of a chain (PEM) that a server shows, by which the others are believed; Misused if none."""
    try:
        return x509.load_pem_x509_certificates(chain)[-1].public_bytes(serialization.Encoding.PEM)
    except ValueError as exc:
        raise Misused("the site's certificate is none (PEM)") from exc


def first_certificate(chain: bytes) -> bytes:
    """The first certificate of a chain (PEM): a server's own. Misused if none."""
    try:
        return x509.load_pem_x509_certificates(chain)[0].public_bytes(serialization.Encoding.PEM)
    except ValueError as exc:
        raise Misused("the site's certificate is none (PEM)") from exc


def needs_renewal(certificate: bytes, now: datetime) -> bool:
    """Whether it is time for a fresh certificate instead of this one (PEM): a third of its time, or less, is left."""
    begins, ends = validity_period(certificate)
    return ends - now <= (ends - begins) / 3


def is_server_certificate(certificate: bytes) -> bool:
    """Whether a node can listen with a certificate (PEM): one that was given by an older site says who asks, and no more."""
    try:
        found = x509.load_pem_x509_certificate(certificate)
        return ExtendedKeyUsageOID.SERVER_AUTH in found.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except (ValueError, x509.ExtensionNotFound):
        return False


def validity_period(certificate: bytes) -> tuple[datetime, datetime]:
    """From when to when a certificate (PEM) holds, UTC; Misused if it is none."""
    try:
        found = x509.load_pem_x509_certificate(certificate)
    except ValueError as exc:
        raise Misused("a certificate is none (PEM)") from exc
    return found.not_valid_before_utc, found.not_valid_after_utc


def _asked(request: str) -> ec.EllipticCurvePublicKey:
    try:
        asked = x509.load_pem_x509_csr(request[:MAX_SIGNING_REQUEST].encode())
        public = asked.public_key()
        right = isinstance(public, ec.EllipticCurvePublicKey) and isinstance(public.curve, ec.SECP256R1)
        right = right and asked.is_signature_valid
    except (ValueError, InvalidSignature, UnsupportedAlgorithm) as exc:
        raise Misused("the certificate request is none (PKCS #10, PEM)") from exc
    if not right or not isinstance(public, ec.EllipticCurvePublicKey):
        raise Misused("the certificate request is not for a P-256 key and signed with it")
    return public


def _name(unit: str, common: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit),
            x509.NameAttribute(NameOID.COMMON_NAME, common[:64]),
        ]
    )


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


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
