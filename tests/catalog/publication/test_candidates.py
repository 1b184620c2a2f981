"""Images that sites offer and nobody has endorsed: who may offer and see them, and how one becomes an image."""

import hashlib
import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from catalog.access import rule_store
from catalog.access.rules import RegisteredSite, format_credential
from catalog.client import transfer
from catalog.client.client import CatalogClient
from catalog.client.transfer import offer_candidate
from catalog.errors import Conflict, Malformed, NotEntitled, NotFound, TooLarge
from catalog.image.bundle import Bundle
from catalog.image.manifest import Manifest
from catalog.image.reference import Reference
from catalog.publication import candidates as limits
from catalog.publication.state_directory import open_database
from signer.documents import validate
from signer.errors import DocumentError
from signer.openpgp.keyring import Keyring
from tests.support import factories
from tests.support.catalog.service_process import Service, Vo, now

SECRET = "s" * 43


@dataclass
class World:
    """A catalog with star/worker@1.0, and three sites: `lyon` and `bnl` serve star, `tum` serves atlas."""

    service: Service
    star: Vo
    parent: Bundle
    place: Path

    def client(self, site: str = "") -> CatalogClient:
        """A connection that shows a site's credential, or none."""
        return CatalogClient(self.service.url, credential=format_credential(site, SECRET) if site else "")

    def saved(self, version: str, seed: int = 9, **changes: Any) -> Bundle:
        """What a machine of the parent was saved as: its first content is another."""
        root = self.place / uuid.uuid4().hex
        (root / "blobs").mkdir(parents=True)
        first, *others = self.parent.manifest.contents()
        fresh = factories.content(root / "blobs" / "new", first.size, seed=seed)
        (root / "blobs" / "new").rename(root / "blobs" / str(fresh))
        for address in others:
            (root / "blobs" / str(address)).hardlink_to(self.parent.content(address))
        document = json.loads(self.parent.manifest.canonical().replace(str(first).encode(), str(fresh).encode()))
        document["provenance"] = [{"rel": "parent", "href": self.parent.manifest.image_id}]
        return Bundle.create(root, validate(Manifest, document | {"version": version} | changes, "manifest"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    place = tmp_path_factory.mktemp("candidates")
    keyring = Keyring(place / "keys")
    star = Vo(keyring, "star", keyring.generate("Star <star@example.org>"))
    parent = star.endorse(factories.bundle(place / "parent", partitions=2, size=1 << 20, seed=1))
    (place / "service").mkdir()
    with Service(place / "service", limit=8 << 20) as service:
        service.register(star.anchor())
        database = open_database(service.directory)
        digest = hashlib.sha256(SECRET.encode()).hexdigest()
        with database.writing() as connection:
            for name, vo in (("lyon", "star"), ("bnl", "star"), ("tum", "atlas")):
                rule_store.register_site(connection, RegisteredSite(name, frozenset({vo})), digest, now(), renew=False)
        database.close()
        with service.client() as client:
            transfer.publish_image(client, parent)
        yield World(service, star, parent, place)


def test_what_a_site_offers_becomes_an_image_when_its_vo_endorses_it(world: World, tmp_path: Path) -> None:
    """Until then it has no name and nobody else sees it; what was there is not sent again."""
    saved = world.saved("1.1")
    image_id = saved.manifest.image_id
    with world.client("lyon") as lyon, world.client("bnl") as bnl, world.client() as stranger:
        sent = offer_candidate(lyon, saved)
        assert (sent.image_id, sent.title, sent.sent) == (image_id, "star/worker@1.1", 1 << 20)
        again = offer_candidate(lyon, saved)
        assert again.sent == 0
        for site in (lyon, bnl):
            (found,) = site.candidates("star")
            assert (found.image_id, found.version, found.complete) == (image_id, "1.1", True)
        for ask in (
            lambda: stranger.resolve(Reference.parse("star/worker@1.1")),
            lambda: lyon.manifest(image_id),
            lambda: list(lyon.content_range(saved.manifest.contents()[0], 0, 10)),
            lambda: stranger.commit(image_id),
            lambda: transfer.fetch_candidate(stranger, image_id, tmp_path / "stranger"),
        ):
            with pytest.raises((NotFound, NotEntitled, Conflict)):
                ask()
        assert stranger.candidates() == ()
        looked = transfer.fetch_candidate(bnl, image_id, tmp_path / "looked")
        assert looked.manifest == saved.manifest
        assert (
            looked.content(saved.manifest.contents()[0]).read_bytes()
            == saved.content(saved.manifest.contents()[0]).read_bytes()
        )
        assert transfer.publish_image(stranger, world.star.endorse(looked)).sent == 0
        assert stranger.resolve(Reference.parse("star/worker@1.1")) == image_id
        assert lyon.candidates() == ()
        assert lyon.offer(saved.manifest.canonical()).state == "published"


@pytest.mark.parametrize(
    ("attack", "site", "changes", "error"),
    [
        ("somebody without a credential offers an image", "", {}, NotEntitled),
        ("a site offers an image to a VO that it does not serve", "tum", {}, NotEntitled),
        ("a site offers an image to a VO that there is not", "lyon", {"vo": "atlas"}, NotEntitled),
        ("the image was made of none that is published", "lyon", {"provenance": []}, NotEntitled),
        (
            "it says that it was made of one that is not there",
            "lyon",
            {"provenance": [{"rel": "parent", "href": "sha256:" + "0" * 64}]},
            NotEntitled,
        ),
        ("it has the name and version of an image that is published", "lyon", {"version": "1.0"}, Conflict),
        ("it is no manifest", "lyon", {"disks": []}, (Malformed, DocumentError)),
    ],
)
def test_what_is_no_candidate(world: World, attack: str, site: str, changes: dict[str, Any], error: Any) -> None:
    """It is refused, and nothing of it is kept."""
    saved = world.saved("3.0", seed=30)
    document = json.loads(saved.manifest.canonical()) | changes
    text = json.dumps(document, separators=(",", ":"), sort_keys=True).encode()
    with world.client(site) as client, world.client("lyon") as lyon:
        with pytest.raises(error):
            client.offer(text)
        assert lyon.candidates("star") == (), attack


def test_what_is_too_large_or_too_much_is_refused(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A VO's people look at so many; one that waits already may go on."""
    from catalog.access.authorizer import CatalogAuthorizer
    from catalog.content.content_store import ContentStore
    from catalog.publication.candidates import CandidateService
    from catalog.publication.history import History
    from catalog.publication.images import PublicationService
    from catalog.settings import CatalogSettings

    monkeypatch.setattr(limits, "MAX_CANDIDATES", 1)
    database = open_database(world.service.directory)
    try:
        settings = CatalogSettings(directory=world.service.directory, max_image_bytes=4 << 20)
        history = History(tmp_path, now())
        publishing = PublicationService(database, ContentStore(world.service.directory), settings, history)
        found = CandidateService(publishing, CatalogAuthorizer(database, now, lambda: 0.0))
        first, second = (world.saved("4.0", seed=seed).manifest.canonical().decode() for seed in (40, 41))
        assert found.offer(first, "lyon", now()).state == "pending"
        assert not found.waiting("bnl", "star")[0].complete
        with pytest.raises(TooLarge, match="wait for an endorsement"):
            found.offer(second, "lyon", now())
        assert found.offer(first, "bnl", now()).state == "pending"
        small = CandidateService(
            PublicationService(
                database,
                ContentStore(world.service.directory),
                settings.model_copy(update={"max_image_bytes": 2 << 20}),
                history,
            ),
            CatalogAuthorizer(database, now, lambda: 0.0),
        )
        with pytest.raises(TooLarge, match="accepts"):
            small.offer(first, "lyon", now())
        later = now().replace(year=now().year + 1)
        assert publishing.expire(later) == 1  # nobody endorsed it
        assert found.waiting("lyon") == ()
    finally:
        database.close()
