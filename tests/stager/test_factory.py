"""A node's own stager, put together from its settings, stages a restricted image with its site's credential and not without."""

import time
from pathlib import Path

import pytest

from catalog.client import transfer
from catalog.errors import CatalogError
from catalog.image.reference import Reference
from signer.openpgp.keyring import Keyring
from stager.factory import open_stager
from stager.settings import NodeSettings
from tests.support import commands, factories
from tests.support.catalog.service_process import Service, Vo, first_root


def test_the_credential_of_a_site_opens_what_is_restricted_to_it(tmp_path: Path) -> None:
    keyring = Keyring(tmp_path / "keys")
    star = Vo(keyring, "star", keyring.generate("star <star@example.org>"))
    secret = star.endorse(factories.bundle(tmp_path / "secret", partitions=1, size=17 << 20, seed=9, name="secret"))
    credential = tmp_path / "lyon.credential"

    def partita(*arguments: str) -> None:
        commands.partita("--set", f"catalog.directory={service.directory}", *arguments).check_returncode()

    (tmp_path / "service").mkdir()
    with Service(tmp_path / "service") as service:
        service.register(star.anchor())
        partita("catalog", "site", "register", "lyon", "-o", str(credential))
        partita("image", "restrict", "star", "--site", "lyon")
        with service.client() as client:
            transfer.publish_image(client, secret)
        root = tmp_path / "root.json"
        root.write_bytes(first_root(service.url))

        def node(name: str, file: Path | None) -> NodeSettings:
            return NodeSettings(
                directory=tmp_path / name, catalog=service.url, tuf_root=root, credential=file, cache_quota=1 << 30
            )

        with open_stager(node("stranger", None), time.time, service=True) as (_, catalog):
            # Signed metadata is for everybody and lists it; what it lists is not given out.
            with pytest.raises(CatalogError):
                catalog.manifest(secret.manifest.image_id)
            with pytest.raises(CatalogError):
                catalog.resolve(Reference.parse("star/secret"))
        with open_stager(node("lyon", credential), time.time, service=True) as (stager, catalog):
            manifest = catalog.manifest(catalog.resolve(Reference.parse("star/secret")))
            staged = stager.stage(manifest, "test", 60)
            for address in manifest.contents():
                assert staged.path(address).read_bytes() == secret.content(address).read_bytes()
