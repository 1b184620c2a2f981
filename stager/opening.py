"""Putting a node's stager together from its settings."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from stager.cache import Cache
from stager.errors import CacheUnusable
from stager.fetching import Pace
from stager.settings import NodeSettings
from stager.sources import HttpSource
from stager.staging import Stager

if TYPE_CHECKING:  # it loads the TUF library, which only those pay for who ask a catalog
    from catalog.trusted import TrustedCatalog

SHARE = 0.7
"""Of a filesystem that is smaller than the default quota, what the cache may take unless the settings say otherwise."""


def quota(settings: NodeSettings) -> int:
    """The cache's quota in bytes: as set; the default gives way to a small filesystem, a quota that was set does not."""
    default = NodeSettings.model_fields["cache_quota"].default
    if settings.cache_quota != default:
        return settings.cache_quota
    found = os.statvfs(_existing(settings.cache))
    return min(settings.cache_quota, int(found.f_blocks * found.f_frsize * SHARE))


def open_cache(settings: NodeSettings, clock: Callable[[], float]) -> Cache:
    """Open the node's cache; errors as :class:`stager.cache.Cache`."""
    return Cache(settings.cache, quota(settings), clock)


def open_catalog(settings: NodeSettings, clock: Callable[[], float]) -> "TrustedCatalog":
    """The node's catalog and mirrors, believed by the root that is pinned; without one nothing of them is believed."""
    from catalog.trusted import TrustedCatalog

    def root() -> bytes | None:
        try:
            return settings.pinned_root.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise CacheUnusable(f"{settings.pinned_root}: the pinned root cannot be read ({exc.strerror})") from exc

    def now() -> datetime:
        return datetime.fromtimestamp(clock(), UTC)

    return TrustedCatalog(settings.freshness, root, [settings.catalog, *settings.mirrors], now)


@contextmanager
def opened(settings: NodeSettings, clock: Callable[[], float]) -> Iterator[tuple[Stager, "TrustedCatalog"]]:
    """A stager over the node's cache and catalog, and that catalog as the node believes it; closed when the block ends."""
    pace = Pace(connections=settings.connections, part_bytes=settings.part_bytes)
    with open_catalog(settings, clock) as client, open_cache(settings, clock) as cache:
        yield Stager(cache, HttpSource(client), pace), client


def _existing(path: Path) -> Path:
    """The nearest directory above a path that is there already."""
    return next(parent for parent in (path, *path.absolute().parents) if parent.exists())
