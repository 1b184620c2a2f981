"""Publishing while a content is verified, on disks that fail or are nearly full, and after a content was lost."""

import os
import threading
from pathlib import Path

import pytest

from catalog.client import transfer
from catalog.client.client import CatalogClient
from catalog.content.content_store import ContentStore
from catalog.content.indexing import index_file
from catalog.db import images as registry
from catalog.db.engine import CatalogDatabase
from catalog.errors import NotFound, Unavailable
from catalog.image.manifest import Manifest
from catalog.publication.history import History
from catalog.publication.images import PublicationService
from catalog.publication.state_directory import check_contents, own_directory
from catalog.schema.images import SignedStatement
from catalog.settings import CatalogSettings
from tests.support.catalog.service_process import Service, Vo, files, now
from tests.support.factories import MIB, bundle


def offered(made_from: list[tuple[bytes, bytes]]) -> list[SignedStatement]:
    """Endorsements as they travel."""
    return [SignedStatement.of(*pair) for pair in made_from]


def register(publishing: PublicationService, vo: Vo) -> None:
    """Register a VO in a store that the test owns."""
    with publishing.database.writing() as connection:
        registry.register_vo(connection, vo.name, now())
        registry.register_key(connection, vo.anchor(), now())


def copy(publishing: PublicationService, path: Path, image: Manifest) -> None:
    """Put a whole content where it would arrive."""
    address = index_file(path).address
    publishing.uploads.path(image.image_id, address).write_bytes(path.read_bytes())


def test_nobody_writes_while_a_content_is_verified(tmp_path: Path, star: Vo) -> None:
    """A range that arrives during verification is put off; verification waits for ranges that are arriving."""
    made = star.endorse(bundle(tmp_path / "image", partitions=0))
    address, image_id = made.manifest.contents()[0], made.manifest.image_id
    settings = CatalogSettings(directory=tmp_path / "catalog", tuf_bits=6)
    with own_directory(settings.directory, settings, now()) as (publishing, _):
        register(publishing, star)
        publishing.begin(made.manifest.canonical().decode(), offered(made.endorsements()), now())
        with publishing.uploads.sealed(image_id, address):
            assert publishing.uploads.is_busy(image_id)
            with (
                pytest.raises(Unavailable, match="being verified"),
                publishing.receive_range(image_id, address, 0, 16384),
            ):
                pass
        entered = threading.Event()

        def complete() -> None:
            with publishing.uploads.sealed(image_id, address):
                entered.set()

        with publishing.receive_range(image_id, address, 0, 16384):
            waiting = threading.Thread(target=complete)
            waiting.start()
            assert not entered.wait(0.1)
        waiting.join(10)
        assert entered.is_set()
        assert not publishing.uploads.is_busy(image_id)


def test_a_failed_sync_stops_the_store_from_taking_more(tmp_path: Path, star: Vo) -> None:
    """After a failed fsync the kernel may forget what it could not write: nothing is acknowledged from then on."""
    made = star.endorse(bundle(tmp_path / "image", partitions=0))
    address, image_id = made.manifest.contents()[0], made.manifest.image_id
    failing = threading.Event()

    def sync(descriptor: int) -> None:
        if failing.is_set():
            raise OSError(5, "Input/output error")
        os.fsync(descriptor)

    database = CatalogDatabase(tmp_path / "catalog.db")
    history = History(tmp_path, now())
    publishing = PublicationService(database, ContentStore(tmp_path / "catalog", sync), CatalogSettings(), history)
    register(publishing, star)
    publishing.begin(made.manifest.canonical().decode(), offered(made.endorsements()), now())
    with publishing.receive_range(image_id, address, 0, 16384) as arriving:
        assert arriving is not None
        arriving.write(bytes(16384))
        failing.set()
        with pytest.raises(Unavailable, match="writing to the disk failed"):
            publishing.keep_range(image_id, address, arriving)
        failing.clear()
    assert publishing.status(image_id, address).received == ()
    with (
        pytest.raises(Unavailable, match="restart the catalog"),
        publishing.receive_range(image_id, address, 0, 16384),
    ):
        pass
    with pytest.raises(Unavailable):
        publishing.complete(image_id, address, now())
    database.close()


def test_a_disk_that_is_nearly_full_takes_nothing(tmp_path: Path, star: Vo) -> None:
    """The reserve is kept for the database."""
    made = star.endorse(bundle(tmp_path / "image", partitions=0))
    settings = CatalogSettings(directory=tmp_path / "catalog", tuf_bits=6)
    with own_directory(settings.directory, settings, now()) as (publishing, _):
        register(publishing, star)
        publishing.begin(made.manifest.canonical().decode(), offered(made.endorsements()), now())
        publishing.uploads._free = lambda _: 256 * MIB + 16383
        with (
            pytest.raises(Unavailable, match="disk is full"),
            publishing.receive_range(made.manifest.image_id, made.manifest.contents()[0], 0, 16384),
        ):
            pass
        assert files(settings.directory) == []


def test_an_image_that_lost_a_content_is_repaired_by_publishing_it_again(
    service: Service, star: Vo, tmp_path: Path
) -> None:
    """The operator's disk lost a file; the image is not published a second time, and its content is there again."""
    made = star.endorse(bundle(tmp_path / "image", partitions=1))
    address = made.manifest.contents()[1]
    with service.client() as client:
        transfer.publish_image(client, made)
        service.stop()
        (service.directory / "blobs" / str(address)[:2] / str(address)).unlink()
        assert check_contents(service.directory).lost == [str(address)]
        service.start()
        with pytest.raises(NotFound):
            list(client.content_range(address, 0, 16))
        assert check_contents(service.directory).lost == [str(address)]
        assert transfer.publish_image(client, made).sent == index_file(made.content(address)).data_bytes
        assert b"".join(client.content_range(address, 0, address.size)) == made.content(address).read_bytes()
        assert len(list(client.images())) == 1
    assert check_contents(service.directory).lost == []


def test_a_directory_has_one_service(service: Service) -> None:
    """A second one is refused, and harms nothing."""
    settings = CatalogSettings(directory=service.directory)
    with (
        pytest.raises(Unavailable, match="another catalog serves it"),
        own_directory(service.directory, settings, now()),
    ):
        pass
    with CatalogClient(service.url) as client:
        assert list(client.images()) == []
