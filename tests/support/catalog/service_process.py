"""A real catalog process for tests: started on a free port, killed and started again on the same one."""

import logging
import os
import time
import urllib.request
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from catalog.client.client import CatalogClient
from catalog.db import images as registry
from catalog.image.bundle import Bundle
from catalog.publication.state_directory import RecoveryReport, open_database
from catalog.service.daemon import serve
from catalog.settings import CatalogSettings
from signer.openpgp.keyring import Keyring
from signer.runtime.files import write
from signer.verification.endorsements import DEFAULT_ROLE, endorse
from signer.verification.signers import KeySigner
from signer.verification.trust import Anchor
from signer.x509.ca_directory import DEFAULT_DIRECTORY
from tests.support.forkserver import PROCESSES
from tests.support.network_namespaces import Host, enter


def _serve(settings: CatalogSettings, ready: Path, log: Path, mirror_of: str | None, namespace: str) -> None:
    """What the service's process does; everything that it says goes to the log."""
    if namespace:
        enter(namespace)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)
    logging.basicConfig(level=logging.INFO)

    def up(url: str, recovery: RecoveryReport) -> None:
        print(recovery, flush=True)  # noqa: T201 - into the log
        write(ready, f"{url}\n", sync=None)

    serve(settings, up, mirror_of=mirror_of, every=1.0)


def now() -> datetime:
    """The time, in whole seconds as documents carry it."""
    return datetime.now(UTC).replace(microsecond=0)


class Service:
    """A catalog process over a directory; `url` is where it answers once started."""

    def __init__(
        self,
        root: Path,
        *,
        limit: int = 1 << 40,
        ca_directory: Path = DEFAULT_DIRECTORY,
        mirror_of: str | None = None,
        metrics: str = "",
        host: Host | None = None,
    ) -> None:
        self.directory, self._mirror_of = root / "catalog", mirror_of
        self._settings = CatalogSettings(
            directory=self.directory, max_image_bytes=limit, tuf_bits=6, ca_directory=ca_directory, metrics=metrics
        )
        self._ready, self.log = root / "ready", root / "log"
        self._listen, self._namespace = (f"{host.ip}:0", host.namespace) if host else ("127.0.0.1:0", "")
        self.url = ""
        self._process: Any = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.launch()
        for _ in range(3000):
            if self._ready.exists():
                break
            assert self._process.is_alive(), self.log.read_text()
            time.sleep(0.01)
        self.url = self._ready.read_text().strip()
        self._listen = self.url.removeprefix("http://")

    def launch(self) -> None:
        """Start it and do not wait."""
        self._ready.unlink(missing_ok=True)
        settings = self._settings.model_copy(update={"listen": self._listen})
        arguments = (settings, self._ready, self.log, self._mirror_of, self._namespace)
        self._process = PROCESSES.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()

    def kill(self) -> None:
        """End it as a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process = None

    def stop(self) -> int:
        """End it as an operator would; returns its exit code."""
        assert self._process is not None
        self._process.terminate()
        self._process.join(30)
        code = self._process.exitcode
        assert code is not None, "it did not end"
        self._process = None
        return code

    def client(self) -> CatalogClient:
        """A client of it."""
        return CatalogClient(self.url)

    def register(self, *anchors: Anchor) -> None:
        """Register VOs and keys, as `partita vo register` does beside the running service."""
        database = open_database(self.directory)
        with database.writing() as connection:
            for anchor in anchors:
                registry.register_vo(connection, anchor.vo, now())
                registry.register_key(connection, anchor, now())
        database.close()


class Vo:
    """A VO with a key that vouches for its images."""

    def __init__(self, keyring: Keyring, name: str, fingerprint: str) -> None:
        self.keyring, self.name, self.fingerprint = keyring, name, fingerprint

    def anchor(self, *, vo: str | None = None, role: str = DEFAULT_ROLE) -> Anchor:
        """Its key, as registered for a VO."""
        return Anchor(vo or self.name, role, self.fingerprint, self.keyring.export(self.fingerprint))

    def endorse(self, bundle: Bundle, *, role: str = DEFAULT_ROLE) -> Bundle:
        """Endorse an image directory."""
        pair = endorse(
            KeySigner(self.keyring, self.fingerprint), bundle.manifest.image_id, bundle.manifest.title, now(), role=role
        )
        bundle.add_endorsement(*pair)
        return bundle


def first_root(catalog: str) -> bytes:
    """The root that a catalog began with, as its operator would hand it over."""
    with urllib.request.urlopen(f"{catalog}/tuf/metadata/1.root.json") as answer:
        return bytes(answer.read())


def files(directory: Path) -> Sequence[str]:
    """Every file below a catalog's directory, but its database, its audit log, its lock and its freshness keys."""
    return sorted(
        str(path.relative_to(directory))
        for path in directory.rglob("*")
        if path.is_file()
        and not path.name.startswith("catalog.db")
        and path.name not in {"lock", "audit.jsonl"}
        and path.relative_to(directory).parts[0] != "tuf"
    )
