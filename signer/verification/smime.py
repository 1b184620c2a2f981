"""S/MIME messages that are signed and not encrypted: `multipart/signed` with a detached signature (RFC 8551, section 3.5.3).

The signature is over the text with CR LF at the end of each line, whatever the line ends in the file. `openssl smime
-sign` without `-text` writes the text right after the boundary, without headers of its own; both forms are read here.
"""

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from datetime import datetime

from signer.errors import SignatureError
from signer.verification.signers import CertificateSigner
from signer.x509.certificates import Certificate
from signer.x509.cms_parser import MAX_CMS, read_signed_data
from signer.x509.cms_verifier import CmsExaminer, X509Rules

MAX_MESSAGE = 16 << 20
"""Bytes. A list of a thousand images has one million."""

_KIND = re.compile(rb"^content-type:\s*multipart/signed\s*;(.*)$", re.IGNORECASE | re.MULTILINE)
_BOUNDARY = re.compile(rb";?\s*boundary=(?:\"([^\"\r\n]{1,70})\"|([^\s;\"]{1,70}))", re.IGNORECASE)
_PROTOCOL = re.compile(rb"protocol=\"?application/(?:x-)?pkcs7-signature\"?", re.IGNORECASE)
_SIGNATURE = re.compile(rb"^content-type:\s*application/(?:x-)?pkcs7-signature\b", re.IGNORECASE | re.MULTILINE)
_ENCODING = re.compile(rb"^content-transfer-encoding:\s*base64\s*$", re.IGNORECASE | re.MULTILINE)
_HEAD_END = re.compile(rb"\r?\n\r?\n")
_LINE_END = re.compile(rb"\r?\n")


@dataclass(frozen=True)
class SignedMessage:
    """A parsed signed message; not verified yet.

    Attributes:
        part: the signed part as in the file.
        text: its content, without headers.
        signature: CMS in DER.
    """

    part: bytes
    text: bytes
    signature: bytes


def sign_message(signer: CertificateSigner, text: bytes, now: datetime) -> bytes:
    """Make a signed message that `openssl smime -verify` accepts; errors as `CertificateSigner.sign`."""
    boundary = b"----" + hashlib.sha256(text).hexdigest()[:32].upper().encode()
    signature = base64.encodebytes(signer.sign(_canonical(text), now))
    return b"".join(
        (
            b"MIME-Version: 1.0\n",
            b'Content-Type: multipart/signed; protocol="application/x-pkcs7-signature"; micalg="sha-256"; ',
            b'boundary="%s"\n\nThis is an S/MIME signed message\n\n' % boundary,
            b"--%s\n%s\n--%s\n" % (boundary, text, boundary),
            b'Content-Type: application/x-pkcs7-signature; name="smime.p7s"\n',
            b'Content-Transfer-Encoding: base64\nContent-Disposition: attachment; filename="smime.p7s"\n\n',
            b"%s\n--%s--\n" % (signature, boundary),
        )
    )


def read_message(data: bytes) -> SignedMessage:
    """Parse a signed message.

    Raises:
        SignatureError: the message does not have two parts, the second of which is a detached signature.
    """
    if len(data) > MAX_MESSAGE:
        raise SignatureError(f"the message has more than the {MAX_MESSAGE} bytes allowed")
    head, body = _split(data, "the message")
    kinds = _KIND.findall(re.sub(rb"\r?\n[ \t]+", b" ", head))
    bounds = [one or other for kind in kinds for one, other in _BOUNDARY.findall(kind)]
    if len(kinds) != 1 or len(bounds) != 1 or not _PROTOCOL.search(kinds[0]):
        raise SignatureError("not an S/MIME message of the type multipart/signed; unsigned messages are refused")
    mark = re.compile(rb"(?:^|\r?\n)--" + re.escape(bounds[0]) + rb"(--)?[ \t]*(?:\r?\n|$)")
    marks = list(mark.finditer(body))
    if [bool(found[1]) for found in marks] != [False, False, True]:
        raise SignatureError("the S/MIME message does not have two parts, the signed text and its signature")
    part = body[marks[0].end() : marks[1].start()]
    fields, encoded = _split(body[marks[1].end() : marks[2].start()], "the signature")
    if not _SIGNATURE.search(fields) or not _ENCODING.search(fields):
        raise SignatureError("the second part of the S/MIME message is not a signature in base64")
    if len(encoded) > 2 * MAX_CMS:
        raise SignatureError(f"the signature has more than the {MAX_CMS} bytes allowed")
    try:
        signature = base64.b64decode(b"".join(encoded.split()), validate=True)
    except binascii.Error as exc:
        raise SignatureError("the signature of the S/MIME message is not valid base64") from exc
    headed = part.lstrip()[:8].lower() == b"content-"
    return SignedMessage(part, _split(part, "the signed part")[1] if headed else part, signature)


def verify_message(message: SignedMessage, rules: X509Rules, now: datetime) -> Certificate:
    """Verify a message and return the signer's certificate; the caller decides whether that person is authorized.

    Raises:
        SignatureError: the signature does not verify by these CAs; the message says why.
    """
    signer = read_signed_data(message.signature).signer
    examiner = CmsExaminer([signer.pem()], rules)
    # Canonical line ends, or the bytes as they are, as `openssl smime -sign -binary` signs them.
    forms = dict.fromkeys((_canonical(message.part), message.part))
    checks = [examiner.examine(form, message.signature, now)[0] for form in forms]
    if not any(check.good for check in checks):
        raise SignatureError(f"the signature by {signer.subject} does not count: {checks[0].reason}")
    return signer


def _split(data: bytes, what: str) -> tuple[bytes, bytes]:
    found = _HEAD_END.search(data)
    if found is None:
        raise SignatureError(f"{what} is not S/MIME: no blank line separates headers and body")
    return data[: found.start()], data[found.end() :]


def _canonical(text: bytes) -> bytes:
    return _LINE_END.sub(b"\r\n", text)
