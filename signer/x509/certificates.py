"""X.509 certificates, revocation lists and private keys as values. The only module that reads them with `cryptography`.

Names are compared by their DER bytes, in order; their texts are for people and for statements. Source: RFC 5280.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import pkcs7
from cryptography.x509.oid import ExtensionOID, NameOID

from signer.errors import KeyUnusable, SignatureError
from signer.x509.der import read_der

MAX_CERTIFICATE = 64 << 10
"""Bytes of a certificate file, which has some two thousand."""

MIN_RSA = 2048
"""Bits. Grid CAs have refused shorter keys since 2014, and so do OpenSSL's security levels."""

STRONG_DIGESTS = ("sha256", "sha384", "sha512")
"""Hashes that count in a certificate's or a list's signature."""

_CURVES = ("secp256r1", "secp384r1", "secp521r1")
_PROXY = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.14")
_SHORT = {
    NameOID.COMMON_NAME: "CN",
    NameOID.COUNTRY_NAME: "C",
    NameOID.STATE_OR_PROVINCE_NAME: "ST",
    NameOID.LOCALITY_NAME: "L",
    NameOID.ORGANIZATION_NAME: "O",
    NameOID.ORGANIZATIONAL_UNIT_NAME: "OU",
    NameOID.DOMAIN_COMPONENT: "DC",
    NameOID.USER_ID: "UID",
    NameOID.EMAIL_ADDRESS: "emailAddress",
    NameOID.SERIAL_NUMBER: "serialNumber",
    NameOID.GIVEN_NAME: "GN",
    NameOID.SURNAME: "SN",
    NameOID.TITLE: "title",
    NameOID.STREET_ADDRESS: "street",
}


@dataclass(frozen=True)
class Certificate:
    """The facts of a certificate that the rules need.

    Attributes:
        der: the whole certificate.
        subject, issuer: the names as text, in OpenSSL's `compat` form.
        subject_der, issuer_der: the names in DER.
        serial: its serial number.
        not_before, not_after: its validity, both instants included.
        authority: whether it may issue other certificates.
        signs: its key usage has digitalSignature or nonRepudiation; None if it has no key usage.
        proxy: whether it is a proxy (RFC 3820).
        weak: why its key is too weak; empty if it is not.
        digest: the hash in its signature; "" if the algorithm needs none, "?" if unknown.
    """

    der: bytes
    subject: str
    issuer: str
    subject_der: bytes
    issuer_der: bytes
    serial: int
    not_before: datetime
    not_after: datetime
    authority: bool
    signs: bool | None
    proxy: bool
    weak: str
    digest: str

    @property
    def self_issued(self) -> bool:
        """Whether subject and issuer are the same name."""
        return self.subject_der == self.issuer_der

    @property
    def holder_id(self) -> str:
        """Identifies its holder: the hash of subject and issuer in DER."""
        return hashlib.sha256(
            hashlib.sha256(self.subject_der).digest() + hashlib.sha256(self.issuer_der).digest()
        ).hexdigest()

    def issued(self, other: "Certificate") -> bool:
        """Whether it issued the other certificate: by name, and by a signature that verifies."""
        return self.subject_der == other.issuer_der and _issued(self.der, other.der)

    def pem(self) -> bytes:
        """Return the certificate in PEM."""
        return x509.load_der_x509_certificate(self.der).public_bytes(serialization.Encoding.PEM)


@dataclass(frozen=True)
class RevocationList:
    """A CRL (RFC 5280, section 5). One without `next_update` (None) never counts as current."""

    der: bytes
    issuer_der: bytes
    last_update: datetime
    next_update: datetime | None
    digest: str
    partial: bool
    _list: x509.CertificateRevocationList = field(compare=False, repr=False)

    def signed_by(self, authority: Certificate) -> bool:
        """Whether the CA signed it."""
        key = x509.load_der_x509_certificate(authority.der).public_key()
        return self.issuer_der == authority.subject_der and self._list.is_signature_valid(key)  # type: ignore[arg-type]

    def revocation_date(self, serial: int) -> datetime | None:
        """Return when a certificate was revoked; None if it was not."""
        found = self._list.get_revoked_certificate_by_serial_number(serial)
        return None if found is None else found.revocation_date_utc

    def pem(self) -> bytes:
        """Return the list in PEM."""
        return self._list.public_bytes(serialization.Encoding.PEM)


@lru_cache(maxsize=512)
def read_certificate(data: bytes) -> Certificate:
    """Read a certificate from PEM (the first in the file) or DER.

    Raises:
        KeyUnusable: not a certificate, or one with parts that cannot be read.
    """
    if len(data) > MAX_CERTIFICATE:
        raise KeyUnusable(f"the certificate has {len(data)} bytes, more than the {MAX_CERTIFICATE} allowed")
    try:
        pem = b"-----BEGIN" in data
        found = x509.load_pem_x509_certificate(data) if pem else x509.load_der_x509_certificate(data)
        return _certificate(found)
    except (ValueError, UnsupportedAlgorithm, SignatureError, x509.DuplicateExtension, x509.InvalidVersion) as exc:
        raise KeyUnusable("not a readable X.509 certificate in PEM or DER") from exc


def read_revocation_list(data: bytes) -> RevocationList:
    """Read a CRL from PEM or DER; KeyUnusable if it is not one."""
    try:
        pem = b"-----BEGIN" in data[:4096]
        found = x509.load_pem_x509_crl(data) if pem else x509.load_der_x509_crl(data)
        fields = read_der(found.tbs_certlist_bytes).children()
        # version (optional), signature, issuer, ...
        issuer = fields[2 if fields[0].tag == 0x02 else 1].whole
        oids = {extension.oid for extension in found.extensions}
    except (
        ValueError,
        UnsupportedAlgorithm,
        SignatureError,
        IndexError,
        x509.DuplicateExtension,
        x509.InvalidVersion,
    ) as exc:
        raise KeyUnusable("not a readable revocation list in PEM or DER") from exc
    partial = bool(oids & {ExtensionOID.DELTA_CRL_INDICATOR, ExtensionOID.ISSUING_DISTRIBUTION_POINT})
    der = found.public_bytes(serialization.Encoding.DER)
    return RevocationList(der, issuer, found.last_update_utc, found.next_update_utc, _digest(found), partial, found)


@dataclass(frozen=True)
class Credential:
    """A certificate with its private key."""

    certificate: Certificate
    _key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey = field(repr=False, compare=False)

    @classmethod
    def read(cls, certificate: bytes, key: bytes, passphrase: str = "") -> "Credential":
        """Read a certificate and its private key from PEM files as in grids (usercert.pem, userkey.pem).

        Raises:
            KeyUnusable: one of them cannot be read, the passphrase is wrong, or they do not belong together.
        """
        found = read_certificate(certificate)
        try:
            private = serialization.load_pem_private_key(key, passphrase.encode() or None)
        except TypeError as exc:
            wrong = "needs no passphrase" if passphrase else "needs its passphrase; give --passphrase-file"
            raise KeyUnusable(f"the certificate's private key {wrong}") from exc
        except (ValueError, UnsupportedAlgorithm) as exc:
            raise KeyUnusable("the certificate's private key cannot be read: not PEM, or a wrong passphrase") from exc
        if not isinstance(private, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
            raise KeyUnusable("CMS signatures need an RSA or elliptic-curve key; use a certificate with such a key")
        if x509.load_der_x509_certificate(found.der).public_key() != private.public_key():
            raise KeyUnusable(f"the private key does not belong to the certificate of {found.subject}")
        return cls(found, private)

    def sign(self, data: bytes) -> bytes:
        """Make a detached CMS signature in DER over exactly these bytes, with SHA-256 (RFC 5652)."""
        builder = pkcs7.PKCS7SignatureBuilder().set_data(data)
        signer = x509.load_der_x509_certificate(self.certificate.der)
        kind = pkcs7.PKCS7Options
        options = [kind.DetachedSignature, kind.Binary, kind.NoCapabilities]
        return builder.add_signer(signer, self._key, hashes.SHA256()).sign(serialization.Encoding.DER, options)


def _certificate(found: x509.Certificate) -> Certificate:
    der = found.public_bytes(serialization.Encoding.DER)
    fields = read_der(found.tbs_certificate_bytes).children()
    at = 1 if fields[0].tag == 0xA0 else 0  # the version, where there is one
    extensions: dict[x509.ObjectIdentifier, x509.ExtensionType] = {e.oid: e.value for e in found.extensions}
    constraints, usage = extensions.get(ExtensionOID.BASIC_CONSTRAINTS), extensions.get(ExtensionOID.KEY_USAGE)
    return Certificate(
        der=der,
        subject=_text(found.subject),
        issuer=_text(found.issuer),
        subject_der=fields[at + 4].whole,
        issuer_der=fields[at + 2].whole,
        serial=found.serial_number,
        not_before=found.not_valid_before_utc,
        not_after=found.not_valid_after_utc,
        authority=isinstance(constraints, x509.BasicConstraints) and constraints.ca,
        signs=usage.digital_signature or usage.content_commitment if isinstance(usage, x509.KeyUsage) else None,
        proxy=_PROXY in extensions,
        weak=_weakness(found),
        digest=_digest(found),
    )


def _weakness(found: x509.Certificate) -> str:
    match found.public_key():
        case rsa.RSAPublicKey() as key:
            return f"an RSA key of {key.key_size} bits, fewer than {MIN_RSA}" if key.key_size < MIN_RSA else ""
        case ec.EllipticCurvePublicKey() as key:
            return "" if key.curve.name in _CURVES else f"a key on the curve {key.curve.name}"
        case ed25519.Ed25519PublicKey() | ed448.Ed448PublicKey():
            return ""
        case _:
            return "a key of an unsupported kind"


def _digest(found: x509.Certificate | x509.CertificateRevocationList) -> str:
    try:
        algorithm = found.signature_hash_algorithm
    except UnsupportedAlgorithm:
        return "?"
    return "" if algorithm is None else algorithm.name


def _issued(authority: bytes, other: bytes) -> bool:
    try:
        x509.load_der_x509_certificate(other).verify_directly_issued_by(x509.load_der_x509_certificate(authority))
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _text(name: x509.Name) -> str:
    """Write a name as /DC=org/DC=example/CN=Ann, in the certificate's order; separators within values are escaped."""
    return "".join("/" + "+".join(_attributes(tuple(rdn))) for rdn in name.rdns)


def _attributes(rdn: Sequence[x509.NameAttribute[str | bytes]]) -> list[str]:
    found = []
    for attribute in rdn:
        value = attribute.value.hex() if isinstance(attribute.value, bytes) else attribute.value
        shown = "".join(_shown(char) for char in value)
        found.append(f"{_SHORT.get(attribute.oid, attribute.oid.dotted_string)}={shown}")
    return found


def _shown(char: str) -> str:
    if char in "\\/+":
        return "\\" + char
    return char if char.isprintable() else f"\\u{ord(char):04x}"
