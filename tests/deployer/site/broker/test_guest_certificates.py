"""Certificates of the broker and of hosts: for what the site gave, whatever a request says."""

import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from deployer.pki.ca import HOST, create_request
from deployer.site.db.machines import get_machine
from tests.support.site.context_broker import Guest, Make, World, site


def test_a_broker_with_tls_is_known_by_the_very_certificate_that_it_shows(tmp_path: Path) -> None:
    with site(tmp_path, tls=True) as (world, make):
        guest = make(world.machines()[0]).enter()
        host, port = guest.context.url.removeprefix("https://").split(":")
        shown = ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate((host, int(port))))
        digest = hashes.Hash(hashes.SHA256())
        digest.update(shown)
        assert guest.context.fingerprint == digest.finalize().hex()


# Host certificates


def _load(answer: bytes) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(answer)


def test_a_host_certificate_is_for_what_the_site_gave_whatever_the_request_says(world: World, lone: Guest) -> None:
    world.observed(lone.machine, "10.1.2.3")
    lone.publish("address", "10.9.9.9")  # the guest's own word
    key = ec.generate_private_key(ec.SECP256R1())
    wished = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "www.bank.example")]))
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName("*.example.org"), x509.DNSName("star-head-1")]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    answer = lone.ask("POST", "/certificate", wished.public_bytes(serialization.Encoding.PEM))
    assert answer.status == 200
    leaf, issuer = _load(answer.body)
    assert issuer.public_bytes(serialization.Encoding.PEM) == world.authority.certificate
    leaf.verify_directly_issued_by(issuer)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["lone-1"]
    assert [str(one) for one in names.get_values_for_type(x509.IPAddress)] == ["10.1.2.3"]
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert [str(one.value) for one in leaf.subject] == [HOST, lone.machine.uuid]
    assert leaf.not_valid_after_utc <= world.store.read(get_machine, lone.machine.uuid).expires
    # It is no node's: the site does not take a guest for one of its nodes.
    der = leaf.public_bytes(serialization.Encoding.DER)
    assert world.authority.issued(der, world.now)
    assert world.authority.node_of([der], world.now) is None


@pytest.mark.parametrize(
    ("request_", "status"),
    [(b"", 400), (b"hello", 400), (b"\xff" * 100, 400), (b"-" * 5000, 413), (b"weak", 400), (b"forged", 400)],
)
def test_a_certificate_request_that_is_none_is_refused(lone: Guest, request_: bytes, status: int) -> None:
    if request_ in (b"weak", b"forged"):
        curve = ec.SECP192R1() if request_ == b"weak" else ec.SECP256R1()
        asked = (
            x509.CertificateSigningRequestBuilder()
            .subject_name(x509.Name([]))
            .sign(ec.generate_private_key(curve), hashes.SHA256())
        )
        der = bytearray(asked.public_bytes(serialization.Encoding.DER))
        if request_ == b"forged":
            der[-1] ^= 1
        request_ = ssl.DER_cert_to_PEM_cert(bytes(der)).replace("CERTIFICATE", "CERTIFICATE REQUEST").encode()
    assert lone.ask("POST", "/certificate", request_).status == status


def test_a_certificate_needs_a_session(made: tuple[World, Make]) -> None:
    world, make = made
    assert make(world.machines()[0]).ask("POST", "/certificate", create_request()[1].encode()).status == 401
