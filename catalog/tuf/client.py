"""Freshness on the reading side: what is current, according to metadata that verifies from a pinned root.

The client workflow of the TUF specification (section 5) as python-tuf's `ngclient` does it; the only door to it. What is
fetched comes over our own connections, with their limits. A reader's directory belongs to one reader at a time.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
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
from catalog.tuf.metadata import ROOT, SNAPSHOT, TARGETS, TIMESTAMP, SignedMetadata, issued_at
from catalog.web.connection import BaseTransport, Connection

SKEW = timedelta(minutes=5)
"""How far a clock here may be behind the catalog's."""

FETCH_SECONDS = 120.0
"""How long one file of metadata, or one target, may take to arrive, however steadily it drips: they are small."""

LIMITS = UpdaterConfig(
    max_root_rotations=256,
    max_delegations=32,
    root_max_length=512_000,
    timestamp_max_length=16_384,
    snapshot_max_length=2_000_000,
    targets_max_length=5_000_000,
    app_user_agent="partita",
)
"""python-tuf's own defaults, in bytes, written down: our snapshot has 160 KB, and a bin 5 MB with 20 000 targets."""

ROLES = (ROOT, TIMESTAMP, SNAPSHOT, TARGETS)

logging.getLogger("tuf").setLevel(logging.WARNING)


@dataclass(frozen=True)
class TrustedMetadataSet:
    """The metadata that a reader trusts now: version and expiry of each top-level role that it has."""

    versions: dict[str, int]
    expires: dict[str, datetime]


class TufClient:
    """What one directory of trusted metadata knows, and what repositories may add to it.

    Args:
        directory: trusted metadata, `root.json` among it once pinned; made if absent.
        root: the pinned root; None to believe the `root.json` that is in the directory.
        now: the time, UTC.
        targets: where targets are kept; `targets` in the directory if not given.
        transport: what carries requests instead of the network.
    """

    def __init__(
        self,
        directory: Path,
        root: bytes | None,
        now: Callable[[], datetime],
        *,
        targets: Path | None = None,
        transport: BaseTransport | None = None,
        shown: Mapping[str, str] | None = None,
    ) -> None:
        """`shown`: by server (`http://HOST:PORT`), a site's credential for it; targets of restricted images need one."""
        self.directory, self._root, self._now = directory, root, now
        self._targets = targets or directory / "targets"
        self._fetcher = _Fetcher(transport, shown or {})

    def close(self) -> None:
        """Give the connections back."""
        self._fetcher.close()

    def refresh(self, metadata_url: str, targets_url: str) -> "CurrentTargets":
        """Bring the trusted metadata up to what a repository publishes; returns what is current by it.

        Raises:
            Stale: it has expired, or our clock is behind.
            Unverified: it is older than what was seen, signed by too few, or does not fit together.
            Unavailable: it cannot be had.
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
            # The updater asks the system's clock and takes no other.
            updater._trusted_set.reference_time = now  # noqa: SLF001 - there is no public way
            updater.refresh()
        self._check_clock(metadata_url, now)
        return CurrentTargets(updater, metadata_url)

    def trusted(self) -> TrustedMetadataSet:
        """What is trusted now, whether or not it has expired."""
        found = TrustedMetadataSet({}, {})
        for role in ROLES:
            try:
                seen = SignedMetadata.of((self.directory / f"{role}.json").read_bytes())
            except (OSError, Malformed):
                continue
            found.versions[role], found.expires[role] = seen.version, seen.expires
        return found

    def _check_clock(self, url: str, now: datetime) -> None:
        """A timestamp says when it was made: a clock that is behind that would believe what has long expired."""
        said = issued_at((self.directory / f"{TIMESTAMP}.json").read_bytes())
        if said is not None and (ahead := said - now) > SKEW:
            raise Stale(
                f"{url}: its timestamp was made {round(ahead.total_seconds())} s from now: this machine's clock is behind, "
                "or the catalog's is ahead; set the clock"
            )


class CurrentTargets:
    """What a repository vouches to be current, as of one refresh."""

    def __init__(self, updater: Updater, url: str) -> None:
        self._updater, self._url = updater, url

    def find(self, path: str) -> bytes:
        """A target's content, of the length and hash that signed metadata gives; fetched unless it is here already.

        Raises:
            NotFound: no such target is listed.
            Unverified: what was sent for it is something else.
            Unavailable: it cannot be had.
        """
        return Path(self.fetch(path)).read_bytes()

    def fetch(self, path: str) -> Path:
        """As :meth:`find`; the file."""
        with _translated(self._url):
            info = self._updater.get_targetinfo(path)
            if info is None:
                raise NotFound(f"{self._url}: nothing is listed as {path}")
            found = self._updater.find_cached_target(info)
            return Path(found or self._updater.download_target(info))


def server_url(url: str) -> str:
    """The server part of a URL, such as http://HOST:PORT."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


class _Fetcher(FetcherInterface):
    """Fetches with our own connections, one pool for each server."""

    def __init__(self, transport: BaseTransport | None, shown: Mapping[str, str]) -> None:
        self._transport, self._shown = transport, shown
        self._connections: dict[str, Connection] = {}

    def close(self) -> None:
        """Give the connections back."""
        for connection in self._connections.values():
            connection.close()

    def _fetch(self, url: str) -> Iterator[bytes]:
        server = server_url(url)
        if server not in self._connections:
            self._connections[server] = Connection(server, self._transport, credential=self._shown.get(server, ""))
        chunks = self._pieces(self._connections[server], url.removeprefix(server), url)
        first = next(chunks, b"")  # the status is known by now
        return _chain(first, chunks)

    @staticmethod
    def _pieces(connection: Connection, path: str, url: str) -> Iterator[bytes]:
        end = time.monotonic() + FETCH_SECONDS
        try:
            with connection.plain(path) as (status, pieces):
                if status >= 400:
                    raise DownloadHTTPError(f"{url}: answered {status}", status)
                for piece in pieces:
                    if time.monotonic() > end:
                        raise SlowRetrievalError(f"{url}: did not arrive within {FETCH_SECONDS:.0f} s")
                    yield piece
        except CatalogError as exc:
            raise DownloadError(str(exc)) from exc


def _chain(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


@contextmanager
def _translated(url: str) -> Iterator[None]:
    try:
        yield
    except ExpiredMetadataError as exc:
        raise Stale(f"{url}: {exc}; nothing new may start from it until the catalog signs afresh") from exc
    except (BadVersionNumberError, LengthOrHashMismatchError, RepositoryError, DownloadLengthMismatchError) as exc:
        raise Unverified(f"{url}: what it says is current does not verify: {exc}") from exc
    except DownloadError as exc:
        raise Unavailable(f"{url}: freshness metadata cannot be had: {exc}") from exc
    except OSError as exc:
        raise Unavailable(f"{exc.filename or url}: trusted metadata cannot be kept ({exc.strerror or exc})") from exc


def utc_now() -> datetime:
    """The system's clock."""
    return datetime.now(UTC)
