"""Backups of real services: written while they run, restored elsewhere, and what is wrong with one is said."""

import io
import json
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from secrets import token_hex

import pytest

from catalog.errors import Conflict, Malformed, NotFound
from catalog.service.backup import dump_sqlite, restore_backup, write_backup
from deployer.site.db.engine import SiteDatabase
from deployer.site.db.nodes import list_nodes
from deployer.site.settings import SiteSettings
from deployer.site.store.changes import add_node
from deployer.site.store.store import SiteStore
from tests.support import commands
from tests.support.catalog.service_process import Service, now
from tests.support.node.community import Community
from tests.support.node.service_process import NodeProcess, policy, wait_for
from tests.support.site.databases import Postgresql
from tests.support.site.service_process import PATIENCE, SiteProcess


def partita(*arguments: str, expect: int = 0) -> str:
    """A command, as it is typed."""
    ended = commands.partita(*arguments)
    assert ended.returncode == expect, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


def test_a_catalog_is_restored_with_its_images_and_keys(tmp_path: Path, community: Community) -> None:
    """What was published is there again, under the same root of trust, once the contents are copied."""
    there = community.service.directory
    file = tmp_path / "catalog.tar.gz"
    said = partita("catalog", "backup", str(file), "--directory", str(there))
    assert "copy" in said
    assert file.stat().st_mode & 0o777 == 0o600
    other = tmp_path / "elsewhere"
    partita("catalog", "restore", str(file), "--directory", str(other / "catalog"))
    subprocess.run(["cp", "-a", there / "blobs", other / "catalog"], check=True)
    with community.service.client() as client:
        before = [(one.name, one.version, one.image_id) for one in client.images()]
    with Service(other) as service, service.client() as client:
        assert [(one.name, one.version, one.image_id) for one in client.images()] == before
        after = json.loads(partita("catalog", "tuf", "status", "--directory", str(other / "catalog"), "--json"))
    was = json.loads(partita("catalog", "tuf", "status", "--directory", str(there), "--json"))
    assert [one["keys"] for one in after["roles"]] == [one["keys"] for one in was["roles"]]
    assert "exists" in partita("catalog", "restore", str(file), "--directory", str(other / "catalog"), expect=1)


@pytest.mark.guest
@pytest.mark.timeout(240)
def test_a_site_is_restored_and_its_node_goes_on(
    make_site: Callable[..., SiteProcess], make_member: Callable[..., NodeProcess], community: Community
) -> None:
    """The site's directory is lost while a machine runs; with the backup, node and machine are the site's again."""
    site = make_site(community.service.url, policy(community.star.anchor()))
    node = make_member(site, "worker")
    site.wait(lambda client: any(one.reported is not None for one in client.nodes()))
    (machine,) = (one.uuid for one in site.deploy().machines)
    site.wait_state(machine, "running")
    file = site.place / "site.tar.gz"
    partita("--set", f"site.directory={site.directory}", "site", "backup", str(file))
    site.kill()
    site.directory.rename(site.place / "lost")
    partita("--set", f"site.directory={site.directory}", "site", "restore", str(file))
    site.start()
    seen = site.machine(machine).state
    assert seen.value == "running"
    with site.client() as client:
        client.do(machine, "destroy")
    site.wait_state(machine, "ended")
    wait_for(lambda: not node.guests(), PATIENCE)


def test_a_site_on_postgresql_is_restored(postgresql: Postgresql, tmp_path: Path) -> None:
    """Dumped and restored by PostgreSQL's own tools, into an empty database only."""
    names = postgresql.copy(), f"empty_{token_hex(6)}"
    postgresql.execute(f"CREATE DATABASE {names[1]}")
    first, second = (postgresql.url(name) for name in names)
    database = SiteDatabase(first)
    SiteStore(database, now, lambda: "6a5a3292-f9ef-4511-9fe7-d9f569d4d547").write(add_node, "worker", {})
    database.close()
    file = tmp_path / "site.tar.gz"
    place = f"site.directory={tmp_path / 's'}"
    partita("--set", place, "--set", f"site.database={first}", "site", "backup", str(file))
    partita("--set", place, "--set", f"site.database={second}", "site", "restore", str(file))
    database = SiteDatabase(second)
    assert [one.name for one in SiteStore(database, now, str).read(list_nodes)] == ["worker"]
    database.close()
    assert "not empty" in partita(
        "--set", place, "--set", f"site.database={second}", "site", "restore", str(file), expect=1
    )
    for name in names:
        postgresql.drop(name)


def _backup(tmp_path: Path) -> Path:
    settings = SiteSettings(directory=tmp_path / "s")
    settings.directory.mkdir()
    (settings.directory / "tls.pem").write_text("a key")
    file = tmp_path / "site.tar.gz"
    empty = tmp_path / "site.db"
    empty.touch()
    write_backup(
        file, "site", "sqlite", dump_sqlite(empty), [settings.directory / "tls.pem"], settings.directory, now()
    )
    return file


def _rewritten(file: Path, change: Callable[[tarfile.TarInfo, bytes], tuple[tarfile.TarInfo, bytes] | None]) -> None:
    members = []
    with tarfile.open(file) as tar:
        for member in tar:
            source = tar.extractfile(member)
            assert source is not None
            members.append((member, source.read()))
    with tarfile.open(file, "w:gz") as tar:
        for member, data in members:
            if changed := change(member, data):
                changed[0].size = len(changed[1])
                tar.addfile(changed[0], io.BytesIO(changed[1]))


def _climbing(member: tarfile.TarInfo, data: bytes) -> tuple[tarfile.TarInfo, bytes]:
    if member.name == "backup.json":
        return member, data.replace(b"files/tls.pem", b"files/../tls.pem")
    member.name = member.name.replace("files/tls.pem", "files/../tls.pem")
    return member, data


WRONG = {
    "a byte of the key is another": (lambda m, d: (m, d.replace(b"a key", b"b key")), "damaged"),
    "a member is missing": (lambda m, d: None if m.name == "database" else (m, d), "database is missing"),
    "a path climbs out": (_climbing, "backup.json does not list"),
    "it is of a catalog": (lambda m, d: (m, d.replace(b'"kind":"site"', b'"kind":"catalog"')), "of a catalog"),
    "it is of a later version": (lambda m, d: (m, d.replace(b'"version":1', b'"version":2')), "version"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_backup_that_is_wrong_restores_nothing(case: str, tmp_path: Path) -> None:
    change, words = WRONG[case]
    file = _backup(tmp_path)
    _rewritten(file, change)
    target = tmp_path / "restored"
    with pytest.raises(Malformed, match=words), restore_backup(file, "site", target):
        pass
    assert list(target.iterdir()) == []


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    file = _backup(tmp_path)
    with pytest.raises(Conflict, match=r"tls\.pem: exists"), restore_backup(file, "site", tmp_path / "s"):
        pass
    with pytest.raises(Conflict, match="exists"):
        write_backup(file, "site", "sqlite", lambda _: None, [], tmp_path, now())
    with pytest.raises(NotFound), restore_backup(tmp_path / "none", "site", tmp_path / "other"):
        pass


def test_a_cut_backup_is_said_to_be_one(tmp_path: Path) -> None:
    file = _backup(tmp_path)
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(Malformed), restore_backup(file, "site", tmp_path / "other"):
        pass
