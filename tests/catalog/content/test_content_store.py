"""The directory of contents: the write protocol, and recovery from every state that a death can leave."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from catalog.content.content_store import ACCELERATORS, ContentStore, accelerator_sizes
from catalog.content.indexing import index_file
from catalog.db import images as registry
from catalog.db import publications as holdings
from catalog.errors import ContentMismatch, NotFound, Unavailable
from catalog.image.address import Address
from catalog.image.bundle import Bundle
from catalog.publication.images import PublicationService
from catalog.publication.state_directory import RecoveryReport, check_contents, own_directory
from catalog.schema.images import Publication, SignedStatement
from catalog.settings import CatalogSettings
from tests.support.catalog.service_process import Vo, files, now
from tests.support.factories import MIB, bundle, content


@pytest.mark.parametrize("size", [1, 511, 16384, 16385, 65536, 65537, 300_000, 5 * MIB + 1])
def test_the_sizes_of_accelerators_follow_from_the_address(tmp_path: Path, size: int) -> None:
    """What a client expects is what measuring makes."""
    address = content(tmp_path / "content", size)
    measured = index_file(tmp_path / "content")
    assert accelerator_sizes(address) == {
        "map": len(measured.data_map),
        "layer": len(measured.layer),
        "hints": len(measured.hints),
    }


def test_entering_makes_a_content_whole_read_only_and_durable(tmp_path: Path) -> None:
    """Synced before it is verified, its directory after it is renamed."""
    synced: list[str] = []

    def sync(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        os.fsync(descriptor)

    contents = ContentStore(tmp_path / "store", sync)
    file = tmp_path / "store" / "uploads" / "arriving"
    address = content(file, 5 * MIB)
    synced.clear()
    measured = contents.enter(file, address)
    path = contents.path(address)
    assert (path.exists(), file.exists(), path.stat().st_mode & 0o777) == (True, False, 0o444)
    assert path.stat().st_blocks * 512 < 5 * MIB
    assert synced[0] == "arriving"
    assert synced[-1] == path.parent.name
    assert [name.rsplit(".", 2)[0] for name in synced if name.endswith(".new")] == [
        f".{address}.{kind}" for kind in ACCELERATORS
    ]
    assert contents.is_whole(address)
    assert contents.accelerator(address, "layer") == measured.layer
    descriptor = contents.open(address)
    assert os.pread(descriptor, 10, 0) == path.read_bytes()[:10]
    os.close(descriptor)


def test_other_content_does_not_enter(tmp_path: Path) -> None:
    """It stays where it was, and nothing appears."""
    contents = ContentStore(tmp_path / "store")
    file = tmp_path / "store" / "uploads" / "arriving"
    content(file, MIB)
    with pytest.raises(ContentMismatch):
        contents.enter(file, Address(bytes(32), MIB))
    with pytest.raises(ContentMismatch):
        contents.enter(file, Address(bytes(32), MIB + 1))
    assert files(tmp_path / "store") == ["uploads/arriving"]
    with pytest.raises(NotFound):
        contents.open(Address(bytes(32), MIB))
    with pytest.raises(NotFound):
        contents.accelerator(Address(bytes(32), MIB), "map")


class Store:
    """A store that the test owns: opened and abandoned as often as it likes, as if the service had died."""

    def __init__(self, root: Path, star: Vo, made: Bundle | None = None) -> None:
        self.directory, self.star = root / "catalog", star
        self.settings = CatalogSettings(directory=self.directory, tuf_bits=6)
        self.made = made or star.endorse(bundle(root / "image", partitions=1, size=2 * MIB))
        self.address = self.made.manifest.contents()[0]
        with self.opened() as (publishing, _), publishing.database.writing() as connection:
            registry.register_vo(connection, "star", now())
            registry.register_key(connection, star.anchor(), now())

    def opened(self) -> "Opened":
        """Take it over, recovering it."""
        return Opened(self.settings)

    def begin(self, publishing: PublicationService) -> Publication:
        """Begin the publication."""
        offered = [SignedStatement.of(*pair) for pair in self.made.endorsements()]
        return publishing.begin(self.made.manifest.canonical().decode(), offered, now())

    def send(self, publishing: PublicationService, address: Address) -> None:
        """Send a whole content."""
        data = self.made.content(address).read_bytes()
        with publishing.receive_range(self.made.manifest.image_id, address, 0, len(data)) as arriving:
            if arriving is not None:
                arriving.write(data)
                publishing.keep_range(self.made.manifest.image_id, address, arriving)

    def publish(self) -> RecoveryReport:
        """Publish whatever is still missing; returns what recovery found before."""
        with self.opened() as (publishing, recovery):
            for missing in self.begin(publishing).missing:
                self.send(publishing, missing.address)
                publishing.complete(self.made.manifest.image_id, missing.address, now())
            publishing.commit(self.made.manifest.image_id, now())
        return recovery

    def path(self, kind: str = "") -> Path:
        """The first content's file, or one beside it."""
        text = str(self.address)
        return self.directory / "blobs" / text[:2] / (text + kind)


class Opened:
    """A store in use; leaving the block without ceremony is the same as dying."""

    def __init__(self, settings: CatalogSettings) -> None:
        self._owned = own_directory(settings.directory, settings, now())

    def __enter__(self) -> tuple[PublicationService, RecoveryReport]:
        return self._owned.__enter__()

    def __exit__(self, *_: object) -> None:
        self._owned.__exit__(None, None, None)


@pytest.fixture
def store(tmp_path: Path, star: Vo) -> Store:
    """A store with a registered VO and an image to publish."""
    return Store(tmp_path, star)


def renamed_but_not_recorded(store: Store) -> None:
    """The service died between the renaming and the database."""
    with store.opened() as (publishing, _):
        store.begin(publishing)
        store.send(publishing, store.address)
        publishing.contents.enter(publishing.uploads.path(store.made.manifest.image_id, store.address), store.address)


def renamed_with_other_content(store: Store) -> None:
    """As before, and the disk lied."""
    renamed_but_not_recorded(store)
    store.path().chmod(0o644)
    with store.path().open("r+b") as file:
        file.write(b"lies")


def accelerators_only(store: Store) -> None:
    """The service died before the content was renamed."""
    renamed_but_not_recorded(store)
    store.path().unlink()


def half_an_accelerator(store: Store) -> None:
    """The service died while it wrote one."""
    store.path().parent.mkdir()
    (store.path().parent / f".{store.address}.map.0123abcd.new").write_bytes(b"half")


def stray_upload(store: Store) -> None:
    """A file arrived for what is no part of anything pending."""
    directory = store.directory / "uploads" / ("0" * 64)
    directory.mkdir()
    (directory / str(store.address)).write_bytes(b"stray")


def somebodys_notes(store: Store) -> None:
    """An operator left something among the contents."""
    store.path().parent.mkdir()
    (store.path().parent / "notes.txt").write_text("do not delete")


def misplaced_content(store: Store) -> None:
    """A content under the wrong two digits."""
    wrong = store.directory / "blobs" / "zz"
    wrong.mkdir()
    (wrong / str(store.address)).write_bytes(store.made.content(store.address).read_bytes())


def content_that_nothing_names(store: Store) -> None:
    """Whole, right, and wanted by nobody."""
    file = store.directory / "uploads" / "x"
    with store.opened() as (publishing, _):
        address = content(file, MIB, seed=99)
        publishing.contents.enter(file, address)


def lost_upload(store: Store) -> None:
    """Ranges were acknowledged, and the file is gone."""
    with store.opened() as (publishing, _):
        store.begin(publishing)
        store.send(publishing, store.address)
        publishing.uploads.path(store.made.manifest.image_id, store.address).unlink()


def lost_content(store: Store) -> None:
    """A published content is gone."""
    store.publish()
    store.path().unlink()


def truncated_content(store: Store) -> None:
    """A published content is shorter than it was."""
    store.publish()
    store.path().chmod(0o644)
    os.truncate(store.path(), 100)


def lost_accelerator(store: Store) -> None:
    """A published content's hints are gone."""
    store.publish()
    store.path(".hints").unlink()


def arrived_and_entered(store: Store) -> None:
    """The content is there, and its upload still lies around."""
    with store.opened() as (publishing, _):
        image_id = store.begin(publishing).image_id
        store.send(publishing, store.address)
        publishing.complete(image_id, store.address, now())
        publishing.uploads.path(image_id, store.address).parent.mkdir(exist_ok=True)
        publishing.uploads.path(image_id, store.address).write_bytes(b"left over")


STATES: list[tuple[Callable[[Store], None], str, int]] = [
    (renamed_but_not_recorded, "adopted", 0),
    (renamed_with_other_content, "quarantined", 1),
    (accelerators_only, "removed", 0),
    (half_an_accelerator, "removed", 0),
    (stray_upload, "removed", 0),
    (somebodys_notes, "quarantined", 1),
    (misplaced_content, "quarantined", 1),
    (content_that_nothing_names, "removed", 0),
    (lost_upload, "lost", 0),
    (lost_content, "lost", 0),
    (truncated_content, "lost", 1),
    (lost_accelerator, "repaired", 0),
    (arrived_and_entered, "removed", 0),
]


@pytest.mark.parametrize(("state", "kind", "aside"), STATES, ids=[row[0].__name__ for row in STATES])
def test_recovery(store: Store, state: Callable[[Store], None], kind: str, aside: int) -> None:
    """What a death left is explained; then publishing goes on to its end, and nothing lies around."""
    state(store)
    with store.opened() as (_, recovery):
        found = {name for name, items in vars(recovery).items() if items}
        assert kind in found, recovery
    with store.opened() as (_, again):
        assert again == RecoveryReport(), "recovery is done once"
    store.publish()
    report = check_contents(store.directory)
    assert (report.lost, report.quarantined, len(report.checked)) == ([], [], 2)
    elsewhere = [name for name in files(store.directory) if not name.startswith("blobs/")]
    assert len([name for name in elsewhere if name.startswith("quarantine/")]) == aside == len(elsewhere)


def test_a_check_finds_one_altered_bit_and_changes_nothing(store: Store) -> None:
    """In a content, and in what lies beside it."""
    store.publish()
    assert len(check_contents(store.directory).checked) == 2
    for path in (store.path(), store.path(".layer")):
        path.chmod(0o644)
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
        report = check_contents(store.directory)
        assert report.lost == [str(store.address)]
        assert len(report.checked) == 1
        data[-1] ^= 1
        path.write_bytes(data)
    assert check_contents(store.directory).lost == []


def test_a_service_dies_at_every_sync_and_loses_nothing(tmp_path: Path, star: Vo) -> None:
    """Publishing fails at its n-th sync, for every n; then a new service finishes it, and nothing lies around."""
    fired, made = 0, star.endorse(bundle(tmp_path / "image", partitions=1, size=2 * MIB))
    while True:
        root = tmp_path / str(fired)
        store = Store(root, star, made)
        left = fired

        def sync(descriptor: int) -> None:
            nonlocal left
            if left == 0:
                raise OSError(5, "Input/output error")
            left -= 1
            os.fsync(descriptor)

        with store.opened() as (publishing, _):
            publishing.contents._sync = sync
            try:
                store.begin(publishing)
                for address in store.made.manifest.contents():
                    store.send(publishing, address)
                    publishing.complete(store.made.manifest.image_id, address, now())
            except Unavailable:
                assert publishing.contents.broken
            else:
                break
            with publishing.database.reading() as connection:
                held = [one for one in store.made.manifest.contents() if holdings.has_content(connection, one)]
        store.publish()
        report = check_contents(store.directory)
        assert (report.lost, report.quarantined, len(report.checked)) == ([], [], 2)
        assert [name for name in files(store.directory) if not name.startswith("blobs/")] == []
        assert len(held) <= 1
        fired += 1
    assert fired >= 14, "two contents, each with its upload, its data, three accelerators and their directories"


def test_bundles_are_what_the_store_serves(store: Store) -> None:
    """The same file, byte for byte."""
    store.publish()
    assert store.path().read_bytes() == Bundle.open(store.made.root).content(store.address).read_bytes()
