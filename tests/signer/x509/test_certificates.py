"""Names in certificates as texts: nothing in a value can look like structure."""

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from signer.errors import KeyUnusable
from signer.x509.certificates import read_certificate
from tests.support.grid_ca import Grid, ec_key, utc_now


def test_values_cannot_pretend_to_be_structure() -> None:
    grid = Grid(Path(), utc_now())
    root = grid.root("/O=evil/CN=Root")
    tricky = x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "x/CN=Ann+\\\u202e")])
    made = grid._certificate(tricky, root.certificate.subject, ec_key().public_key(), root.key)
    assert read_certificate(made.public_bytes(serialization.Encoding.DER)).subject == r"/O=x\/CN=Ann\+\\\u202e"


def test_a_certificate_of_an_unknown_version_is_refused() -> None:
    made = Grid(Path(), utc_now()).root("/O=grid/CN=Root").certificate.public_bytes(serialization.Encoding.DER)
    version = b"\xa0\x03\x02\x01"
    assert made.count(version + b"\x02") == 1
    with pytest.raises(KeyUnusable, match="not a readable X"):
        read_certificate(made.replace(version + b"\x02", version + b"\x26"))
