"""Freshness at size: a catalog with 100 000 images publishes one more, and a site refreshes, against one with 100.

The peer is ourselves with 100 images. Publishing is the transaction that makes an image visible and lists it; a refresh is
what a node does for one order: new metadata, the name, the manifest, the endorsements, over HTTP from a service process.
"""

import hashlib
import json
import multiprocessing
import resource
import statistics
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from catalog.client.trusted import TrustedCatalog
from catalog.db import images as registry
from catalog.db.tables import images
from catalog.image.manifest import Manifest
from catalog.image.reference import Reference
from catalog.publication.state_directory import open_database
from catalog.service.daemon import serve
from catalog.settings import CatalogSettings
from catalog.tuf_repository.repository import TufRepository
from signer.runtime import files
from tests.support import factories
from tests.support.catalog.fake_tuf_repository import ADDRESSES

FEW, MANY = 100, 100_000
ROUNDS = 15
TARGET = 2.0


def run(workdir: Path) -> dict[str, Any]:
    """Both catalogs, side by side; medians of alternating rounds."""
    cpu = time.process_time()
    catalogs = {number: _Catalog(workdir / str(number), number) for number in (FEW, MANY)}
    times: dict[str, dict[int, list[float]]] = {"publish": {}, "refresh": {}, "both": {}}
    try:
        for round_ in range(ROUNDS + 1):
            for number, catalog in catalogs.items():
                published, refreshed = catalog.round(round_)
                if round_:  # the first warms up, and a new site's first refresh fetches everything
                    for what, took in (("publish", published), ("refresh", refreshed), ("both", published + refreshed)):
                        times[what].setdefault(number, []).append(took)
    finally:
        for catalog in catalogs.values():
            catalog.close()
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    names = {
        "publish": "one more image is listed",
        "refresh": "a site refreshes and reads it",
        "both": "publish one more and refresh a site",
    }
    rows = []
    for what, name in names.items():
        ours, peer = (statistics.median(times[what][number]) * 1000 for number in (MANY, FEW))
        rows.append(
            {
                "name": f"{name}: {MANY} images against {FEW}",
                "ours": ours,
                "peer": peer,
                "unit": "ms",
                "ratio": ours / peer,
                "bound": TARGET,
                "target": f"<= {TARGET:g}",
                "met": ours / peer <= TARGET,
                "cpu_s": time.process_time() - cpu if what == "both" else None,
                "rss_mib": rss if what == "both" else None,
            }
        )
    return {"rows": rows}


class _Catalog:
    """A catalog of so many images without contents, served by a process of its own; and a site that reads it."""

    def __init__(self, directory: Path, number: int) -> None:
        self.directory = directory
        settings = CatalogSettings(directory=directory / "catalog", listen="127.0.0.1:0")
        self._database = open_database(settings.directory)
        self._repository = TufRepository(settings.directory / "tuf")
        self._template = factories.manifest(ADDRESSES).canonical()
        with self._database.writing() as connection:
            registry.register_vo(connection, "star", _now())
            rows = [self._row(f"0.{index}") for index in range(number)]
            connection.execute(images.insert(), rows)
            self._repository.create(connection, _now(), bits=settings.tuf_bits)
        ready = directory / "ready"
        self._service = multiprocessing.get_context("spawn").Process(target=_serve, args=(settings, ready), daemon=True)
        self._service.start()
        until = time.monotonic() + 300
        while not ready.exists():
            if time.monotonic() > until or not self._service.is_alive():
                raise RuntimeError("the catalog did not start")
            time.sleep(0.05)
        root = self._repository.root_file.read_bytes()
        url = ready.read_text().strip()
        self._site = TrustedCatalog(directory / "site", lambda: root, [url], lambda: datetime.now(UTC))

    def round(self, number: int) -> tuple[float, float]:
        """Publish one more and read it; seconds of each."""
        row = self._row(f"1.{number}")
        begun = time.monotonic()
        with self._database.writing() as connection:
            registry.add_image(connection, Manifest.parse(row["manifest"]), _now())
            self._repository.list_image(connection, row["image_id"], _now())
        published = time.monotonic() - begun
        begun = time.monotonic()
        image_id = self._site.resolve(Reference.parse("star/worker"))
        self._site.manifest(image_id)
        self._site.endorsements(image_id)
        refreshed = time.monotonic() - begun
        assert image_id == row["image_id"]
        return published, refreshed

    def close(self) -> None:
        """End the service."""
        self._site.close()
        self._service.terminate()
        self._service.join(30)
        self._database.close()

    def _row(self, version: str) -> dict[str, Any]:
        document = json.loads(self._template)
        document["version"] = version
        data = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        names = {"vo": "star", "name": "worker", "version": version, "architecture": "x86_64"}
        return names | {"image_id": digest, "size": 3 << 20, "manifest": data, "published": _now()}


def _serve(settings: CatalogSettings, ready: Path) -> None:
    serve(settings, lambda url, _: files.write(ready, f"{url}\n", sync=None))


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)
