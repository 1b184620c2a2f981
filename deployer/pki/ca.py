"""The site's own CA: it certifies the keys of nodes, guests and the service. The door to the library.

One P-256 key, kept in the site's database. Nodes, guests and commands trust the site by this certificate alone,
whose SHA-256 is its fingerprint. No private key travels: a request (PKCS #10) proves that its sender has one, and
only the key of a request counts, never a name in it. Certificates expire; a node that was removed
is refused by the site's database, so there are no revocation lists.
"""

import hashlib
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Self

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from catalog.errors import Misused
from signer.x509.authority import (
    CLIENT_AND_SERVER,
    SERVER,
    CertificateKeyPair,
    PublicKey,
    X509Authority,
    private_pem,
    requested_key,
    subject_name,
)

NODE = "node"
"""The organizational unit of node certificates, which distinguishes them from a guest's or the service's."""

HOST = "host"
"""The organizational unit of guests' certificates."""


class CertificateAuthority(X509Authority):
    """The site's CA. Nodes and commands pin its certificate: a new one means that every node joins again."""

    @classmethod
    def make(cls, now: datetime) -> Self:
        """Make a new CA, named with a random number so that two sites are never confused."""
        return cls.named(f"Partita site {secrets.token_hex(8)}", now)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the certificate (DER), 64 hex digits."""
        return fingerprint(self.certificate)

    def node(self, request: str, uuid: str, now: datetime, life: timedelta) -> str:
        """A node's certificate (PEM), valid for `life`: its UUID is the CN, and its name as a server of other nodes.

        Args:
            request: PKCS #10, PEM; only its key counts, and that its sender has the private one.

        Raises:
            Misused: not a certificate request, its key is too weak, or it is not signed with it.
        """
        return self.sign(_asked(request), subject_name(uuid, NODE), (uuid,), now, life, CLIENT_AND_SERVER)

    def host(self, request: str, machine: str, names: Sequence[str], now: datetime, life: timedelta) -> str:
        """A guest's certificate (PEM), for exactly these host names and addresses; CN is its UUID. Errors as `node`."""
        return self.sign(_asked(request), subject_name(machine, HOST), names, now, life, CLIENT_AND_SERVER)

    def server(self, names: Sequence[str], now: datetime, life: timedelta) -> CertificateKeyPair:
        """A key and certificate for the service itself, under these host names and addresses."""
        key = ec.generate_private_key(ec.SECP256R1())
        signed = self.sign(key.public_key(), subject_name(names[0]), names, now, life, SERVER)
        return CertificateKeyPair(signed.encode(), private_pem(key))

    def node_of(self, chain: Sequence[bytes], now: datetime) -> str | None:
        """The UUID of the node that presents a certificate chain (DER, its own first), or None if it is not this site's node."""
        if not chain or not self.issued(chain[0], now):
            return None
        subject = x509.load_der_x509_certificate(chain[0]).subject
        units = [str(found.value) for found in subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)]
        names = [str(found.value) for found in subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        return names[0] if units == [NODE] and len(names) == 1 else None


def create_request() -> tuple[bytes, str]:
    """A new private key (PEM), and a request for a certificate for it (PKCS #10, PEM)."""
    key = private_pem(ec.generate_private_key(ec.SECP256R1()))
    return key, request_for(key)


def request_for(key: bytes) -> str:
    """A request for a certificate for a private key (PEM); Misused if that is not a P-256 key."""
    try:
        private = serialization.load_pem_private_key(key, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
        raise Misused("the node's key is not a PEM private key") from exc
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise Misused("the node's key is not a P-256 key")
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "whatever the site says")])
    asked = x509.CertificateSigningRequestBuilder().subject_name(name).sign(private, hashes.SHA256())
    return asked.public_bytes(serialization.Encoding.PEM).decode("ascii")


def fingerprint(certificates: bytes) -> str:
    """SHA-256 over certificates (PEM) in DER, one after the other, 64 hex digits; Misused if there is none."""
    try:
        found = x509.load_pem_x509_certificates(certificates)
    except ValueError as exc:
        raise Misused("the site's CA certificate is not a PEM certificate") from exc
    return hashlib.sha256(b"".join(one.public_bytes(serialization.Encoding.DER) for one in found)).hexdigest()


def certificate_of(chain: bytes, index: int) -> bytes:
    """A certificate of a server's chain (PEM): 0 is its own, -1 the last, which vouches for the others.

    Misused if there is none.
    """
    try:
        return x509.load_pem_x509_certificates(chain)[index].public_bytes(serialization.Encoding.PEM)
    except ValueError as exc:
        raise Misused("the site's certificate is not a PEM certificate") from exc


def needs_renewal(certificate: bytes, now: datetime) -> bool:
    """Whether a certificate (PEM) is due for renewal: a third of its validity, or less, is left."""
    begins, ends = validity_period(certificate)
    return ends - now <= (ends - begins) / 3


def is_server_certificate(certificate: bytes) -> bool:
    """Whether a certificate (PEM) has serverAuth, so that a node can listen with it: one from an older site has only clientAuth."""
    try:
        found = x509.load_pem_x509_certificate(certificate)
        return ExtendedKeyUsageOID.SERVER_AUTH in found.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except (ValueError, x509.ExtensionNotFound):
        return False


def validity_period(certificate: bytes) -> tuple[datetime, datetime]:
    """The first and last time of a certificate's (PEM) validity, UTC; Misused if it is not a certificate."""
    try:
        found = x509.load_pem_x509_certificate(certificate)
    except ValueError as exc:
        raise Misused("not a PEM certificate") from exc
    return found.not_valid_before_utc, found.not_valid_after_utc


def _asked(request: str) -> PublicKey:
    try:
        return requested_key(request)
    except ValueError as exc:
        raise Misused(str(exc)) from exc
