"""Publishing through a real service: what arrives is verified, becomes visible at once, and can be gone on with."""

import threading
from datetime import timedelta
from pathlib import Path

import pytest

from catalog.client import transfer
from catalog.content.indexing import index_file
from catalog.db import images as registry
from catalog.db import publications as holdings
from catalog.db.engine import CatalogDatabase
from catalog.errors import Conflict, ContentMismatch, Misused, NotEntitled, NotFound, TooLarge
from catalog.image.reference import Reference
from catalog.publication.state_directory import check_contents, own_directory
from catalog.settings import CatalogSettings
from tests.catalog.publication.test_image_faults import copy, offered, register
from tests.support.catalog.service_process import Service, Vo, files, now
from tests.support.factories import MIB, bundle, manifest


def names(service: Service) -> set[str]:
    """Where in the service's directory there are files."""
    return {name.split("/")[0] for name in files(service.directory)}


def test_an_endorsed_image_is_published_and_fetched_again(service: Service, star: Vo, tmp_path: Path) -> None:
    """Everything that was published comes back: manifest, endorsements, every byte."""
    made = star.endorse(bundle(tmp_path / "image"))
    done: list[int] = []
    with service.client() as client:
        result = transfer.publish_image(client, made, done.append)
        fetched = transfer.fetch_image(client, Reference.parse("star/worker@1.0"), tmp_path / "fetched")
    total = sum(address.size for address in made.manifest.contents())
    assert result.sent + result.present == total == sum(done)
    assert result.sent == sum(index_file(made.content(address)).data_bytes for address in made.manifest.contents())
    assert fetched.manifest == made.manifest
    assert fetched.endorsements() == made.endorsements()
    for address in made.manifest.contents():
        assert fetched.content(address).read_bytes() == made.content(address).read_bytes()
        assert fetched.content(address).stat().st_blocks <= made.content(address).stat().st_blocks
    report = check_contents(service.directory)
    assert (len(report.checked), report.lost, report.quarantined) == (3, [], [])
    assert names(service) == {"blobs"}


def test_publishing_again_changes_nothing_and_sends_nothing(service: Service, star: Vo, tmp_path: Path) -> None:
    """The same content under the same name@version is no conflict."""
    made = star.endorse(bundle(tmp_path / "image", partitions=1))
    with service.client() as client:
        transfer.publish_image(client, made)
        again = transfer.publish_image(client, made)
        assert (again.sent, again.image_id) == (0, made.manifest.image_id)
        assert len(list(client.images())) == 1
        assert len(client.endorsements(again.image_id)) == 1


def test_content_shared_with_a_published_image_is_not_sent_again(service: Service, star: Vo, tmp_path: Path) -> None:
    """A new version that differs only in its name moves no content."""
    first = star.endorse(bundle(tmp_path / "first", version="1.0"))
    second = star.endorse(bundle(tmp_path / "second", version="1.1"))
    with service.client() as client:
        transfer.publish_image(client, first)
        assert transfer.publish_image(client, second).sent == 0
        assert client.resolve(Reference.parse("star/worker")) == second.manifest.image_id
        assert client.resolve(Reference.parse("star/worker@1.0")) == first.manifest.image_id


def test_only_what_is_missing_is_sent_after_a_cut(service: Service, star: Vo, tmp_path: Path) -> None:
    """A client that dies half-way goes on where it was; the image is invisible until it is whole."""
    made = star.endorse(bundle(tmp_path / "image", partitions=1, size=8 * MIB))
    address = made.manifest.contents()[0]
    image_id = made.manifest.image_id
    with service.client() as client:
        client.begin(made.manifest.canonical(), made.endorsements())
        client.send_range(image_id, address, 0, made.content(address).read_bytes()[: 2 * MIB])
        with pytest.raises(NotFound):
            client.manifest(image_id)
        with pytest.raises(NotFound):
            list(client.content_range(address, 0, 16))
    service.stop()
    service.start()
    with service.client() as client:
        assert client.upload_status(image_id, address).received == ((0, 2 * MIB),)
        result = transfer.publish_image(client, made)
        data = sum(index_file(made.content(one)).data_bytes for one in made.manifest.contents())
        assert result.sent == data - 2 * MIB


def test_content_of_zeros_is_published_without_sending_any(service: Service, star: Vo, tmp_path: Path) -> None:
    """A partition that is one hole costs nothing on the wire or on the disk."""
    blobs = tmp_path / "image" / "blobs"
    blobs.mkdir(parents=True)
    with (blobs / "new").open("wb") as file:
        file.truncate(64 * MIB)
    address = index_file(blobs / "new").address
    (blobs / "new").rename(blobs / str(address))
    from catalog.image.bundle import Bundle

    made = star.endorse(Bundle.create(tmp_path / "image", manifest([address])))
    with service.client() as client:
        assert transfer.publish_image(client, made).sent == 0
    assert (service.directory / "blobs" / str(address)[:2] / str(address)).stat().st_blocks == 0


def test_a_name_and_version_never_change_their_meaning(service: Service, star: Vo, tmp_path: Path) -> None:
    """Other content under a published name@version is refused before anything is sent, and leaves nothing behind."""
    first = star.endorse(bundle(tmp_path / "first", partitions=1))
    other = star.endorse(bundle(tmp_path / "other", partitions=1, seed=5))
    with service.client() as client:
        transfer.publish_image(client, first)
        before = files(service.directory)
        with pytest.raises(Conflict, match=r"star/worker@1\.0 is published and names sha256:"):
            transfer.publish_image(client, other)
        assert client.resolve(Reference.parse("star/worker@1.0")) == first.manifest.image_id
    assert files(service.directory) == before


def test_of_two_publications_of_one_name_the_first_to_commit_wins(service: Service, star: Vo, tmp_path: Path) -> None:
    """The race for a name@version is decided in the transaction that makes the image visible."""
    first = star.endorse(bundle(tmp_path / "first", partitions=1))
    other = star.endorse(bundle(tmp_path / "other", partitions=1, seed=5))
    with service.client() as client:
        publication = client.begin(other.manifest.canonical(), other.endorsements())
        for one in publication.missing:
            for offset, length in index_file(other.content(one.address)).extents():
                with other.content(one.address).open("rb") as file:
                    file.seek(offset)
                    client.send_range(publication.image_id, one.address, offset, file.read(length))
            client.complete(publication.image_id, one.address)
        transfer.publish_image(client, first)
        with pytest.raises(Conflict, match="publish under a new version"):
            client.commit(publication.image_id)


def test_two_clients_publish_the_same_image_at_once(service: Service, star: Vo, tmp_path: Path) -> None:
    """Both succeed, and the image is there once."""
    made = star.endorse(bundle(tmp_path / "image", partitions=2))
    errors: list[BaseException] = []

    def run() -> None:
        try:
            with service.client() as client:
                transfer.publish_image(client, made)
        except BaseException as exc:  # noqa: BLE001 - whatever it is, the test shows it
            errors.append(exc)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    with service.client() as client:
        assert [one.image_id for one in client.images()] == [made.manifest.image_id]
    assert names(service) == {"blobs"}


REFUSED = [
    ("the VO is not registered", {"vo": "cms"}, "star", "the VO cms is not registered here"),
    (
        "the key is registered for another VO only",
        {"vo": "atlas"},
        "star",
        "no endorsement by a registered key of atlas",
    ),
    ("the key is registered nowhere", {}, "stranger", "no endorsement by a registered key of star"),
]


@pytest.mark.parametrize(("sentence", "identity", "who", "wanted"), REFUSED, ids=[row[0] for row in REFUSED])
def test_who_may_not_publish(
    service: Service, vos: dict[str, Vo], tmp_path: Path, sentence: str, identity: dict[str, str], who: str, wanted: str
) -> None:
    """Nothing is stored for who is not entitled."""
    made = vos[who].endorse(bundle(tmp_path / "image", partitions=1, **identity))
    with service.client() as client, pytest.raises(NotEntitled, match=wanted):
        transfer.publish_image(client, made)
    assert files(service.directory) == []
    with service.client() as client, pytest.raises(NotFound):
        client.upload_status(made.manifest.image_id, made.manifest.contents()[0])


def test_an_image_without_endorsement_is_not_even_offered(service: Service, tmp_path: Path) -> None:
    """Zero signatures are a refusal, before a byte leaves."""
    with service.client() as client, pytest.raises(Misused, match="has no endorsement"):
        transfer.publish_image(client, bundle(tmp_path / "image", partitions=1))


def test_another_role_than_the_registered_one_does_not_count(service: Service, star: Vo, tmp_path: Path) -> None:
    """A key vouches in the role that the operator registered it with."""
    made = star.endorse(bundle(tmp_path / "image", partitions=1), role="reviewer")
    with service.client() as client, pytest.raises(NotEntitled, match="role reviewer"):
        transfer.publish_image(client, made)


def test_an_endorsement_of_another_image_does_not_count(service: Service, star: Vo, tmp_path: Path) -> None:
    """The statement names the image; it cannot be carried over."""
    first = star.endorse(bundle(tmp_path / "first", partitions=1))
    other = bundle(tmp_path / "other", partitions=1, seed=5)
    for pair in first.endorsements():
        other.add_endorsement(*pair)
    with service.client() as client, pytest.raises(NotEntitled, match="about another image"):
        transfer.publish_image(client, other)


def test_only_endorsements_that_count_are_kept(service: Service, vos: dict[str, Vo], tmp_path: Path) -> None:
    """A stranger's endorsement beside a good one is not passed on under the catalog's name."""
    made = vos["stranger"].endorse(vos["star"].endorse(bundle(tmp_path / "image", partitions=1)))
    with service.client() as client:
        transfer.publish_image(client, made)
        assert len(made.endorsements()) == 2
        assert len(client.endorsements(made.manifest.image_id)) == 1


def test_later_endorsements_are_added_all_or_none(service: Service, vos: dict[str, Vo], tmp_path: Path) -> None:
    """The same rule holds after publication."""
    made = vos["star"].endorse(bundle(tmp_path / "image", partitions=1))
    with service.client() as client:
        transfer.publish_image(client, made)
        service.register(vos["stranger"].anchor(vo="star"))
        both = vos["stranger"].endorse(vos["atlas"].endorse(made)).endorsements()
        with pytest.raises(NotEntitled):
            client.endorse(made.manifest.image_id, both)
        assert len(client.endorsements(made.manifest.image_id)) == 1
        second = [pair for pair in both if vos["stranger"].fingerprint.encode() in pair[0]]
        client.endorse(made.manifest.image_id, second)
        client.endorse(made.manifest.image_id, second)
        assert len(client.endorsements(made.manifest.image_id)) == 2
        with pytest.raises(NotFound):
            client.endorse("sha256:" + "0" * 64, second)


def test_content_that_is_not_what_it_says_is_dropped(service: Service, star: Vo, tmp_path: Path) -> None:
    """Altered bytes never enter the store, and the next attempt begins afresh."""
    made = star.endorse(bundle(tmp_path / "image", partitions=1, size=MIB))
    address = made.manifest.contents()[1]
    data = made.content(address).read_bytes()
    with service.client() as client:
        image_id = client.begin(made.manifest.canonical(), made.endorsements()).image_id
        client.send_range(image_id, address, 0, b"X" + data[1:])
        with pytest.raises(ContentMismatch, match="were deleted"):
            client.complete(image_id, address)
        assert client.upload_status(image_id, address).received == ()
        assert files(service.directory) == []
        with pytest.raises(Conflict, match="lacks 2 contents"):
            client.commit(image_id)
        transfer.publish_image(client, made)


def test_a_directory_that_was_altered_is_not_sent(service: Service, star: Vo, tmp_path: Path) -> None:
    """The publisher hears of it before anything leaves."""
    made = star.endorse(bundle(tmp_path / "image", partitions=1))
    path = made.content(made.manifest.contents()[1])
    with path.open("r+b") as file:
        file.write(b"altered")
    with service.client() as client, pytest.raises(ContentMismatch, match="its content has the root"):
        transfer.publish_image(client, made)


def test_an_image_larger_than_the_limit_is_refused_at_once(tmp_path: Path, star: Vo) -> None:
    """Before anything is stored, with both figures."""
    made = star.endorse(bundle(tmp_path / "image", partitions=1))
    with Service(tmp_path, limit=5 * MIB - 1) as service:
        service.register(star.anchor())
        with service.client() as client, pytest.raises(TooLarge, match=f"{5 * MIB} bytes of content"):
            transfer.publish_image(client, made)
        assert files(service.directory) == []


def test_a_key_removed_meanwhile_does_not_publish(service: Service, star: Vo, tmp_path: Path) -> None:
    """The decision is taken again in the transaction that makes the image visible."""
    made = star.endorse(bundle(tmp_path / "image", partitions=0))
    address = made.manifest.contents()[0]
    with service.client() as client:
        image_id = client.begin(made.manifest.canonical(), made.endorsements()).image_id
        client.send_range(image_id, address, 0, made.content(address).read_bytes())
        assert client.complete(image_id, address).complete
        database = CatalogDatabase(service.directory / "catalog.db")
        with database.writing() as connection:
            assert registry.remove_key(connection, "star", star.fingerprint)
            assert not registry.remove_key(connection, "star", star.fingerprint)
        database.close()
        with pytest.raises(NotEntitled, match="has lost its endorsement"):
            client.commit(image_id)
        with pytest.raises(NotFound):
            client.manifest(image_id)


def test_a_publication_that_nobody_continues_is_forgotten_with_its_content(tmp_path: Path, star: Vo) -> None:
    """Also the contents that were already verified for it, unless another image has them."""
    made = star.endorse(bundle(tmp_path / "image", partitions=1))
    kernel, part = made.manifest.contents()
    settings = CatalogSettings(directory=tmp_path / "catalog", tuf_bits=6)
    with own_directory(settings.directory, settings, now()) as (publishing, _):
        register(publishing, star)
        publishing.begin(made.manifest.canonical().decode(), offered(made.endorsements()), now())
        for address in (kernel, part):
            with publishing.receive_range(made.manifest.image_id, address, 0, 16384) as arriving:
                assert arriving is not None
                arriving.write(made.content(address).read_bytes()[:16384])
                publishing.keep_range(made.manifest.image_id, address, arriving)
        copy(publishing, made.content(kernel), made.manifest)
        publishing.complete(made.manifest.image_id, kernel, now())
        assert publishing.expire(now() + timedelta(days=6)) == 0
        assert len(files(settings.directory)) == 5
        assert publishing.expire(now() + timedelta(days=8)) == 1
        assert files(settings.directory) == []
        with pytest.raises(NotFound):
            publishing.status(made.manifest.image_id, part)
        with publishing.database.reading() as connection:
            assert not holdings.image_has_content(connection, made.manifest.image_id, part)
            assert registry.list_endorsements(connection, made.manifest.image_id) == []
