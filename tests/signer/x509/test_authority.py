"""An authority: what it signs, for whom, for how long, and which requests it does not take."""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from signer.x509.authority import (
    AUTHORITY_LIFE,
    CLIENT_AND_SERVER,
    MAX_SIGNING_REQUEST,
    SKEW,
    X509Authority,
    private_pem,
    requested_key,
    subject_name,
)

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
KEY = ec.generate_private_key(ec.SECP256R1())
OURS = X509Authority.named("Ours", NOW)


def request(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> str:
    """A request with a name that nobody heeds."""
    asked = x509.CertificateSigningRequestBuilder().subject_name(subject_name("root")).sign(key, hashes.SHA256())
    return asked.public_bytes(serialization.Encoding.PEM).decode()


def signed(life: timedelta = timedelta(hours=1)) -> x509.Certificate:
    """A certificate of ours."""
    public = requested_key(request(KEY))
    pem = OURS.sign(public, subject_name("n" * 70, "node"), ("node.example", "10.0.0.1"), NOW, life, CLIENT_AND_SERVER)
    return x509.load_pem_x509_certificate(pem.encode())


def test_a_certificate_is_for_the_key_and_the_names_that_were_given() -> None:
    found = signed()
    assert found.public_key() == KEY.public_key()
    assert [one.value for one in found.subject.get_attributes_for_oid(NameOID.COMMON_NAME)] == ["n" * 64]
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(one.value) for one in names] == ["node.example", "10.0.0.1"]
    assert not found.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert (found.not_valid_before_utc, found.not_valid_after_utc) == (NOW - SKEW, NOW + timedelta(hours=1))


def test_no_certificate_outlives_its_authority() -> None:
    assert signed(2 * AUTHORITY_LIFE).not_valid_after_utc == NOW + AUTHORITY_LIFE


def test_an_authority_knows_its_own_while_they_hold() -> None:
    der = signed().public_bytes(serialization.Encoding.DER)
    assert OURS.issued(der, NOW)
    assert not OURS.issued(der, NOW + timedelta(hours=2))
    assert not OURS.issued(der, NOW - timedelta(hours=2))
    assert not OURS.issued(der[:-1], NOW)
    assert not OURS.issued(b"", NOW)
    theirs = X509Authority.named("Ours", NOW)
    assert not theirs.issued(der, NOW), "a name is not a signature"


def test_what_a_database_keeps_is_the_same_authority() -> None:
    again = X509Authority.parse(OURS.joined())
    assert again == OURS
    assert private_pem(KEY) not in OURS.joined()


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ("", "not a certificate request"),
        ("-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n", "not a certificate request"),
        (OURS.certificate.decode(), "not a certificate request"),
        (" " * MAX_SIGNING_REQUEST + request(KEY), "not a certificate request"),
        (request(ec.generate_private_key(ec.SECP384R1())), "not for a P-256 key"),
        (request(rsa.generate_private_key(65537, 2048)), "not for a P-256 key"),
    ],
    ids=["empty", "broken", "a certificate", "too long", "another curve", "RSA"],
)
def test_requests_that_are_not_taken(asked: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        requested_key(asked)


def test_a_request_that_its_key_did_not_sign_is_not_taken() -> None:
    pem = request(KEY).encode()
    der = bytearray(x509.load_pem_x509_csr(pem).public_bytes(serialization.Encoding.DER))
    der[-1] ^= 1
    forged = x509.load_der_x509_csr(bytes(der)).public_bytes(serialization.Encoding.PEM).decode()
    with pytest.raises(ValueError, match="not signed with that key"):
        requested_key(forged)
