"""The errors of `stager`, each with a stable `code` and an HTTP `status`; and the translation of OSError into them."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from signer.errors import EXIT_REFUSED, EXIT_UNAVAILABLE, EXIT_UNVERIFIED, PartitaError


class StagerError(PartitaError, code="staging-failed"):
    """Base of all errors of this package."""


class CacheUnusable(StagerError, code="cache-unusable"):
    """The cache's directory, index or quota cannot be used."""


class CacheBusy(StagerError, code="cache-busy", status=409, exit_code=EXIT_UNAVAILABLE):
    """Another process owns the cache."""


class CacheDegraded(StagerError, code="cache-degraded", status=503, exit_code=EXIT_UNAVAILABLE):
    """The disk below the cache failed to make data durable; nothing more is written until an operator restarts the node."""


class QuotaExceeded(StagerError, code="quota-exceeded", status=507):
    """The request does not fit into the quota together with the leased entries."""


class DiskFull(StagerError, code="disk-full", status=507):
    """The filesystem below the cache is full, whatever the quota."""


class NotCached(StagerError, code="not-cached", status=404):
    """The cache does not have the item."""


class InUse(StagerError, code="in-use", status=409, exit_code=EXIT_REFUSED):
    """The entry is leased and cannot be evicted."""


class EntryChanged(StagerError, code="entry-changed", status=409, exit_code=EXIT_UNVERIFIED):
    """A cache entry is no longer the file that was verified; it has been dropped."""


class ContentCorrupt(StagerError, code="content-corrupt", status=502, exit_code=EXIT_UNVERIFIED):
    """A source keeps sending bytes that do not have the address asked for."""


class SourceUnavailable(StagerError, code="source-unavailable", status=503, exit_code=EXIT_UNAVAILABLE):
    """A source cannot be reached, or ends its answers early; trying again later may help."""


class SourceLacks(StagerError, code="source-lacks", status=404):
    """A source can be reached but does not have the content."""


class TrackerUnavailable(StagerError, code="tracker-unavailable", status=503, exit_code=EXIT_UNAVAILABLE):
    """The tracker cannot be reached or cannot answer; swarms continue with the peers that they know."""


class TrackerRefuses(StagerError, code="tracker-refuses", status=403, exit_code=EXIT_REFUSED):
    """The tracker refuses this node in a swarm."""


class PeerFailed(StagerError, code="peer-failed", status=503, exit_code=EXIT_UNAVAILABLE):
    """The peer process cannot be started or kept running."""


DISK_FULL_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Errors of a full disk: for all users, for this user, or for one file."""


def to_stager_error(root: Path, exc: OSError) -> StagerError:
    """Return the error to raise for a cache in that directory: DiskFull or CacheUnusable."""
    if exc.errno in DISK_FULL_ERRNOS:
        return DiskFull(f"{root}: the disk is full ({exc.strerror}); free some space and stage again")
    return CacheUnusable(f"{root}: {exc.strerror or exc}; check the directory and its disk")


@contextmanager
def translate_os_errors(root: Path) -> Iterator[None]:
    """Turn OSError into DiskFull or CacheUnusable within the block."""
    try:
        yield
    except OSError as exc:
        raise to_stager_error(root, exc) from exc
