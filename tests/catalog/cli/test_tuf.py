"""The commands around freshness, as they are typed."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from catalog.cli.publish import image_app
from catalog.cli.tuf import tuf_app
from catalog.client import transfer
from catalog.errors import CatalogError, Misused, NotFound, Unverified
from catalog.settings import CatalogSettings
from catalog.tuf.targets import manifest_path
from signer.runtime.settings import load_settings
from tests.support import factories
from tests.support.catalog.fake_tuf_repository import Repository
from tests.support.catalog.service_process import Service, Vo, first_root
from tests.support.catalog.tuf_client import tuf_client_app
from tests.support.commands import CliRunner

Run = Callable[..., Result]


def typed(app: object, arguments: tuple[object, ...], obj: object = None) -> Result:
    """Run a command; our errors come through."""
    result = CliRunner().invoke(app, [str(one) for one in arguments], obj=obj)  # type: ignore[arg-type]
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def tuf(tmp_path: Path) -> Run:
    """`partita catalog tuf ...` on a directory."""
    flags = [f"catalog.directory={tmp_path}/catalog", "catalog.tuf_bits=3"]
    settings = load_settings({"catalog": CatalogSettings}, file=tmp_path / "none", environ={}, flags=flags)
    return lambda *arguments: typed(tuf_app, arguments, settings)


def test_a_repository_is_made_shown_rotated_and_exported(tuf: Run, tmp_path: Path) -> None:
    """Offline keys never lie beside the service; every command speaks JSON."""
    (tmp_path / "secret").write_text("a passphrase\n")
    away = tmp_path / "away"
    tuf("init", "--offline", away, "--passphrase-file", tmp_path / "secret")
    assert not (tmp_path / "catalog" / "tuf" / "offline").exists()
    keys = sorted(away.glob("root-*.pem"))
    assert len(keys) == 3
    assert all(b"ENCRYPTED" in key.read_bytes() for key in keys)
    with pytest.raises(CatalogError, match="exists"):
        tuf("init")
    status = json.loads(tuf("status", "--json").stdout)
    assert {role["role"]: role["threshold"] for role in status["roles"]} == {
        "root": 2, "targets": 1, "snapshot": 1, "timestamp": 1, "bins": 1,
    }  # fmt: skip
    assert status["warnings"] == []
    assert json.loads(tuf("rotate", "snapshot", "--json").stdout)["adopted"] == []
    with pytest.raises(CatalogError, match="--passphrase-file"):
        tuf("sign", "root", "--key", keys[0])
    secret = ("--passphrase-file", tmp_path / "secret")
    assert "missing: 1 signatures by the present root keys" in tuf("sign", "root", "--key", keys[0], *secret).stdout
    carried = tmp_path / "stick.json"
    proposal = tmp_path / "catalog" / "tuf" / "proposed-root.json"
    carried.write_bytes(proposal.read_bytes())
    assert "bring it back" in tuf("sign", "root", "--file", carried, "--key", keys[2], *secret).stdout
    proposal.write_bytes(carried.read_bytes())
    assert "root is in force" in tuf("sign", "root").stdout
    assert "there are no proposals" in tuf("drop").stdout
    shown = json.loads(tuf("export", "-o", tmp_path / "root.json", "--json").stdout)
    assert json.loads((tmp_path / "root.json").read_bytes())["signed"]["version"] == 2
    assert len(shown["sha256"]) == 64


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (("rotate", "mirrors"), Misused, "no role"),
        (("sign", "snapshot"), Misused, "the service signs snapshot itself"),
        (("sign", "root", "--key", "none.pem"), NotFound, "key file not found"),
        (("sign", "root", "--file", "none.json", "--key", "none.pem"), NotFound, "key file not found"),
        (("sign", "root", "--file", "none.json"), Misused, "no keys to sign with"),
    ],
)
def test_what_makes_no_sense_is_said(
    tuf: Run, arguments: tuple[str, ...], error: type[CatalogError], words: str
) -> None:
    tuf("init")
    with pytest.raises(error, match=words):
        tuf(*arguments)


def test_numbers_that_do_not_go_together_leave_nothing(tuf: Run, tmp_path: Path) -> None:
    with pytest.raises(Misused, match="a threshold of 2 does not suit 1 keys"):
        tuf("init", "--root-keys", "1", "--threshold", "2")
    assert not list((tmp_path / "catalog").rglob("*.pem"))


def test_a_plain_tuf_client_downloads_and_refuses(service: Service, star: Vo, tmp_path: Path) -> None:
    """By the conformance protocol: 0 or 1, and nothing else."""
    bundle = star.endorse(factories.bundle(tmp_path / "image", size=1 << 20))
    with service.client() as client:
        transfer.publish_image(client, bundle)
    (tmp_path / "root.json").write_bytes(first_root(service.url))
    place = ("--metadata-dir", tmp_path / "meta")
    url = ("--metadata-url", f"{service.url}/tuf/metadata")
    names = ("--target-name", manifest_path(bundle.manifest.image_id))
    where = ("--target-base-url", f"{service.url}/tuf/targets", "--target-dir", tmp_path / "files")
    assert typed(tuf_client_app, (*place, "init", tmp_path / "root.json")).exit_code == 0
    assert typed(tuf_client_app, (*place, *url, "refresh")).exit_code == 0
    assert typed(tuf_client_app, (*place, *url, *names, *where, "download")).exit_code == 0
    (found,) = [path for path in (tmp_path / "files").iterdir() if path.is_file()]
    assert found.read_bytes() == bundle.manifest.canonical()
    missing = ("--target-name", "nothing.json")
    assert typed(tuf_client_app, (*place, *url, *missing, *where, "download")).exit_code == 1
    service.kill()
    assert typed(tuf_client_app, (*place, *url, "refresh")).exit_code == 1
    assert typed(tuf_client_app, ("--metadata-dir", tmp_path / "other", "init", tmp_path / "none")).exit_code == 1


def test_image_fetch_believes_a_pinned_root(
    service: Service, star: Vo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the catalog's own root it fetches; with another's it refuses, whatever the catalog says."""
    monkeypatch.setattr("catalog.cli.publish.state_directory", lambda name: tmp_path / "state" / name)
    bundle = star.endorse(factories.bundle(tmp_path / "image", size=1 << 20))
    with service.client() as client:
        transfer.publish_image(client, bundle)
    for name, root in (("theirs", Repository().roots[0]), ("ours", first_root(service.url))):
        (tmp_path / name).write_bytes(root)
        flags = [f"catalog.url={service.url}", f"catalog.tuf_root={tmp_path / name}"]
        settings = load_settings({"catalog": CatalogSettings}, file=tmp_path / "none", environ={}, flags=flags)
        arguments = ("fetch", "star/worker", "-o", tmp_path / f"fetched-{name}")
        if name == "theirs":
            with pytest.raises(Unverified):
                typed(image_app, arguments, settings)
        else:
            assert typed(image_app, arguments, settings).exit_code == 0
    assert (tmp_path / "fetched-ours" / "manifest.json").read_bytes() == bundle.manifest.canonical()
