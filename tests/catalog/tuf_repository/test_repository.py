"""Freshness as the catalog publishes it: what one more image rewrites, renewal, rotation, ceremonies; stock TUF reads it."""

import json
import logging
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from tuf.ngclient import Updater

from catalog.client import transfer
from catalog.client.trusted import TrustedCatalog
from catalog.db import images as registry
from catalog.db.engine import CatalogDatabase
from catalog.errors import Conflict, Misused, NotFound, Unavailable
from catalog.image.manifest import Manifest
from catalog.image.reference import Reference
from catalog.publication.state_directory import open_database
from catalog.tuf.keys import key_files, load_key, save_key
from catalog.tuf.metadata import BINS, LIFETIMES, ROOT, SNAPSHOT, TARGETS, TIMESTAMP, MetadataSigner, SignedMetadata
from catalog.tuf.targets import endorsements_path, manifest_path, name_path
from catalog.tuf_repository import store
from catalog.tuf_repository.key_ceremony import KeyCeremony, read_proposal, sign_document
from catalog.tuf_repository.online_signing import KEEP_METADATA
from catalog.tuf_repository.repository import TufRepository
from catalog.tuf_repository.status import list_role_statuses, list_warnings, prepare_repository
from tests.support import factories
from tests.support.catalog.fake_tuf_repository import ADDRESSES, BITS, DAY, NOW
from tests.support.catalog.service_process import Service, Vo, first_root, now

ONE_OF_EACH = {"snapshot", "timestamp"}


@pytest.fixture
def database(tmp_path: Path) -> Iterator[CatalogDatabase]:
    """An empty catalog's."""
    opened = open_database(tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def repository(tmp_path: Path, database: CatalogDatabase) -> TufRepository:
    """A repository, made."""
    found = TufRepository(tmp_path / "tuf")
    with database.writing() as connection:
        found.create(connection, NOW, bits=BITS)
    return found


def publish(database: CatalogDatabase, repository: TufRepository, version: str, at: datetime = NOW) -> Manifest:
    """Make an image visible, as a commit does."""
    manifest = factories.manifest(ADDRESSES, version=version)
    with database.writing() as connection:
        registry.register_vo(connection, "star", at)
        registry.add_image(connection, manifest, at)
        repository.list_image(connection, manifest.image_id, at)
    return manifest


def versions(database: CatalogDatabase) -> dict[str, int]:
    """The newest version of every role that is stored."""
    with database.reading() as connection:
        tops = {role: store.latest_metadata(connection, role) for role in (ROOT, TARGETS, SNAPSHOT, TIMESTAMP)}
        return dict(store.bin_versions(connection)) | {role: one.version for role, one in tops.items() if one}


def test_one_more_image_rewrites_its_bins_snapshot_and_timestamp(
    database: CatalogDatabase, repository: TufRepository
) -> None:
    """At most four bins, however many images there are; root and targets are never touched."""
    for number in range(20):
        before = versions(database)
        publish(database, repository, f"1.{number}")
        after = versions(database)
        changed = {role for role, version in after.items() if before.get(role) != version}
        assert changed >= ONE_OF_EACH
        assert len(changed - ONE_OF_EACH) <= 4
        assert changed.isdisjoint({ROOT, TARGETS})


def test_the_same_again_changes_nothing(database: CatalogDatabase, repository: TufRepository) -> None:
    manifest = publish(database, repository, "1.0")
    before = versions(database)
    with database.writing() as connection:
        repository.list_image(connection, manifest.image_id, NOW)
        repository.list_image(connection, "sha256:" + "0" * 64, NOW)
    assert versions(database) == before


def test_replaced_metadata_is_served_for_a_while(database: CatalogDatabase, repository: TufRepository) -> None:
    publish(database, repository, "1.0")
    old = versions(database)[SNAPSHOT]
    publish(database, repository, "2.0")
    with database.reading() as connection:
        assert repository.metadata(connection, SNAPSHOT, old)
    later = NOW + KEEP_METADATA + timedelta(seconds=1)
    publish(database, repository, "3.0", later)
    publish(database, repository, "4.0", later + KEEP_METADATA + timedelta(seconds=1))
    with database.reading() as connection:
        with pytest.raises(NotFound):
            repository.metadata(connection, SNAPSHOT, old)
        assert repository.metadata(connection, ROOT, 1)


def test_a_bin_without_targets_is_the_same_each_time(
    tmp_path: Path, database: CatalogDatabase, repository: TufRepository
) -> None:
    """It is not stored; two processes make the same bytes of it."""
    with database.reading() as connection:
        stored = store.bin_versions(connection)
        empty = next(f"bin-{number}" for number in range(1 << BITS) if f"bin-{number}" not in stored)
        again = TufRepository(tmp_path / "tuf")
        assert repository.metadata(connection, empty, 1) == again.metadata(connection, empty, 1)
        for role, version in ((empty, 2), ("bin-9", 1), ("bin-", 1), ("snapshot", None)):
            with pytest.raises(NotFound):
                repository.metadata(connection, role, version)


@pytest.mark.parametrize(
    ("after", "renewed"),
    [
        (timedelta(hours=11), set()),
        (timedelta(hours=12), {TIMESTAMP}),
        (LIFETIMES[SNAPSHOT] / 2, {SNAPSHOT, TIMESTAMP}),
    ],
)
def test_online_metadata_is_renewed_at_half_of_its_lifetime(
    database: CatalogDatabase, repository: TufRepository, after: timedelta, renewed: set[str]
) -> None:
    with database.writing() as connection:
        assert set(repository.renew(connection, NOW + after)) == renewed
        assert repository.renew(connection, NOW + after) == []
        assert SignedMetadata.of(repository.latest(connection, TIMESTAMP).data).expires >= NOW + after + timedelta(
            hours=12
        )


def test_bins_are_renewed_too_and_versions_only_grow(database: CatalogDatabase, repository: TufRepository) -> None:
    publish(database, repository, "1.0")
    before = versions(database)
    later = NOW + LIFETIMES[BINS] / 2 + DAY
    with database.writing() as connection:
        done = repository.renew(connection, later)
        assert BINS in done
        assert repository.renew(connection, later) == []
    after = versions(database)
    assert all(after[role] == before[role] + 1 for role in before if role.startswith("bin-"))


def test_the_operator_is_told_at_half_of_the_roots_lifetime(
    database: CatalogDatabase, repository: TufRepository
) -> None:
    def told(at: datetime) -> str:
        with database.reading() as connection:
            # The online metadata has long expired by then: no service renewed it here.
            found = list_warnings(repository, connection, at)
            return "; ".join(one for one in found if not one.startswith(("snapshot", "timestamp")))

    assert "move them to media that are kept offline" in told(NOW)
    for path in key_files(repository.offline):
        path.unlink()
    assert told(NOW + 182 * DAY) == ""
    assert "targets metadata expires on 2027-11-22" in told(NOW + 183 * DAY)
    assert "root metadata expires on 2027-11-22: renew it" in told(NOW + 183 * DAY)
    assert "root metadata expired" in told(NOW + 366 * DAY)
    next(path for path in key_files(repository.online) if path.name.startswith("timestamp")).unlink()
    assert "the key that signs timestamp is missing from" in told(NOW)


def test_without_its_key_nothing_is_published(
    tmp_path: Path, database: CatalogDatabase, repository: TufRepository
) -> None:
    """And nothing of the publication stays: it is one transaction."""
    next(path for path in key_files(repository.online) if path.name.startswith("snapshot")).unlink()
    with pytest.raises(Unavailable, match="the key that signs snapshot"):
        publish(database, TufRepository(tmp_path / "tuf"), "1.0")
    with database.reading() as connection:
        assert registry.find_image(connection, "star", "worker", "1.0") is None


@pytest.mark.parametrize("role", [ROOT, TARGETS, SNAPSHOT, TIMESTAMP, BINS])
def test_every_role_can_be_given_fresh_keys(
    tmp_path: Path, database: CatalogDatabase, repository: TufRepository, role: str
) -> None:
    """With the offline keys at hand it is in force at once, and an old node follows."""
    manifest = publish(database, repository, "1.0")
    with database.writing() as connection:
        before = {one.role: one.keys for one in list_role_statuses(repository, connection)}
        signers = [MetadataSigner(load_key(path)) for path in key_files(repository.offline)]
        outcome = KeyCeremony(repository).rotate(connection, role, signers, None, NOW)
        assert outcome.lacking == ()
        assert outcome.files == ()
        after = {one.role: one.keys for one in list_role_statuses(repository, connection)}
        assert set(after[role]).isdisjoint(before[role])
        assert {name for name in after if after[name] != before[name]} == {role}
        assert repository.metadata(connection, TIMESTAMP, None)
    publish(database, repository, "2.0")
    with database.reading() as connection:
        assert repository.target(
            connection, manifest_path(manifest.image_id), manifest.image_id.removeprefix("sha256:")
        )


def test_a_ceremony_waits_for_enough_signatures(
    tmp_path: Path, database: CatalogDatabase, repository: TufRepository
) -> None:
    """One root key on the catalog's machine, the second elsewhere, on the proposal alone."""
    keys = [path for path in key_files(repository.offline) if path.name.startswith(ROOT)]
    away = tmp_path / "drawer"
    away.mkdir()
    for path in key_files(repository.offline):
        path.rename(away / path.name)
    first, second = (MetadataSigner(load_key(away / path.name)) for path in keys[:2])
    ceremony = KeyCeremony(repository)
    with database.writing() as connection:
        outcome = ceremony.rotate(connection, TIMESTAMP, [first], None, NOW)
        assert outcome.adopted == ()
        assert outcome.lacking == ("1 signatures by the present root keys", "1 signatures by the new root keys")
        with pytest.raises(Misused, match="waits for signatures"):
            ceremony.rotate(connection, SNAPSHOT, [first], None, NOW)
        stranger = MetadataSigner(load_key(next(iter(key_files(repository.online)))))
        assert ceremony.sign(connection, ROOT, [first, stranger], NOW).adopted == ()
        proposal = ceremony.file(ROOT)
        proposal.write_bytes(sign_document(read_proposal(proposal), [second]))
        assert ceremony.sign(connection, ROOT, [], NOW).adopted == (ROOT,)
        assert SignedMetadata.of(repository.latest(connection, ROOT).data).version == 2
        assert repository.root_file.read_bytes() == repository.latest(connection, ROOT).data
    assert not proposal.exists()


def test_root_and_targets_are_renewed_for_another_year(database: CatalogDatabase, repository: TufRepository) -> None:
    signers = [MetadataSigner(load_key(path)) for path in key_files(repository.offline)]
    later = NOW + 200 * DAY
    with database.writing() as connection:
        for role in (ROOT, TARGETS):
            assert KeyCeremony(repository).sign(connection, role, signers, later).adopted == (role,)
            assert SignedMetadata.of(repository.latest(connection, role).data).expires == later + LIFETIMES[role]
        with pytest.raises(Misused, match="the service signs snapshot itself"):
            KeyCeremony(repository).sign(connection, SNAPSHOT, signers, later)


def test_a_proposal_can_be_given_up(database: CatalogDatabase, repository: TufRepository) -> None:
    with database.writing() as connection:
        KeyCeremony(repository).rotate(connection, TIMESTAMP, [], None, NOW)
        assert len(KeyCeremony(repository).drop()) == 1
        assert KeyCeremony(repository).drop() == []
        with pytest.raises(Misused, match="no role"):
            KeyCeremony(repository).rotate(connection, "mirrors", [], None, NOW)


def test_keys_are_for_their_owner_alone_and_never_overwritten(tmp_path: Path, repository: TufRepository) -> None:
    for path in [*key_files(repository.online), *key_files(repository.offline)]:
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.parent.stat().st_mode & 0o777 == 0o700
    key = load_key(key_files(repository.online)[0])
    with pytest.raises(Misused, match="never overwritten"):
        save_key(key_files(repository.online)[0], key)
    save_key(tmp_path / "locked.pem", key, "a passphrase")
    with pytest.raises(Misused, match="has a passphrase"):
        load_key(tmp_path / "locked.pem")
    with pytest.raises(Misused, match="the passphrase is wrong"):
        load_key(tmp_path / "locked.pem", "another")
    assert MetadataSigner(load_key(tmp_path / "locked.pem", "a passphrase")).id == MetadataSigner(key).id


def test_a_repository_is_made_once(tmp_path: Path, database: CatalogDatabase, repository: TufRepository) -> None:
    with pytest.raises(Conflict, match="the TUF repository exists"), database.writing() as connection:
        repository.create(connection, NOW)


def test_an_older_catalog_is_listed_when_it_starts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Images that were published before there was a repository."""
    database = open_database(tmp_path)
    manifests = [factories.manifest(ADDRESSES, version=version) for version in ("1.0", "2.0")]
    with database.writing() as connection:
        registry.register_vo(connection, "star", NOW)
        for manifest in manifests:
            registry.add_image(connection, manifest, NOW)
    repository = TufRepository(tmp_path / "tuf")
    with caplog.at_level(logging.WARNING):
        assert prepare_repository(repository, database, BITS, NOW)
    assert "kept offline" in caplog.text
    with database.reading() as connection:
        listed = store.target_paths(connection)
    assert listed == {
        "revocations.json",
        name_path("star", "worker"),
        *(name_path("star", "worker", one.version) for one in manifests),
        *(manifest_path(one.image_id) for one in manifests),
        *(endorsements_path(one.image_id) for one in manifests),
    }
    assert not prepare_repository(repository, database, BITS, NOW)
    database.close()


def test_a_stock_client_reads_what_a_running_catalog_publishes(service: Service, star: Vo, tmp_path: Path) -> None:
    """python-tuf's own client with its own HTTP, nothing of ours; then our own after one more publication."""
    bundle = star.endorse(factories.bundle(tmp_path / "image", size=1 << 20))
    with service.client() as client:
        transfer.publish_image(client, bundle)
    root = first_root(service.url)
    for place in ("metadata", "targets"):
        (tmp_path / place).mkdir()
    updater = Updater(
        str(tmp_path / "metadata"),
        f"{service.url}/tuf/metadata/",
        str(tmp_path / "targets"),
        f"{service.url}/tuf/targets/",
        bootstrap=root,
    )
    info = updater.get_targetinfo(name_path("star", "worker", "1.0"))
    assert info is not None
    bound = json.loads(Path(updater.download_target(info)).read_bytes())
    assert bound["image_id"] == bundle.manifest.image_id
    info = updater.get_targetinfo(manifest_path(bundle.manifest.image_id))
    assert info is not None
    assert Path(updater.download_target(info)).read_bytes() == bundle.manifest.canonical()
    second = star.endorse(factories.bundle(tmp_path / "second", size=1 << 20, version="2.0", seed=7))
    with (
        service.client() as client,
        TrustedCatalog(tmp_path / "site", lambda: root, [service.url], now) as site,
    ):
        assert site.resolve(Reference.parse("star/worker")) == bundle.manifest.image_id
        assert site.endorsements(bundle.manifest.image_id) == bundle.endorsements()
        transfer.publish_image(client, second)
        assert site.resolve(Reference.parse("star/worker")) == second.manifest.image_id
        assert site.resolve(Reference.parse("star/worker@1.0")) == bundle.manifest.image_id
        assert site.manifest(second.manifest.image_id) == second.manifest
        assert site.revocations() == []
        assert site.freshness().problem is None
