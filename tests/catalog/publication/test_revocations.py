"""Revocations and certificates in a catalog: a real service, signers of both kinds, and what strangers may not do."""

from pathlib import Path

import pytest

from catalog.client import transfer
from catalog.client.client import CatalogClient
from catalog.db import images as registry
from catalog.db.engine import CatalogDatabase
from catalog.db.migrations import HEAD
from catalog.db.tables import revocations
from catalog.errors import NotEntitled
from catalog.publication.state_directory import open_database
from signer.errors import DocumentError
from signer.statements.revocation import SECURITY_OFFICER, RevokedObject, parse_revocation
from signer.verification.endorsements import endorse
from signer.verification.revocations import revoke
from signer.verification.signers import KeySigner
from tests.support.catalog.service_process import Service, Vo, now
from tests.support.commands import partita
from tests.support.factories import bundle
from tests.support.grid_ca import Grid, utc_now


def signer(vo: Vo) -> KeySigner:
    return KeySigner(vo.keyring, vo.fingerprint)


@pytest.fixture
def client(service: Service, star: Vo, tmp_path: Path) -> CatalogClient:
    """Of a catalog with one image of star."""
    with service.client() as client:
        transfer.publish_image(client, star.endorse(bundle(tmp_path / "image")))
        yield client


def test_a_revocation_is_kept_for_ever(service: Service, client: CatalogClient, star: Vo) -> None:
    (image,) = client.images(None, None)
    pair = revoke(
        signer(star),
        RevokedObject("image", f"{image.vo}/{image.name}@{image.version}", digest=image.image_id),
        "star",
        now(),
        reason="retired",
    )
    assert client.revocations() == []
    client.revoke(*pair)
    client.revoke(*pair)
    assert client.revocations() == [pair]
    service.kill()
    service.start()
    with service.client() as again:
        assert again.revocations() == [pair]
        kinds = [entry.kind for entry in again.history()]
    assert kinds.count("revoke") == 1


def test_many_are_read_page_by_page(client: CatalogClient, service: Service, star: Vo) -> None:
    pair = revoke(signer(star), RevokedObject("key", f"openpgp:{star.fingerprint}"), "star", now(), reason="retired")
    database = open_database(service.directory)
    with database.writing() as connection:
        for number in range(150):
            assert registry.add_revocation(connection, pair[0], pair[1] + bytes([number]), now())
    database.close()
    found = client.revocations()
    assert [signature[-1] for _, signature in found] == list(range(150))


def test_strangers_cannot_fill_the_list(client: CatalogClient, vos: dict[str, Vo], star: Vo) -> None:
    key = f"openpgp:{star.fingerprint}"
    ours = revoke(signer(star), RevokedObject("key", key), "star", now(), reason="compromised")
    theirs = revoke(signer(vos["atlas"]), RevokedObject("key", key), "star", now(), reason="compromised")
    nobody = revoke(signer(vos["stranger"]), RevokedObject("key", key), "star", now(), reason="compromised")
    for pair, error in (
        (theirs, NotEntitled),
        (nobody, NotEntitled),
        ((ours[0], theirs[1]), NotEntitled),
        ((ours[0] + b" ", ours[1]), DocumentError),
        (client.endorsements(next(client.images(None, None)).image_id)[0], DocumentError),
    ):
        with pytest.raises(error):
            client.revoke(*pair)
    assert client.revocations() == []


def test_what_is_revoked_is_listed_as_current(service: Service, client: CatalogClient, star: Vo) -> None:
    pair = revoke(
        signer(star), RevokedObject("key", f"openpgp:{star.fingerprint}"), "star", now(), reason="compromised"
    )
    client.revoke(*pair)
    database: CatalogDatabase = open_database(service.directory)
    with database.reading() as connection:
        rows = connection.execute(revocations.select()).all()
    database.close()
    assert [(row.statement, row.signature) for row in rows] == [pair]
    assert HEAD >= "0004"


def test_certificates_publish_and_partitions_are_vouched_for(tmp_path: Path, star: Vo) -> None:
    (tmp_path / "ca").mkdir()
    grid = Grid(tmp_path / "ca", utc_now())
    root = grid.root("/DC=org/CN=Root")
    grid.install(root, "/DC=org/*")
    ann, rob = (grid.person(root, f"/DC=org/CN={name}") for name in ("Ann", "Rob"))
    image = bundle(tmp_path / "image")
    address = next(str(part.content) for part in image.manifest.partitions() if part.content)
    image.add_endorsement(*endorse(ann.signer(), image.manifest.image_id, image.manifest.title, now()))
    image.add_endorsement(*endorse(rob.signer(), address, "site/base@1", now(), kind="partition", role="site-reviewer"))
    with Service(tmp_path, ca_directory=grid.path) as service, service.client() as client:
        service.register(star.anchor(), ann.anchor("star"), rob.anchor("site", "site-reviewer"))
        transfer.publish_image(client, image)
        assert len(client.endorsements(image.manifest.image_id)) == 2
        pair = revoke(
            ann.signer(),
            RevokedObject("image", image.manifest.title, digest=image.manifest.image_id),
            "star",
            now(),
            reason="retired",
        )
        client.revoke(*pair)
        assert client.revocations() == [pair]
        other = bundle(tmp_path / "other", seed=7, version="2")
        other.add_endorsement(
            *endorse(rob.signer(), address, "site/base@1", now(), kind="partition", role="site-reviewer")
        )
        with pytest.raises(NotEntitled):
            transfer.publish_image(client, other)


def test_the_commands(client: CatalogClient, star: Vo, tmp_path: Path) -> None:
    (image,) = client.images(None, None)
    title = f"{image.vo}/{image.name}@{image.version}"
    home = f"signer.home={star.keyring.home}"
    options = ["--key", star.fingerprint, "--catalog", client.url]
    for command in (
        ["endorsement", title],
        ["image", image.image_id, "--reason", "superseded", "--comment", "see 1.1"],
        ["key", star.fingerprint, "--vo", "star", "--since", "2026-01-31"],
    ):
        done = partita("--set", home, "revoke", *command, *options)
        assert done.returncode == 0, done.stderr
    said = [parse_revocation(statement) for statement, _ in client.revocations()]
    assert [one.predicate.kind for one in said] == ["endorsement", "image", "key"]
    assert [one.predicate.reason for one in said] == ["retired", "superseded", "compromised"]
    assert said[0].predicate.role == SECURITY_OFFICER
    assert f"{said[2].predicate.since:%Y-%m-%d}" == "2026-01-31"
    wrong = partita("--set", home, "revoke", "image", title, "--reason", "angry", *options)
    assert (wrong.returncode, "is not one of" in wrong.stderr) == (2, True)
