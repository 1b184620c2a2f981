"""TUF client: which targets are current, according to metadata that verifies from a pinned root.

The client workflow of the TUF specification (section 5) is python-tuf's `ngclient`; this is the only door to it. Requests
go over our own connections, with their limits. A directory of trusted metadata belongs to one client at a time.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import chain
from pathlib import Path
from urllib.parse import urlsplit

from tuf.api.exceptions import (
    BadVersionNumberError,
    DownloadError,
    DownloadHTTPError,
    DownloadLengthMismatchError,
    ExpiredMetadataError,
    LengthOrHashMismatchError,
    RepositoryError,
    SlowRetrievalError,
)
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig

from catalog.errors import CatalogError, Malformed, NotFound, Stale, Unavailable, Unverified
from catalog.tuf.metadata import LIFETIMES, ROOT, SNAPSHOT, TARGETS, TIMESTAMP, SignedMetadata, issued_at
from catalog.web.connection import BaseTransport, Connection

SKEW = timedelta(minutes=5)
"""How far this machine's clock may be behind the catalog's."""

FETCH_SECONDS = 120.0
"""Seconds that one metadata file or target may take to arrive, however steadily it drips: they are small."""

LIMITS = UpdaterConfig(
    max_root_rotations=256,
    max_delegations=32,
    root_max_length=512_000,
    timestamp_max_length=16_384,
    snapshot_max_length=2_000_000,
    targets_max_length=5_000_000,
    app_user_agent="partita",
)
"""python-tuf's defaults, in bytes, pinned: our snapshot has 160 KB, and a bin of 20 000 targets 5 MB."""

ROLES = (ROOT, TIMESTAMP, SNAPSHOT, TARGETS)

logging.getLogger("tuf").setLevel(logging.WARNING)


WARN = 0.45
"""Fraction of a lifetime: metadata with less than that left is overdue. The catalog signs anew at half of the lifetime."""


@dataclass(frozen=True)
class Freshness:
    """How fresh a node's knowledge of its catalog is.

    Attributes:
        pinned: whether a root is pinned.
        expires: when the first of the trusted metadata expires; no machine starts after that. None without metadata.
        problem: what is wrong or soon will be, in a sentence.
    """

    pinned: bool
    expires: datetime | None = None
    problem: str | None = None


class TufClient:
    """A directory of trusted metadata, and what repositories may add to it.

    Args:
        directory: of trusted metadata, `root.json` among it once pinned; made if absent.
        root: the pinned root; None to trust the `root.json` that is in the directory.
        now: the time, UTC.
        targets: the directory for targets; `targets` in the directory if not given.
        transport: carries requests instead of the network.
        credentials: a site's credential by server (`http://HOST:PORT`); targets of restricted images need one.
    """

    def __init__(
        self,
        directory: Path,
        root: bytes | None,
        now: Callable[[], datetime],
        *,
        targets: Path | None = None,
        transport: BaseTransport | None = None,
        credentials: Mapping[str, str] | None = None,
    ) -> None:
        self.directory, self._root, self._now = directory, root, now
        self._targets = targets or directory / "targets"
        self._fetcher = _Fetcher(transport, credentials or {})

    def close(self) -> None:
        """Close the connections."""
        self._fetcher.close()

    def refresh(self, metadata_url: str, targets_url: str) -> "CurrentTargets":
        """Refresh the trusted metadata from a repository; returns the targets that it lists.

        Raises:
            Stale: the metadata has expired, or this machine's clock is behind.
            Unverified: it is older than metadata seen before, has too few signatures, or is inconsistent.
            Unavailable: it cannot be downloaded.
        """
        now = self._now()
        with _translated(metadata_url):
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._targets.mkdir(mode=0o700, parents=True, exist_ok=True)
            updater = Updater(
                str(self.directory),
                metadata_url,
                str(self._targets),
                targets_url,
                self._fetcher,
                LIMITS,
                bootstrap=self._root,
            )
            # The updater reads the system's clock; it has no public way to pass another.
            updater._trusted_set.reference_time = now  # noqa: SLF001
            updater.refresh()
        self._check_clock(metadata_url, now)
        return CurrentTargets(updater, metadata_url)

    def freshness(self) -> Freshness:
        """How fresh the trusted metadata is, expired or not; makes no request."""
        now, known = self._now(), dict[str, datetime]()
        for role in ROLES:
            with suppress(OSError, Malformed):
                known[role] = SignedMetadata.of((self.directory / f"{role}.json").read_bytes()).expires
        if not known:
            return Freshness(pinned=True)
        role, expires = min(known.items(), key=lambda item: item[1])
        problem = None
        if expires <= now:
            problem = (
                f"{role} metadata expired on {expires:%Y-%m-%d %H:%M}: no machine starts until the catalog answers"
            )
        else:
            for role, when in known.items():
                if when - now < LIFETIMES[role] * WARN:
                    problem = (
                        f"{role} metadata expires on {when:%Y-%m-%d %H:%M}: check that the catalog answers and signs"
                    )
        return Freshness(pinned=True, expires=expires, problem=problem)

    def _check_clock(self, url: str, now: datetime) -> None:
        """A timestamp says when it was made: a clock behind that would accept metadata that expired long ago."""
        issued = issued_at((self.directory / f"{TIMESTAMP}.json").read_bytes())
        if issued is not None and (ahead := issued - now) > SKEW:
            raise Stale(
                f"{url}: its timestamp was made {round(ahead.total_seconds())} s in the future: this machine's clock is "
                "behind, or the catalog's is ahead; set the clock"
            )


class CurrentTargets:
    """The targets that a repository lists as current, as of one refresh."""

    def __init__(self, updater: Updater, url: str) -> None:
        self._updater, self._url = updater, url

    def find(self, path: str) -> bytes:
        """A target's bytes, of the length and hash in the signed metadata; downloaded unless cached.

        Raises:
            NotFound: no such target is listed.
            Unverified: the repository sent other bytes.
            Unavailable: it cannot be downloaded.
        """
        return Path(self.fetch(path)).read_bytes()

    def fetch(self, path: str) -> Path:
        """The file of a target; as :meth:`find`."""
        with _translated(self._url):
            info = self._updater.get_targetinfo(path)
            if info is None:
                raise NotFound(f"{self._url}: no target {path} is listed")
            found = self._updater.find_cached_target(info)
            return Path(found or self._updater.download_target(info))


def server_url(url: str) -> str:
    """The server part of a URL, such as http://HOST:PORT."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


class _Fetcher(FetcherInterface):
    """Fetches over our own connections, one pool for each server."""

    def __init__(self, transport: BaseTransport | None, credentials: Mapping[str, str]) -> None:
        self._transport, self._credentials = transport, credentials
        self._connections: dict[str, Connection] = {}

    def close(self) -> None:
        """Close the connections."""
        for connection in self._connections.values():
            connection.close()

    def _fetch(self, url: str) -> Iterator[bytes]:
        server = server_url(url)
        if server not in self._connections:
            self._connections[server] = Connection(
                server, self._transport, credential=self._credentials.get(server, "")
            )
        chunks = self._chunks(self._connections[server], url.removeprefix(server), url)
        first = next(chunks, b"")  # a refusal is raised here, and not while the caller reads
        return chain((first,), chunks)

    @staticmethod
    def _chunks(connection: Connection, path: str, url: str) -> Iterator[bytes]:
        end = time.monotonic() + FETCH_SECONDS
        try:
            with connection.plain(path) as (status, chunks):
                if status >= 400:
                    raise DownloadHTTPError(f"{url}: answered {status}", status)
                for chunk in chunks:
                    if time.monotonic() > end:
                        raise SlowRetrievalError(f"{url}: did not arrive within {FETCH_SECONDS:.0f} s")
                    yield chunk
        except CatalogError as exc:
            raise DownloadError(str(exc)) from exc


@contextmanager
def _translated(url: str) -> Iterator[None]:
    try:
        yield
    except ExpiredMetadataError as exc:
        raise Stale(f"{url}: {exc}; no machine may start from it until the catalog signs new metadata") from exc
    except (BadVersionNumberError, LengthOrHashMismatchError, RepositoryError, DownloadLengthMismatchError) as exc:
        raise Unverified(f"{url}: TUF metadata does not verify: {exc}") from exc
    except DownloadError as exc:
        raise Unavailable(f"{url}: cannot download TUF metadata: {exc}") from exc
    except OSError as exc:
        raise Unavailable(f"{exc.filename or url}: cannot store trusted metadata ({exc.strerror or exc})") from exc
