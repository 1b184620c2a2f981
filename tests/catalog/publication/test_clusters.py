"""Cluster documents in a catalog: who may publish and endorse, what no kind of statement may stand for, what is current."""

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import httpx2
import pytest

from catalog.client.trusted import TrustedCatalog
from catalog.errors import CatalogError, Conflict, Equivocation, Malformed, Misused, NotEntitled, NotFound
from catalog.image.reference import Reference
from catalog.publication.state_directory import open_database, own_directory
from catalog.service.mirror import Mirror
from catalog.settings import CatalogSettings
from signer.documents import canonical
from signer.errors import DocumentError
from signer.statements.endorsement import parse_endorsement
from signer.verification.endorsements import endorse, verify_endorsements
from signer.verification.signers import KeySigner
from signer.verification.trust import EndorsedSubject
from tests.support.catalog.service_process import Service, Vo, first_root, now

TITLE = "star/batch@1.0"


def document(name: str = "batch", **more: object) -> bytes:
    """Something canonical; to a catalog it means nothing more."""
    return canonical({"name": name, "roles": {"head": {"image": "star/head@1.0"}}} | more)


def digest(data: bytes) -> str:
    """As endorsements name it."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def signer(vo: Vo) -> KeySigner:
    """A VO's key."""
    return KeySigner(vo.keyring, vo.fingerprint)


def vouched(vo: Vo, data: bytes, title: str = TITLE) -> tuple[bytes, bytes]:
    """A VO's endorsement of a document."""
    return endorse(signer(vo), digest(data), title, now(), kind="cluster")


def trusted(place: Path, *urls: str) -> TrustedCatalog:
    """What a site believes of it."""
    root = first_root(urls[0])
    return TrustedCatalog(place, lambda: root, urls, lambda: datetime.now(UTC))


def test_a_document_is_published_listed_and_read_as_current(service: Service, star: Vo, tmp_path: Path) -> None:
    """By name and version, by name alone, and by nobody under another name; it outlives the service."""
    data, newer = document(), document(comment="two heads")
    with service.client() as client, trusted(tmp_path / "site", client.url) as site:
        with pytest.raises(NotFound):
            site.cluster(Reference.parse(TITLE))
        first = client.publish_cluster(data, [vouched(star, data)])
        assert (first.vo, first.name, first.version, first.digest) == ("star", "batch", "1.0", digest(data))
        assert client.publish_cluster(data, [vouched(star, data)]).digest == first.digest
        assert site.cluster(Reference.parse(TITLE)) == (TITLE, data)
        pair = vouched(star, newer, "star/batch@1.1")
        client.publish_cluster(newer, [pair])
        assert site.cluster(Reference.parse("star/batch")) == ("star/batch@1.1", newer)
        assert site.cluster(Reference.parse(TITLE)) == (TITLE, data)
        assert site.cluster_endorsements(digest(newer)) == [pair]
        assert [one.version for one in client.clusters("star")] == ["1.1", "1.0"]
        assert list(client.clusters("atlas")) == []
        with pytest.raises(Misused):
            site.cluster(Reference.parse(digest(data)))
        with pytest.raises(NotFound):
            site.resolve(Reference.parse(TITLE))  # it is no image
        service.kill()
        service.start()
        assert site.cluster(Reference.parse(TITLE)) == (TITLE, data)
        assert {entry.kind for entry in client.history()} >= {"publish", "endorse"}


def test_endorsements_are_added(service: Service, star: Vo, tmp_path: Path) -> None:
    """By registered keys of the VO, each once."""
    data = document()
    with service.client() as client, trusted(tmp_path / "site", client.url) as site:
        client.publish_cluster(data, [vouched(star, data)])
        again = endorse(signer(star), digest(data), TITLE, now(), kind="cluster", comment="looked at twice")
        client.endorse(digest(data), [again], "clusters")
        client.endorse(digest(data), [again], "clusters")
        site.refresh()
        assert len(site.cluster_endorsements(digest(data))) == 2
        with pytest.raises(NotFound):
            client.endorse(digest(b"{}"), [vouched(star, b"{}")], "clusters")


def _image_statement(vos: dict[str, Vo], data: bytes) -> tuple[bytes, bytes]:
    return endorse(signer(vos["star"]), digest(data), TITLE, now())


def _other_document(vos: dict[str, Vo], data: bytes) -> tuple[bytes, bytes]:
    return vouched(vos["star"], document("other"))


def _other_vo(vos: dict[str, Vo], data: bytes) -> tuple[bytes, bytes]:
    return vouched(vos["atlas"], data)


def _stranger(vos: dict[str, Vo], data: bytes) -> tuple[bytes, bytes]:
    return vouched(vos["stranger"], data)


def _swapped(vos: dict[str, Vo], data: bytes) -> tuple[bytes, bytes]:
    return vouched(vos["star"], data)[0], vouched(vos["star"], document("other"))[1]


def _unregistered(vos: dict[str, Vo], data: bytes) -> tuple[bytes, bytes]:
    return vouched(vos["star"], data, "lhcb/batch@1.0")


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (_image_statement, Malformed),
        (_other_document, NotEntitled),
        (_other_vo, NotEntitled),
        (_stranger, NotEntitled),
        (_swapped, NotEntitled),
        (_unregistered, NotEntitled),
    ],
    ids=lambda value: value.__name__.strip("_").replace("_", " "),
)
def test_what_does_not_vouch_for_it_publishes_nothing(
    service: Service,
    vos: dict[str, Vo],
    make: Callable[[dict[str, Vo], bytes], tuple[bytes, bytes]],
    error: type[CatalogError],
) -> None:
    """An image's endorsement with the document's digest, another document's, another VO's, a stranger's, a swapped one."""
    data = document()
    with service.client() as client:
        with pytest.raises(error):
            client.publish_cluster(data, [make(vos, data)])
        assert list(client.clusters()) == []
        client.publish_cluster(data, [vouched(vos["star"], data)])
        with pytest.raises((NotEntitled, DocumentError)):
            client.endorse(digest(data), [make(vos, data)], "clusters")


def test_a_clusters_endorsement_vouches_for_no_image(star: Vo) -> None:
    """Nor the other way round, though digest, name and signer are the same."""
    data = document()
    pair, image = vouched(star, data), endorse(signer(star), digest(data), TITLE, now())
    (check,) = verify_endorsements(EndorsedSubject(digest(data), TITLE), [pair], [star.anchor()], now())
    assert not check.counts
    cluster = EndorsedSubject(digest(data), TITLE, kind="cluster")
    (check,) = verify_endorsements(cluster, [image], [star.anchor()], now())
    assert not check.counts
    (check,) = verify_endorsements(cluster, [pair], [star.anchor()], now())
    assert check.counts
    with pytest.raises(DocumentError):
        parse_endorsement(pair[0])
    with pytest.raises(DocumentError):
        parse_endorsement(image[0], "cluster")


@pytest.mark.parametrize("data", [b"[]", b'{"name": "a"}', b'{"b":1,"a":2}', b'{"a"', b"\xff\xff"])
def test_only_canonical_objects_are_documents(service: Service, star: Vo, data: bytes) -> None:
    """Whatever else has a digest, too, but no single form."""
    with service.client() as client, pytest.raises((Malformed, DocumentError)):
        client.publish_cluster(data, [vouched(star, data)])


def test_a_name_stands_for_one_document(service: Service, star: Vo, tmp_path: Path) -> None:
    """The catalog refuses another; a site that is told of one all the same raises the alarm."""
    data, other = document(), document("other")
    with service.client() as client:
        client.publish_cluster(data, [vouched(star, data)])
        with pytest.raises(Conflict, match="publish under a new version"):
            client.publish_cluster(other, [vouched(star, other)])
        with pytest.raises(Conflict, match="is published as"):
            client.publish_cluster(data, [vouched(star, data, "star/again@1.0")])
        with trusted(tmp_path / "site", client.url) as site:
            site.cluster(Reference.parse(TITLE))
            site._names._seen[f"cluster:{TITLE}"] = digest(other)  # type: ignore[index]
            with pytest.raises(Equivocation):
                site.cluster(Reference.parse(TITLE))


def test_a_mirror_has_documents_too(service: Service, star: Vo, tmp_path: Path) -> None:
    """A site reads them from it when the catalog does not answer."""
    data = document()
    pair = vouched(star, data)
    with service.client() as client:
        client.publish_cluster(data, [pair])
        settings = CatalogSettings(directory=tmp_path / "copy" / "catalog")
        with own_directory(settings.directory, settings, now(), mirror=True) as (publishing, _):
            Mirror(publishing, client).step(now())
    with (
        Service(tmp_path / "copy", mirror_of=service.url) as mirror,
        trusted(tmp_path / "site", service.url, mirror.url) as site,
    ):
        service.kill()
        assert site.cluster(Reference.parse(TITLE)) == (TITLE, data)
        assert site.cluster_endorsements(digest(data)) == [pair]


def test_documents_are_listed_again_after_a_restore(service: Service, star: Vo) -> None:
    """Metadata that does not know them learns of them."""
    data = document()
    with service.client() as client:
        client.publish_cluster(data, [vouched(star, data)])
    service.kill()
    database = open_database(service.directory)
    with database.writing() as connection:
        connection.exec_driver_sql("DELETE FROM tuf_targets WHERE path LIKE 'cluster%'")
    database.close()
    service.start()
    with service.client() as client, trusted(service.directory.parent / "site", client.url) as site:
        assert site.cluster(Reference.parse(TITLE)) == (TITLE, data)


def test_lists_come_page_by_page(service: Service, star: Vo) -> None:
    """All of them, the last published first."""
    with service.client() as client:
        for number in range(3):
            data = document(f"c{number}")
            client.publish_cluster(data, [vouched(star, data, f"star/c{number}@1")])
        assert [one.name for one in client.clusters()] == ["c2", "c1", "c0"]
        found, cursor = list[str](), None
        while True:
            with httpx2.Client(base_url=client.url, timeout=60) as plain:
                page = plain.get("/v1/clusters", params={"limit": 2} | ({"cursor": cursor} if cursor else {})).json()
            found += [one["name"] for one in page["items"]]
            cursor = page.get("next")
            if cursor is None:
                break
        assert found == ["c2", "c1", "c0"]
