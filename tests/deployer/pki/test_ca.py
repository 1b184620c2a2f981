"""The site's own CA: for whom it signs, what it puts in, and what it refuses."""

from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from catalog.errors import Misused
from deployer.pki.ca import (
    CertificateAuthority,
    certificate_of,
    create_request,
    fingerprint,
    is_server_certificate,
    needs_renewal,
    request_for,
    validity_period,
)
from signer.x509.authority import MAX_SIGNING_REQUEST

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
LIFE = timedelta(days=90)
NODE = "0b8a2c9e-58f5-4b7a-9a52-0a54ab4f4a3f"


@pytest.fixture(scope="module")
def authority() -> CertificateAuthority:
    """A CA."""
    return CertificateAuthority.make(NOW)


def der(pem: str | bytes) -> bytes:
    """A certificate as TLS has it."""
    data = pem.encode() if isinstance(pem, str) else pem
    return x509.load_pem_x509_certificate(data).public_bytes(serialization.Encoding.DER)


def request(key: object, name: str = "x", **names: str) -> str:
    """A certificate request by hand."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    if names:
        alternative = x509.SubjectAlternativeName([x509.DNSName(value) for value in names.values()])
        builder = builder.add_extension(alternative, critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()  # type: ignore[arg-type]


def test_a_nodes_certificate_names_it_by_what_the_site_says(authority: CertificateAuthority) -> None:
    """Of the request only the key counts: no name of its own gets in; as a server it is no more than its UUID."""
    key = ec.generate_private_key(ec.SECP256R1())
    issued = x509.load_pem_x509_certificate(
        authority.node(request(key, "site.example.org", dns="evil.example.org"), NODE, NOW, LIFE).encode()
    )
    assert issued.subject.rfc4514_string() == f"CN={NODE},OU=node"
    assert issued.public_key() == key.public_key()
    assert list(issued.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [
        ExtendedKeyUsageOID.SERVER_AUTH,
        ExtendedKeyUsageOID.CLIENT_AUTH,
    ]
    assert not issued.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    names = issued.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names) == [x509.DNSName(NODE)]
    assert is_server_certificate(issued.public_bytes(serialization.Encoding.PEM))
    assert authority.node_of([issued.public_bytes(serialization.Encoding.DER)], NOW) == NODE


def test_only_a_nodes_own_certificate_speaks_for_it(authority: CertificateAuthority) -> None:
    """Not a guest's, not the service's, not the CA's, not another CA's, not one whose time is over or not come."""
    own = der(authority.node(create_request()[1], NODE, NOW, LIFE))
    assert authority.node_of([own], NOW + LIFE) == NODE
    for about, chain, when in (
        ("nothing", [], NOW),
        ("a guest's", [der(authority.host(create_request()[1], NODE, ["h.example.org"], NOW, LIFE))], NOW),
        ("the service's", [der(authority.server(["localhost"], NOW, LIFE).certificate)], NOW),
        ("the CA's", [der(authority.certificate)], NOW),
        ("another site's", [der(CertificateAuthority.make(NOW).node(create_request()[1], NODE, NOW, LIFE))], NOW),
        ("an old one", [own], NOW + LIFE + timedelta(seconds=1)),
        ("one of the future", [own], NOW - timedelta(hours=2)),
        ("no certificate", [b"\x30\x03\x02\x01\x01"], NOW),
        ("behind another's", [der(CertificateAuthority.make(NOW).certificate), own], NOW),
    ):
        assert authority.node_of(chain, when) is None, about


@pytest.mark.parametrize(
    ("about", "text"),
    [
        ("nothing", ""),
        ("no request", "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"),
        ("a certificate", CertificateAuthority.make(NOW).certificate.decode()),
        ("an RSA key", request(rsa.generate_private_key(65537, 2048))),
        ("another curve", request(ec.generate_private_key(ec.SECP384R1()))),
        ("far too long", " " * MAX_SIGNING_REQUEST + create_request()[1]),
        ("no ASCII", "\N{SNOWMAN}"),
    ],
)
def test_requests_that_are_refused(authority: CertificateAuthority, about: str, text: str) -> None:
    """With one sentence, whatever they are."""
    with pytest.raises(Misused, match="certificate request"):
        authority.node(text, NODE, NOW, LIFE)


def test_a_request_that_somebody_changed_is_refused(authority: CertificateAuthority) -> None:
    """It is not signed with the key that it has."""
    signed = x509.load_pem_x509_csr(create_request()[1].encode()).public_bytes(serialization.Encoding.DER)
    forged = bytearray(signed)
    forged[-1] ^= 1
    text = "-----BEGIN CERTIFICATE REQUEST-----\n"
    import base64

    text += base64.encodebytes(bytes(forged)).decode() + "-----END CERTIFICATE REQUEST-----\n"
    with pytest.raises(Misused):
        authority.node(text, NODE, NOW, LIFE)


def test_a_host_certificate_has_exactly_the_given_names(authority: CertificateAuthority) -> None:
    """Names and addresses as the site gave them."""
    issued = x509.load_pem_x509_certificate(
        authority.host(create_request()[1], NODE, ["h.example.org", "10.0.3.7"], NOW, LIFE).encode()
    )
    names = issued.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["h.example.org"]
    assert [str(one) for one in names.get_values_for_type(x509.IPAddress)] == ["10.0.3.7"]


def test_an_authority_is_kept_and_two_are_never_alike(authority: CertificateAuthority) -> None:
    """It reads what it wrote; its name is its own."""
    assert CertificateAuthority.parse(authority.joined()) == authority
    other = CertificateAuthority.make(NOW)
    assert other.fingerprint != authority.fingerprint
    names = {x509.load_pem_x509_certificate(one.certificate).subject.rfc4514_string() for one in (authority, other)}
    assert len(names) == 2


def test_certificates_never_outlive_the_authority(authority: CertificateAuthority) -> None:
    """One that is asked for at its end holds as long as the CA does."""
    late = NOW + timedelta(days=3650 - 10)
    issued = authority.node(create_request()[1], NODE, late, LIFE)
    assert validity_period(issued.encode())[1] == validity_period(authority.certificate)[1]


def test_a_certificate_is_due_when_a_third_is_left(authority: CertificateAuthority) -> None:
    """Not before."""
    issued = authority.node(create_request()[1], NODE, NOW, LIFE).encode()
    begins, ends = validity_period(issued)
    third = (ends - begins) / 3
    assert not needs_renewal(issued, ends - third - timedelta(seconds=1))
    assert needs_renewal(issued, ends - third)


def test_what_a_site_is_believed_by(authority: CertificateAuthority) -> None:
    """One fingerprint over all certificates; of a chain the first is the server's and the last the anchor."""
    other = CertificateAuthority.make(NOW)
    both = authority.certificate + other.certificate
    assert fingerprint(authority.certificate) == authority.fingerprint
    assert len({fingerprint(both), authority.fingerprint, other.fingerprint}) == 3
    assert (certificate_of(both, 0), certificate_of(both, -1)) == (authority.certificate, other.certificate)
    for read in (fingerprint, partial(certificate_of, index=-1), partial(certificate_of, index=0), validity_period):
        with pytest.raises(Misused):
            read(b"no certificate")


def test_a_request_for_a_key_that_is_there(authority: CertificateAuthority) -> None:
    """A renewal keeps the key; what is no P-256 key is refused."""
    key, _ = create_request()
    first, second = (authority.node(request_for(key), NODE, NOW, LIFE) for _ in range(2))
    assert x509.load_pem_x509_certificate(first.encode()).public_key() == (
        x509.load_pem_x509_certificate(second.encode()).public_key()
    )
    with pytest.raises(Misused):
        request_for(b"no key")
