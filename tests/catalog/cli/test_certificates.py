"""The commands with certificates, from files as grids give them to people: register, endorse, publish, revoke, trust."""

from pathlib import Path

import pytest

from catalog.client import transfer
from signer.statements.endorsement import PartitionStatement, parse_endorsement
from tests.support import commands
from tests.support.catalog.service_process import Service
from tests.support.factories import bundle
from tests.support.grid_ca import Grid, utc_now


def partita(*arguments: object, code: int = 0) -> str:
    """Run a command; returns what it printed."""
    done = commands.partita(*arguments)
    assert done.returncode == code, (arguments, done.stdout, done.stderr)
    return done.stdout + done.stderr


@pytest.fixture
def grid(tmp_path: Path) -> Grid:
    """A directory of CAs, and Ann's files."""
    (tmp_path / "ca").mkdir()
    grid = Grid(tmp_path / "ca", utc_now())
    root = grid.root("/DC=org/CN=Root")
    grid.install(root, "/DC=org/*")
    ann = grid.person(root, "/DC=org/CN=Ann")
    (tmp_path / "usercert.pem").write_bytes(ann.pem)
    (tmp_path / "userkey.pem").write_bytes(ann.key_pem)
    return grid


def test_from_endorsement_to_revocation(tmp_path: Path, grid: Grid) -> None:
    certificate = tmp_path / "usercert.pem"
    image = bundle(tmp_path / "image")
    label = next(part.label for part in image.manifest.partitions() if part.content)
    partita("endorse", image.root, "--certificate", certificate)
    partita("endorse", image.root, "--certificate", certificate, "--partition", label, "--as", "star/base@12")
    kinds = {type(parse_endorsement(statement, "image", "partition")) for statement, _ in image.endorsements()}
    assert len(kinds) == 2
    assert PartitionStatement in kinds
    said = partita("endorse", image.root, "--certificate", certificate, "--partition", "none", code=2)
    assert "0 partitions with content are labelled 'none'" in said
    assert "cannot be read" in partita("endorse", image.root, "--certificate", tmp_path / "absent.pem", code=1)
    with Service(tmp_path, ca_directory=grid.path) as service:
        here = ("--directory", service.directory)
        partita("vo", "register", "star", "--key", certificate, *here)
        assert "/DC=org/CN=Ann" in partita("vo", "list", *here)
        partita("publish", image.root, "--catalog", service.url)
        revoked = partita(
            "revoke", "image", image.manifest.title, "--certificate", certificate, "--catalog", service.url
        )
        assert image.manifest.image_id in revoked
        partita("revoke", "key", certificate, "--vo", "star", "--certificate", certificate, "--catalog", service.url)
        with service.client() as client:
            assert len(client.revocations()) == 2
        assert "revoke" in partita("catalog", "history", "--catalog", service.url)
        partita("vo", "remove-key", "star", "/DC=org/CN=Ann", *here)


def test_stock_openssl_verifies_what_a_catalog_hands_out(tmp_path: Path, grid: Grid) -> None:
    certificate = tmp_path / "usercert.pem"
    image = bundle(tmp_path / "image")
    partita("endorse", image.root, "--certificate", certificate)
    with Service(tmp_path, ca_directory=grid.path) as service, service.client() as client:
        partita("vo", "register", "star", "--key", certificate, "--directory", service.directory)
        transfer.publish_image(client, image)
        (pair,) = client.endorsements(image.manifest.image_id)
    assert grid.stock_verifies(tmp_path, *pair)
    assert not grid.stock_verifies(tmp_path, pair[0].replace(b"star", b"sta7"), pair[1])
