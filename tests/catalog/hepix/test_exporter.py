"""Exported lists: what counts is in them, and another catalog imports them."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import partita
from catalog.client import transfer
from catalog.errors import (
    Misused,
)
from catalog.hepix.exporter import ExportRequest, export_list
from catalog.image.bundle import Bundle
from tests.support.catalog.bios_boot_disk import BLANK, CONTENT, SIZE, bootable, published
from tests.support.catalog.image_lists import ANN_DN, CA_DN, World
from tests.support.catalog.service_process import Service, Vo
from tests.support.commands import CliRunner
from tests.support.factories import bundle
from tests.support.grid_ca import utc_now


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory, vos: dict[str, Vo]) -> Iterator[tuple[Service, Bundle, Path]]:
    """A catalog with an image that a BIOS boots, and one whose kernel lies beside its disks."""
    root = tmp_path_factory.mktemp("exporting")
    with Service(root) as service:
        service.register(vos["star"].anchor())
        image = published(service, vos["star"], root / "made")
        with service.client() as client:
            transfer.publish_image(client, vos["star"].endorse(bundle(root / "direct", name="direct")))
        yield service, image, root


def test_what_is_exported_is_imported_elsewhere(
    catalog: tuple[Service, Bundle, Path], world: World, star: Vo, tmp_path: Path
) -> None:
    service, image, _ = catalog
    for name, data in (("cert", world.ann.pem), ("key", world.ann.key_pem), ("vo", star.anchor().key)):
        (tmp_path / name).write_bytes(data)

    def run(*words: str) -> dict[str, object] | list[dict[str, str]]:
        ended = CliRunner().invoke(partita.app, ["--set", f"signer.home={star.keyring.home}", *words, "--json"])
        assert ended.exit_code == 0, repr(ended.exception)
        return json.loads(ended.stdout)  # type: ignore[no-any-return]

    made = run(
        "catalog", "export", "hepix", "--vo", "star", "--uri", "https://star.example/list", "--endorser-cert",
        str(tmp_path / "cert"), "--key", str(tmp_path / "key"), "--vo-key", str(tmp_path / "vo"), "--catalog",
        service.url, "-o", str(tmp_path / "list"),
    )  # fmt: skip
    assert isinstance(made, dict)
    assert "kernel" in str(made["left_out"]) or "disks" in str(made["left_out"])
    words = [
        "catalog", "import", "hepix", str(tmp_path / "list"), "--vo", "site", "-o", str(tmp_path / "images"), "--all",
        "--endorser-dn", ANN_DN, "--endorser-ca", CA_DN, "--ca-directory", str(world.grid.path), "--state",
        str(tmp_path / "state"), "--key", star.fingerprint,
    ]  # fmt: skip
    (taken,) = run(*words)
    assert isinstance(taken, dict)
    here = Bundle.open(Path(taken["directory"]))
    assert (here.manifest.vo, here.manifest.name, here.manifest.version) == ("site", "star-worker", "1.0")
    assert len(here.endorsements()) == 1
    contents = [part.content for part in here.manifest.partitions()]
    assert contents == [part.content for part in image.manifest.partitions()]
    assert run(*words) == []


def test_only_what_counts_is_exported(catalog: tuple[Service, Bundle, Path], world: World, vos: dict[str, Vo]) -> None:
    service, _, _ = catalog
    wanted = ExportRequest("star", "https://star.example/list", "t", "d", "-", "Ann")
    with service.client() as client:
        with pytest.raises(Misused, match="no image of star can be listed"):
            export_list(client, wanted, [vos["stranger"].anchor(vo="star")], world.ann.signer(), world.grid.now)
        done = export_list(client, wanted, [vos["star"].anchor()], world.ann.signer(), utc_now())
    (listed,) = done.content.images
    assert listed.size == SIZE
    assert listed.uri.startswith(service.url)
    assert len(done.left_out) == 1


def test_the_test_disk_is_what_the_tests_think(tmp_path: Path) -> None:
    assert bootable(tmp_path).stat().st_size == SIZE > sum(BLANK) > sum(CONTENT)
