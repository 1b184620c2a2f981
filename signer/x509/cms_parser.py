"""Parses a CMS file before it is verified: one signer, detached, with algorithms that count. Pure.

OpenSSL silently accepts several signers, embedded contents and SHA-1. Here a file is one signature: everything else that
CMS allows is refused before OpenSSL reads it. Source: RFC 5652, sections 3 and 5.
"""

from dataclasses import dataclass
from datetime import UTC, datetime

from signer.errors import KeyUnusable, SignatureError
from signer.x509.certificates import Certificate, read_certificate
from signer.x509.der import OCTET_STRING, SEQUENCE, SET, Element, read_der

MAX_CMS = 64 << 10
"""Bytes of a signature file; a signature and some certificates have under ten thousand."""

MAX_CERTIFICATES = 8
"""Certificates in a file; one is needed."""

_DATA, _SIGNED_DATA = "1.2.840.113549.1.7.1", "1.2.840.113549.1.7.2"
_CONTENT_TYPE, _MESSAGE_DIGEST = "1.2.840.113549.1.9.3", "1.2.840.113549.1.9.4"
_SIGNING_TIME = "1.2.840.113549.1.9.5"
_DIGESTS = {"2.16.840.1.101.3.4.2.1": "sha256", "2.16.840.1.101.3.4.2.2": "sha384", "2.16.840.1.101.3.4.2.3": "sha512"}
_SIGNATURES = {
    "1.2.840.113549.1.1.1": "",  # rsaEncryption: the hash is that of the digest algorithm
    "1.2.840.113549.1.1.11": "sha256",
    "1.2.840.113549.1.1.12": "sha384",
    "1.2.840.113549.1.1.13": "sha512",
    "1.2.840.10045.4.3.2": "sha256",
    "1.2.840.10045.4.3.3": "sha384",
    "1.2.840.10045.4.3.4": "sha512",
}
"""RSA (PKCS #1 v1.5) and ECDSA; with PSS the parameters could name another hash than the rest of the file."""

MALFORMED = "the signature is not a CMS file as defined in RFC 5652"

_CERTIFICATES, _ATTRIBUTES = 0xA0, 0xA0
_KEY_IDENTIFIER = 0x80
_UTC_TIME, _GENERALIZED_TIME = 0x17, 0x18


@dataclass(frozen=True)
class SignedData:
    """One detached signature: the signer's certificate, and the signing time (None if the file does not give it)."""

    signer: Certificate
    made: datetime | None


def read_signed_data(data: bytes) -> SignedData:
    """Parse a CMS file.

    Raises:
        SignatureError: not a detached CMS signature in DER by one signer whose certificate it holds, or it uses a weak
            algorithm; the message says why.
    """
    if not data:
        raise SignatureError("the signature is empty")
    if len(data) > MAX_CMS:
        raise SignatureError(f"the signature has {len(data)} bytes, more than the {MAX_CMS} allowed")
    try:
        return _read(read_der(data))
    except (IndexError, ValueError) as exc:
        raise SignatureError(MALFORMED) from exc


def _read(file: Element) -> SignedData:
    kind, wrapped = file.children()
    if file.tag != SEQUENCE or kind.oid() != _SIGNED_DATA:
        raise SignatureError("the signature is a CMS file of another kind than signed data")
    (signed,) = wrapped.children()
    _, digests, encapsulated, *rest = signed.children()
    inner = encapsulated.children()
    if inner[0].oid() != _DATA:
        raise SignatureError("the signature is over another kind of content than plain data")
    if len(inner) != 1:
        raise SignatureError("the signature file embeds its content; only a detached signature counts")
    signers = rest[-1]
    if signers.tag != SET or digests.tag != SET:
        raise SignatureError(MALFORMED)
    infos = signers.children()
    if len(infos) != 1:
        raise SignatureError(f"the file has {len(infos)} signers; write each signature to a file of its own")
    certificates = [_certificate(each) for part in rest[:-1] if part.tag == _CERTIFICATES for each in part.children()]
    if len(certificates) > MAX_CERTIFICATES:
        raise SignatureError(
            f"the file holds {len(certificates)} certificates, more than the {MAX_CERTIFICATES} allowed"
        )
    return _signer(infos[0], certificates)


def _certificate(element: Element) -> Certificate:
    try:
        return read_certificate(element.whole)
    except KeyUnusable as exc:
        raise SignatureError("the signature file holds a certificate that cannot be read") from exc


def _signer(info: Element, certificates: list[Certificate]) -> SignedData:
    _, sid, digest, *rest = info.children()
    hashed = _DIGESTS.get(digest.children()[0].oid())
    if hashed is None:
        raise SignatureError("the signature uses a weak or unknown hash; only SHA-256, SHA-384 and SHA-512 count")
    attributes = rest.pop(0) if rest[0].tag == _ATTRIBUTES else None
    algorithm, value, *_ = rest
    fitting = _SIGNATURES.get(algorithm.children()[0].oid())
    if fitting is None or value.tag != OCTET_STRING:
        raise SignatureError("the signature uses an algorithm that does not count; only RSA (PKCS #1) and ECDSA do")
    if fitting not in {"", hashed}:
        raise SignatureError("the signature names two different hashes")
    if sid.tag == _KEY_IDENTIFIER:
        raise SignatureError("the signature names its key instead of its certificate; sign without -keyid")
    issuer, serial = sid.children()
    named = {one.der: one for one in certificates if (one.issuer_der, one.serial) == (issuer.whole, serial.integer())}
    if len(named) != 1:
        raise SignatureError(f"the file holds {len(named) or 'no'} certificates of its signer; one is needed")
    (certificate,) = named.values()
    return SignedData(certificate, _made(attributes) if attributes else None)


def _made(attributes: Element) -> datetime | None:
    values: dict[str, Element] = {}
    for attribute in attributes.children():
        kind, found = attribute.children()
        if kind.oid() in values:
            raise SignatureError("an attribute of the signature is listed twice")
        values[kind.oid()] = found
    if _CONTENT_TYPE not in values or _MESSAGE_DIGEST not in values:
        raise SignatureError("the signature lacks an attribute that RFC 5652 requires")
    if _SIGNING_TIME not in values:
        return None
    (time,) = values[_SIGNING_TIME].children()
    text = time.content.decode("ascii")
    if time.tag == _UTC_TIME:  # two digits of the year: 1950 to 2049 (RFC 5652, section 11.3)
        text = ("19" if text >= "5" else "20") + text
    elif time.tag != _GENERALIZED_TIME:
        raise SignatureError("the signing time is not in a form that RFC 5652 allows")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
