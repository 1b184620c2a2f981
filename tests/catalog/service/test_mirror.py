"""Mirrors: complete copies that withhold at worst, and nodes that fail over between them and the catalog."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from catalog.api.app import create_app
from catalog.client import transfer
from catalog.client.client import CatalogClient
from catalog.client.transfer import fetch_image
from catalog.client.trusted import TrustedCatalog
from catalog.errors import ContentMismatch, Misused, NotFound, Unavailable, Unverified
from catalog.image.reference import Reference
from catalog.publication.state_directory import check_contents, own_directory
from catalog.service.mirror import Mirror, run_mirror
from catalog.settings import CatalogSettings
from catalog.tuf_repository import store
from tests.catalog.client.test_trusted import WORKER
from tests.support import factories
from tests.support.catalog.fake_tuf_repository import URL, Repository
from tests.support.catalog.service_process import Service, Vo, first_root, now


@contextmanager
def mirror_of(client: CatalogClient, directory: Path) -> Iterator[Mirror]:
    """A mirror of a catalog in a directory of its own."""
    settings = CatalogSettings(directory=directory)
    with own_directory(directory, settings, now(), mirror=True) as (publishing, _):
        yield Mirror(publishing, client)


@pytest.fixture
def published(service: Service, star: Vo, tmp_path: Path) -> Service:
    """A catalog with star/worker@1.0."""
    bundle = star.endorse(factories.bundle(tmp_path / "image", size=1 << 20))
    with service.client() as client:
        transfer.publish_image(client, bundle)
    return service


def test_a_mirror_is_a_complete_copy_and_brings_only_what_is_new(published: Service, star: Vo, tmp_path: Path) -> None:
    """Byte for byte in metadata; contents verified; a second step costs one small request."""
    with published.client() as client, mirror_of(client, tmp_path / "mirror") as mirror:
        first = mirror.step(now())
        assert (first.changed, first.images) == (True, 1)
        assert mirror.step(now()) == type(first)(changed=False, version=first.version)
        second = star.endorse(factories.bundle(tmp_path / "second", size=1 << 20, version="2.0", seed=5))
        transfer.publish_image(client, second)
        step = mirror.step(now())
        assert step.images == 1
        assert step.metadata <= 4 + 3
        with mirror._database.reading() as connection:
            timestamp = store.latest_metadata(connection, "timestamp")
        assert timestamp is not None
        assert timestamp.data == client.tuf_file("metadata/timestamp.json", 1 << 20)
    assert check_contents(tmp_path / "mirror").lost == []
    assert len(check_contents(tmp_path / "mirror").checked) == 6


def test_a_node_fails_over_to_a_mirror_and_back(published: Service, star: Vo, tmp_path: Path) -> None:
    """With the catalog dead, everything but what it withheld is there; restarted, it is asked first again."""
    root = first_root(published.url)
    with published.client() as client, mirror_of(client, tmp_path / "m" / "catalog") as mirror:
        mirror.step(now())
    with Service(tmp_path / "m", mirror_of=published.url) as running:
        clock = iter(range(0, 100_000, 100))
        with TrustedCatalog(
            tmp_path / "site", lambda: root, [published.url, running.url], now, clock=lambda: float(next(clock))
        ) as site:
            first = site.resolve(WORKER)
            newer = star.endorse(factories.bundle(tmp_path / "newer", size=1 << 20, version="2.0", seed=9))
            published.kill()
            assert site.resolve(WORKER) == first
            assert fetch_image(site, WORKER, tmp_path / "fetched").manifest.image_id == first
            with running.client() as reading:
                assert [one.version for one in reading.images()] == ["1.0"]
                assert len(reading.endorsements(first)) == 1
                with pytest.raises(NotFound):
                    reading.begin(newer.manifest.canonical(), newer.endorsements())
            published.start()
            with published.client() as client:
                transfer.publish_image(client, newer)
            assert site.resolve(WORKER) == newer.manifest.image_id


def test_a_mirror_that_is_behind_does_not_hide_what_is_newer(tmp_path: Path) -> None:
    """What is not listed there is asked of the catalog; what is older than what was seen is refused."""
    repository = Repository()
    repository.image("1.0")
    old = {path.replace("/tuf", "/mirror/tuf"): body for path, body in repository.files.items()}
    repository.image("2.0")
    repository.files |= old
    with repository.catalog(tmp_path / "a", f"{URL}/mirror") as site:
        newest = site.resolve(WORKER)
        assert newest == site.resolve(Reference.parse("star/worker@2.0"))
        del repository.files["/tuf/metadata/timestamp.json"]
        with pytest.raises(Unverified):  # the mirror alone, with yesterday's word
            site.resolve(WORKER)
    with repository.catalog(tmp_path / "b", f"{URL}/mirror") as fresh_site:
        with pytest.raises(NotFound):
            fresh_site.resolve(Reference.parse("star/worker@2.0"))  # withheld, not forged
        assert fresh_site.resolve(WORKER) != newest


def test_a_mirror_that_was_taken_over_cannot_forge(tmp_path: Path) -> None:
    """Other bytes for a target from the first source are refused, and the second source's are taken."""
    repository = Repository()
    first = repository.image("1.0")
    repository.files |= {
        path.replace("/tuf", "/mirror/tuf"): body for path, body in list(repository.files.items()) if "/tuf" in path
    }
    for path, body in list(repository.files.items()):
        if path.startswith("/tuf/targets/names") and body is not None:
            repository.files[path] = body.replace(b"star", b"evil")
    with repository.catalog(tmp_path, f"{URL}/mirror") as site:
        assert site.resolve(WORKER) == first.image_id


def test_a_mirror_takes_nothing_that_does_not_fit_together(published: Service, tmp_path: Path) -> None:
    """Wrong contents, targets or snapshots from the catalog end the step, and nothing of it is served."""

    class Lying(CatalogClient):
        lie = ""

        def tuf_file(self, path: str, limit: int) -> bytes:
            data = super().tuf_file(path, limit)
            return data[:-1] + b"\n" if self.lie and self.lie in path else data

        def content_range(self, address: object, start: int, end: int) -> Iterator[bytes]:
            yield bytes(end - start) if self.lie == "blob" else b"".join(super().content_range(address, start, end))

    with Lying(published.url) as client, mirror_of(client, tmp_path / "mirror") as mirror:
        for lie, error in (("snapshot", Unverified), ("targets/images", ContentMismatch), ("blob", ContentMismatch)):
            client.lie = lie
            with pytest.raises(error):
                mirror.step(now())
            with mirror._database.reading() as connection:
                assert store.latest_metadata(connection, "timestamp") is None
        client.lie = ""
        assert mirror.step(now()).images == 1


def test_a_mirrors_directory_is_not_served_as_a_catalog(published: Service, tmp_path: Path) -> None:
    with published.client() as client, mirror_of(client, tmp_path / "mirror") as mirror:
        mirror.step(now())
    settings = CatalogSettings(directory=tmp_path / "mirror")
    with pytest.raises(Misused, match="directory of a mirror"), own_directory(tmp_path / "mirror", settings, now()):
        pass


def test_a_mirror_has_no_routes_of_publishers(tmp_path: Path) -> None:
    with own_directory(tmp_path, CatalogSettings(directory=tmp_path), now(), mirror=True) as (publishing, _):
        paths = create_app(publishing, now, mirror=True).openapi()["paths"]
    assert not [path for path in paths if "publications" in path]
    assert [path for path, methods in paths.items() if "post" in methods and "swarms" not in path] == []


def test_mirroring_goes_on_when_the_catalog_is_away(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It says so once, and ends when told."""

    class Away:
        steps = 0

        def step(self, _now: object) -> None:
            self.steps += 1
            if self.steps == 3:
                ended.set()
            raise Unavailable("the catalog is away")

    ended, away = threading.Event(), Away()
    with caplog.at_level(logging.WARNING):
        run_mirror(away, 0.01, ended, now)  # type: ignore[arg-type]
    assert away.steps == 3
    assert caplog.text.count("the catalog is away") == 1
