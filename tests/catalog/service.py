"""A real catalog process for tests: started on a free port, killed and started again on the same one."""

import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from catalog import registry
from catalog.bundle import Bundle
from catalog.client import CatalogClient
from catalog.store import open_database
from signer.endorsing import DEFAULT_ROLE, endorse
from signer.openpgp import Keyring
from signer.trust import Anchor

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import logging, sys
from pathlib import Path
from catalog.serving import serve, write_ready
from catalog.settings import CatalogSettings
logging.basicConfig(level=logging.INFO)
directory, listen, ready, limit = sys.argv[1:]
settings = CatalogSettings(directory=Path(directory), listen=listen, max_image_bytes=int(limit))
serve(settings, lambda url, recovery: (print(recovery, flush=True), write_ready(Path(ready), url)))
"""


def now() -> datetime:
    """The time, in whole seconds as documents carry it."""
    return datetime.now(UTC).replace(microsecond=0)


class Service:
    """A catalog process over a directory; `url` is where it answers once started."""

    def __init__(self, root: Path, *, limit: int = 1 << 40) -> None:
        self.directory, self._limit = root / "catalog", limit
        self._ready, self.log = root / "ready", root / "log"
        self._listen = "127.0.0.1:0"
        self.url = ""
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start it and wait until it answers."""
        self._ready.unlink(missing_ok=True)
        arguments = [str(self.directory), self._listen, str(self._ready), str(self._limit)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, *arguments], cwd=ROOT, stdout=log, stderr=log
            )
        for _ in range(6000):
            if self._ready.exists():
                break
            assert self._process.poll() is None, self.log.read_text()
            time.sleep(0.01)
        self.url = self._ready.read_text().strip()
        self._listen = self.url.removeprefix("http://")

    def kill(self) -> None:
        """End it as a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> int:
        """End it as an operator would; returns its exit code."""
        assert self._process is not None
        self._process.terminate()
        code = self._process.wait(30)
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
            self.keyring, bundle.manifest.image_id, bundle.manifest.title, self.fingerprint, now(), role=role
        )
        bundle.add_endorsement(*pair)
        return bundle


def files(directory: Path) -> Sequence[str]:
    """Every file below a catalog's directory, but its database and its lock."""
    return sorted(
        str(path.relative_to(directory))
        for path in directory.rglob("*")
        if path.is_file() and not path.name.startswith("catalog.db") and path.name != "lock"
    )
