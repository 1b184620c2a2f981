"""Freshness as nodes read it: every way in which a repository, or whoever took it over, may lie about what is current."""

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from catalog.client.trusted import TrustedCatalog
from catalog.errors import CatalogError, Equivocation, NotFound, Stale, Unavailable, Unpinned, Unverified
from catalog.image.reference import Reference
from catalog.tuf.metadata import ROOT, SNAPSHOT, TIMESTAMP, bin_number, bin_role, next_root
from catalog.tuf.targets import encode_statements, endorsements_path, manifest_path, name_path, revocation_targets
from tests.support.catalog.fake_tuf_repository import BITS, DAY, NOW, URL, Repository, fresh, signed, targets_of

WORKER = Reference.parse("star/worker")
NAME = name_path("star", "worker")
NAME_BIN = bin_role(bin_number(NAME, BITS), BITS)


@pytest.fixture
def repository() -> Repository:
    """A repository with star/worker@1.0."""
    made = Repository()
    made.image()
    return made


def keep(repository: Repository) -> dict[str, bytes | None]:
    """What is served now."""
    return dict(repository.files)


def old_snapshot(repository: Repository) -> None:
    repository.versions[SNAPSHOT] -= 2
    repository.put_snapshot()
    repository.put_timestamp()


def old_bin(repository: Repository) -> None:
    repository.put_snapshot(**{NAME_BIN.replace("-", "_"): 1})
    repository.put_timestamp()


def old_root(repository: Repository) -> None:
    repository.meta("2.root", repository.roots[0])


def dropped_role(repository: Repository) -> None:
    repository.put_snapshot(without=NAME_BIN)
    repository.put_timestamp()


def mixed(repository: Repository) -> None:
    named = repository.versions[SNAPSHOT] + 1
    repository.image("2.0")
    repository.versions[SNAPSHOT] = named - 1
    repository.put_snapshot(expires=NOW + 3 * DAY)


def other_bin(repository: Repository) -> None:
    repository.put_snapshot(**{NAME_BIN.replace("-", "_"): 7})
    repository.meta(f"7.{NAME_BIN}", repository.files[f"/tuf/metadata/{repository.versions[NAME_BIN]}.{NAME_BIN}.json"])
    repository.put_timestamp()


def stranger_timestamp(repository: Repository) -> None:
    repository.put_timestamp(signer=fresh())


def stranger_snapshot(repository: Repository) -> None:
    repository.put_snapshot(signer=fresh())
    repository.put_timestamp()


def stranger_targets(repository: Repository) -> None:
    repository.versions["targets"] += 1
    repository.put_targets(signer=fresh())
    repository.put_snapshot()
    repository.put_timestamp()


def stranger_bin(repository: Repository) -> None:
    repository.put_bin(NAME_BIN, signer=fresh())
    repository.put_snapshot()
    repository.put_timestamp()


def stranger_root(repository: Repository) -> None:
    stranger = [fresh() for _ in range(3)]
    repository.meta("2.root", signed(next_root(repository.roots[0], {ROOT: stranger}, NOW + DAY), stranger))


def one_of_two(repository: Repository) -> None:
    data = next_root(repository.roots[0], {TIMESTAMP: [fresh()]}, NOW + DAY)
    repository.meta("2.root", signed(data, repository.keys[ROOT][:1]))


def one_key_twice(repository: Repository) -> None:
    data = signed(next_root(repository.roots[0], {TIMESTAMP: [fresh()]}, NOW + DAY), repository.keys[ROOT][:1])
    document = json.loads(data)
    document["signatures"] *= 2
    repository.meta("2.root", json.dumps(document).encode())


def only_the_new_keys(repository: Repository) -> None:
    new = [fresh() for _ in range(3)]
    data = next_root(repository.roots[0], {ROOT: new}, NOW + DAY)
    repository.meta("2.root", signed(data, [*new, repository.keys[ROOT][0]]))


def only_the_old_keys(repository: Repository) -> None:
    data = next_root(repository.roots[0], {ROOT: [fresh() for _ in range(3)]}, NOW + DAY)
    repository.meta("2.root", signed(data, repository.keys[ROOT]))


def skipped_root(repository: Repository) -> None:
    data = next_root(next_root(repository.roots[0], {}, NOW + DAY), {}, NOW + DAY)
    repository.meta("2.root", signed(data, repository.keys[ROOT]))


def expired_timestamp(repository: Repository) -> None:
    repository.put_timestamp(expires=NOW - timedelta(seconds=1))


def expired_snapshot(repository: Repository) -> None:
    repository.put_snapshot(expires=NOW - timedelta(seconds=1))
    repository.put_timestamp()


def expired_targets(repository: Repository) -> None:
    repository.versions["targets"] += 1
    repository.put_targets(expires=NOW - timedelta(seconds=1))
    repository.put_snapshot()
    repository.put_timestamp()


def expired_bin(repository: Repository) -> None:
    repository.publish({}, expires=NOW - timedelta(seconds=1))


def expired_root(repository: Repository) -> None:
    data = next_root(repository.roots[0], {}, NOW - timedelta(seconds=1))
    repository.meta("2.root", signed(data, repository.keys[ROOT]))


def frozen(repository: Repository) -> None:
    repository.now = NOW + DAY  # whoever replays what was signed yesterday


def clock_behind(repository: Repository) -> None:
    repository.put_timestamp()
    repository.now = NOW - DAY


def endless_timestamp(repository: Repository) -> None:
    repository.meta("timestamp", None)


def endless_root(repository: Repository) -> None:
    repository.meta("2.root", None)


def endless_target(repository: Repository) -> None:
    repository.image("2.0")
    repository.files |= {path: None for path in repository.files if path.startswith("/tuf/targets/names/star/")}


def other_content(repository: Repository) -> None:
    repository.image("2.0")
    for path, body in list(repository.files.items()):
        if path.startswith("/tuf/targets/names/star/") and body is not None:
            repository.files[path] = body.replace(b"2.0", b"9.9")


def longer_content(repository: Repository) -> None:
    repository.image("2.0")
    for path, body in list(repository.files.items()):
        if path.startswith("/tuf/targets/names/star/") and body is not None:
            repository.files[path] = body + b"\n"


def about_another_name(repository: Repository) -> None:
    other = targets_of(repository.image("2.0", name="miner"))[name_path("star", "miner")]
    repository.publish({NAME: other})


def no_json(repository: Repository) -> None:
    repository.meta("timestamp", b"\xff{")


ATTACKS: list[tuple[str, Callable[[Repository], None], type[CatalogError]]] = [
    ("rollback: an older snapshot is named by a new timestamp", old_snapshot, Unverified),
    ("rollback: an older bin is named by a new snapshot", old_bin, Unverified),
    ("rollback: the first root is sent as the second", old_root, Unverified),
    ("rollback: a role that was listed is listed no more", dropped_role, Unverified),
    ("mix-and-match: a snapshot that its timestamp does not name", mixed, Unverified),
    ("mix-and-match: an old bin under a new version's name", other_bin, Unverified),
    ("arbitrary install: a stranger signs the timestamp", stranger_timestamp, Unverified),
    ("arbitrary install: a stranger signs the snapshot", stranger_snapshot, Unverified),
    ("arbitrary install: a stranger signs the targets", stranger_targets, Unverified),
    ("arbitrary install: a stranger signs a bin", stranger_bin, Unverified),
    ("arbitrary install: strangers sign a root", stranger_root, Unverified),
    ("threshold: one of two root keys signs a root", one_of_two, Unverified),
    ("threshold: one root key signs twice", one_key_twice, Unverified),
    ("rotation: the new keys sign, and one of the old", only_the_new_keys, Unverified),
    ("rotation: the old keys sign, and none of the new", only_the_old_keys, Unverified),
    ("rotation: a version is left out", skipped_root, Unverified),
    ("freeze: the timestamp has expired", expired_timestamp, Stale),
    ("freeze: the snapshot has expired", expired_snapshot, Stale),
    ("freeze: the targets have expired", expired_targets, Stale),
    ("freeze: a bin has expired", expired_bin, Stale),
    ("freeze: yesterday's word is repeated, or the clock is a day ahead", frozen, Stale),
    ("the clock is a day behind", clock_behind, Stale),
    ("endless data: the timestamp", endless_timestamp, Unverified),
    ("endless data: a root", endless_root, Unverified),
    ("endless data: a target", endless_target, Unverified),
    ("wrong content of the right length", other_content, Unverified),
    ("wrong length", longer_content, Unverified),
    ("wrong software: a name stands for an image of another name", about_another_name, Unverified),
    ("no metadata at all", no_json, Unverified),
]


@pytest.mark.parametrize(("attack", "expected"), [row[1:] for row in ATTACKS], ids=[row[0] for row in ATTACKS])
def test_a_lie_about_what_is_current_is_refused_and_leaves_nothing(
    repository: Repository, tmp_path: Path, attack: Callable[[Repository], None], expected: type[CatalogError]
) -> None:
    """Refused as what it is; and when the repository is right again the node goes on, so nothing of it was kept."""
    with repository.catalog(tmp_path) as catalog:
        first = catalog.resolve(WORKER)
        before, contents = keep(repository), dict(repository.contents)
        attack(repository)
        with pytest.raises(CatalogError) as refused:
            catalog.resolve(WORKER)
        assert type(refused.value) is expected, refused.value
        assert refused.value.exit_code == 4
        repository.now = NOW
        repository.files, repository.contents = before, contents
        repository.versions = {role: version + 20 for role, version in repository.versions.items()}
        repository.put_targets()
        repository.publish({})
        assert catalog.resolve(WORKER) == first


def test_an_older_timestamp_is_refused(repository: Repository, tmp_path: Path) -> None:
    before = repository.files["/tuf/metadata/timestamp.json"]
    second = repository.image("2.0")
    with repository.catalog(tmp_path) as catalog:
        assert catalog.resolve(WORKER) == second.image_id
        repository.meta("timestamp", before)
        with pytest.raises(Unverified, match="does not verify"):
            catalog.resolve(WORKER)
    with repository.catalog(tmp_path) as again, pytest.raises(Unverified):  # remembered across a restart
        again.resolve(WORKER)


def test_an_expired_root_starts_nothing_until_it_is_renewed(repository: Repository, tmp_path: Path) -> None:
    with repository.catalog(tmp_path) as catalog:
        catalog.resolve(WORKER)
        expired_root(repository)
        with pytest.raises(Stale, match=r"root\.json is expired"):
            catalog.resolve(WORKER)
        third = next_root(next_root(repository.roots[0], {}, NOW), {}, NOW + DAY)
        repository.meta("3.root", signed(third, repository.keys[ROOT]))
        assert catalog.resolve(WORKER)


def test_an_equal_timestamp_is_no_error(repository: Repository, tmp_path: Path) -> None:
    with repository.catalog(tmp_path) as catalog:
        assert catalog.resolve(WORKER) == catalog.resolve(WORKER)


@pytest.mark.parametrize("role", [ROOT, "targets", SNAPSHOT, TIMESTAMP])
def test_rotated_keys_are_followed(repository: Repository, tmp_path: Path, role: str) -> None:
    """By a node that has seen the old ones, and by one that pinned the first root only."""
    with repository.catalog(tmp_path / "old") as catalog:
        catalog.resolve(WORKER)
        repository.rotate(role)
        repository.versions["targets"] += 1
        repository.put_targets()
        second = repository.image("2.0")
        assert catalog.resolve(WORKER) == second.image_id
    with repository.catalog(tmp_path / "new") as fresh_node:
        assert fresh_node.resolve(WORKER) == second.image_id


def test_fast_forward_is_recovered_from_by_rotating_the_keys(repository: Repository, tmp_path: Path) -> None:
    """A thief of the online keys raises versions so that everything later looks old; new keys clear what was seen."""
    with repository.catalog(tmp_path) as catalog:
        repository.versions[SNAPSHOT] = 2_000_000
        repository.put_snapshot()
        repository.put_timestamp(version=2_000_000)
        catalog.resolve(WORKER)
        repository.versions[SNAPSHOT] = repository.versions[TIMESTAMP] = 10
        repository.put_snapshot()
        repository.put_timestamp()
        with pytest.raises(Unverified):
            catalog.resolve(WORKER)
        repository.rotate(TIMESTAMP)
        repository.rotate(SNAPSHOT)
        repository.put_snapshot()
        repository.put_timestamp()
        assert catalog.resolve(WORKER)


def test_a_name_and_version_that_changes_its_image_is_an_alarm(repository: Repository, tmp_path: Path) -> None:
    """Even when every signature is right; by name, by image ID, and after a restart."""
    reference = Reference.parse("star/worker@1.0")
    alarms: list[str] = []
    with repository.catalog(tmp_path, alarm=alarms.append) as catalog:
        first = catalog.resolve(reference)
        other = repository.image(needs={"memory": 1 << 30, "cores": 2})
        assert other.image_id != first
        with pytest.raises(Equivocation, match=r"ALARM: star/worker@1\.0 stood for .* and now stands for"):
            catalog.resolve(reference)
        assert len(alarms) == 1
    with repository.catalog(tmp_path) as again:
        with pytest.raises(Equivocation) as alarm:
            again.manifest(other.image_id)
        assert alarm.value.exit_code == 4
        assert again.manifest(first).image_id == first


def test_a_manifest_listed_as_another_image_is_refused(repository: Repository, tmp_path: Path) -> None:
    """Every signature is right, and the content is another image's."""
    first, second = repository.image("1.0"), repository.image("2.0")
    repository.publish({manifest_path(first.image_id): second.canonical()})
    with repository.catalog(tmp_path) as catalog, pytest.raises(CatalogError, match="another manifest") as refused:
        catalog.manifest(first.image_id)
    assert refused.value.exit_code == 4


def test_endorsements_and_revocations_are_those_that_are_listed(repository: Repository, tmp_path: Path) -> None:
    image = repository.image("2.0")
    with repository.catalog(tmp_path) as catalog:
        assert catalog.endorsements(image.image_id) == [(b"{}", b"signature")]
        assert catalog.revocations() == []
        many = [(b"{}", str(number).encode()) for number in range(250)]
        repository.publish(revocation_targets(many) | {endorsements_path(image.image_id): encode_statements([])})
        assert catalog.revocations() == many
        assert catalog.endorsements(image.image_id) == []


def test_without_a_root_nothing_is_believed(repository: Repository, tmp_path: Path) -> None:
    """Not even what an image ID vouches for; and nobody is asked."""
    repository.asked.clear()
    with TrustedCatalog(tmp_path, lambda: None, [URL], lambda: NOW, transport=repository) as catalog:
        for ask in (
            lambda: catalog.resolve(WORKER),
            lambda: catalog.manifest("sha256:" + "0" * 64),
            lambda: catalog.endorsements("sha256:" + "0" * 64),
            catalog.revocations,
            catalog.refresh,
        ):
            with pytest.raises(Unpinned, match="no TUF root") as refused:
                ask()
            assert refused.value.exit_code == 3
        assert not catalog.freshness().pinned
    assert repository.asked == []


def test_what_is_not_listed_is_not_there(repository: Repository, tmp_path: Path) -> None:
    with repository.catalog(tmp_path) as catalog, pytest.raises(NotFound, match="star/nothing"):
        catalog.resolve(Reference.parse("star/nothing"))


def test_the_operator_is_told_before_it_expires(repository: Repository, tmp_path: Path) -> None:
    """At half of the lifetime and a little, and at its end."""
    with repository.catalog(tmp_path) as catalog:
        catalog.resolve(WORKER)
        assert catalog.freshness().problem is None
        repository.now = NOW + timedelta(hours=14)
        assert "timestamp metadata expires on 2026-11-23 12:00" in str(catalog.freshness().problem)
        repository.now = NOW + DAY
        assert "no machine starts" in str(catalog.freshness().problem)


def test_an_unreachable_catalog_is_unavailable(repository: Repository, tmp_path: Path) -> None:
    repository.down = True
    with repository.catalog(tmp_path) as catalog, pytest.raises(Unavailable) as failed:
        catalog.resolve(WORKER)
    assert failed.value.exit_code == 5


def test_a_bin_of_a_stranger_spoils_only_its_own_targets(repository: Repository, tmp_path: Path) -> None:
    """What lies in other bins is read as before."""
    stranger_bin(repository)
    other = next(path for path in repository.contents if bin_role(bin_number(path, BITS), BITS) != NAME_BIN)
    with repository.catalog(tmp_path) as catalog:
        assert catalog._find(other, fresh=True) == repository.contents[other]
