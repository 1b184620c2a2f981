"""A real catalog in a process of its own, with published images: what nodes stage from in tests and benchmarks."""

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from catalog.client import transfer
from catalog.client.client import CatalogClient
from catalog.db.images import register_key, register_vo
from catalog.image.bundle import Bundle
from catalog.publication.state_directory import open_database
from signer.openpgp.keyring import Keyring
from signer.verification.endorsements import DEFAULT_ROLE, endorse
from signer.verification.signers import KeySigner
from signer.verification.trust import Anchor

SERVE = """
import sys
from pathlib import Path
from catalog.service.daemon import serve
from catalog.settings import CatalogSettings
from signer.runtime import files
settings = CatalogSettings(directory=Path(sys.argv[1]), listen="127.0.0.1:0", tuf_bits=6)
serve(settings, lambda url, _: files.write(Path(sys.argv[2]), f"{url}\\n", sync=None))
"""


@contextmanager
def catalog(directory: Path, bundles: Sequence[Bundle]) -> Iterator[str]:
    """Serve images; yields the URL. The directory is short-lived and short-named: gpg's agent has a socket in it."""
    directory.mkdir(parents=True, exist_ok=True)
    now = datetime.now(UTC).replace(microsecond=0)
    keyring = Keyring(directory / "gpg")
    fingerprint = keyring.generate("Tester <tester@star.example>", now=now)
    database = open_database(directory / "catalog")
    try:
        with database.writing() as connection:
            register_vo(connection, "star", now)
            register_key(connection, Anchor("star", DEFAULT_ROLE, fingerprint, keyring.export(fingerprint)), now)
    finally:
        database.close()
    with serving(directory) as url, CatalogClient(url) as client:
        for bundle in bundles:
            manifest = bundle.manifest
            bundle.add_endorsement(*endorse(KeySigner(keyring, fingerprint), manifest.image_id, manifest.title, now))
            transfer.publish_image(client, bundle)
        yield url


@contextmanager
def serving(directory: Path) -> Iterator[str]:
    """The process alone."""
    ready = directory / "url"
    ready.unlink(missing_ok=True)
    with subprocess.Popen([sys.executable, "-c", SERVE, str(directory / "catalog"), str(ready)]) as process:
        try:
            deadline = time.monotonic() + 60
            while not ready.exists():
                assert process.poll() is None, "the catalog ended before it was ready"
                assert time.monotonic() < deadline, "the catalog was not ready within 60 seconds"
                time.sleep(0.02)
            yield ready.read_text().strip()
        finally:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
