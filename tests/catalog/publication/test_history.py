"""The catalog's history: every endorsement ever accepted, with its time and its maker, and no way to change it unseen."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from catalog.client import transfer
from catalog.content.content_store import ContentStore
from catalog.db import images as registry
from catalog.db.engine import CatalogDatabase
from catalog.errors import ContentMismatch, Unavailable
from catalog.publication.history import History
from catalog.publication.images import PublicationService
from catalog.schema.images import SignedStatement
from catalog.settings import CatalogSettings
from signer.audit_log import verify_log
from signer.openpgp.keyring import Keyring
from tests.support.catalog.service_process import Service, Vo, now
from tests.support.factories import MIB, bundle


@pytest.fixture(scope="module")
def star(tmp_path_factory: pytest.TempPathFactory) -> Vo:
    keyring = Keyring(tmp_path_factory.mktemp("keys"))
    return Vo(keyring, "star", keyring.generate("Star <star@example.org>"))


@pytest.fixture
def service(tmp_path: Path, star: Vo) -> Iterator[Service]:
    with Service(tmp_path) as running:
        running.register(star.anchor())
        yield running


def test_what_is_accepted_is_told_once_and_in_order(service: Service, star: Vo, tmp_path: Path) -> None:
    first = star.endorse(bundle(tmp_path / "one", size=MIB))
    second = star.endorse(bundle(tmp_path / "two", size=MIB, version="2.0", seed=1))
    with service.client() as client:
        for image in (first, first, second):  # again is no news
            transfer.publish_image(client, image)
        found = list(client.history())

    assert [(entry.seq, entry.kind, entry.data["title"]) for entry in found] == [
        (1, "endorse", "star/worker@1.0"),
        (2, "publish", "star/worker@1.0"),
        (3, "endorse", "star/worker@2.0"),
        (4, "publish", "star/worker@2.0"),
    ]
    assert found[0].data["endorser"] == f"openpgp:{star.fingerprint}"
    assert found[0].data["image"] == first.manifest.image_id
    assert found[0].data["role"] == "image-administrator"


def test_a_refused_endorsement_leaves_no_entry(service: Service, star: Vo, tmp_path: Path) -> None:
    keyring = Keyring(tmp_path / "keys")
    rogue = Vo(keyring, "star", keyring.generate("Rogue <rogue@example.org>"))
    image = rogue.endorse(bundle(tmp_path / "image", size=MIB))
    with service.client() as client:
        with pytest.raises(Exception, match="not trusted"):
            transfer.publish_image(client, image)
        assert list(client.history()) == []


def test_the_history_goes_on_after_a_kill(service: Service, star: Vo, tmp_path: Path) -> None:
    with service.client() as client:
        transfer.publish_image(client, star.endorse(bundle(tmp_path / "one", size=MIB)))
    service.kill()
    log = service.directory / "audit.jsonl"
    with log.open("ab") as file:
        file.write(b'{"at":"2026-11')
    service.start()
    with service.client() as client:
        transfer.publish_image(client, star.endorse(bundle(tmp_path / "two", size=MIB, version="2.0", seed=1)))
        kinds = [entry.kind for entry in client.history()]

    assert kinds == ["endorse", "publish", "repaired", "endorse", "publish"]
    assert verify_log(log).intact


def test_a_client_sees_that_the_past_was_changed(service: Service, star: Vo, tmp_path: Path) -> None:
    with service.client() as client:
        transfer.publish_image(client, star.endorse(bundle(tmp_path / "one", size=MIB)))
        log = service.directory / "audit.jsonl"
        log.write_bytes(log.read_bytes().replace(b"image-administrator", b"image-adminastrator", 1))
        with pytest.raises(ContentMismatch, match="entry 2 does not continue the hash chain"):
            list(client.history())


def test_pages_join_without_a_gap(tmp_path: Path) -> None:
    history = History(tmp_path, now())
    for number in range(600):
        history.record("vo", {"title": f"vo{number}"}, now())

    found = [entry.seq for after in range(0, 600, 7) for entry in history.page(after, 7)]

    assert found == list(range(1, 601))
    assert history.page(600, 10) == []
    history.close()


def test_nothing_is_published_that_cannot_be_recorded(star: Vo, tmp_path: Path) -> None:
    database = CatalogDatabase(tmp_path / "catalog.db")
    history = History(tmp_path, now())
    publishing = PublicationService(database, ContentStore(tmp_path), CatalogSettings(), history)
    with database.writing() as connection:
        registry.register_vo(connection, "star", now())
        registry.register_key(connection, star.anchor(), now())
    image = star.endorse(bundle(tmp_path / "one", size=MIB))
    pairs = [SignedStatement.of(*pair) for pair in image.endorsements()]
    history.close()

    with pytest.raises(Unavailable, match="audit log was closed"):
        publishing.begin(image.manifest.canonical().decode(), pairs, now())

    with closing(sqlite3.connect(tmp_path / "catalog.db")) as connection:
        assert connection.execute("SELECT count(*) FROM endorsements").fetchone() == (0,)
    database.close()
