"""Names in certificates as texts: nothing in a value can look like structure."""

from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from signer.x509.certificates import read_certificate
from tests.support.grid_ca import Grid, ec_key, utc_now


def test_values_cannot_pretend_to_be_structure() -> None:
    grid = Grid(Path(), utc_now())
    root = grid.root("/O=evil/CN=Root")
    tricky = x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "x/CN=Ann+\\\u202e")])
    made = grid._certificate(tricky, root.certificate.subject, ec_key().public_key(), root.key)
    assert read_certificate(made.public_bytes(serialization.Encoding.DER)).subject == r"/O=x\/CN=Ann\+\\\u202e"
