"""Everything that `stager` raises for the world's faults.

As in `catalog.errors`, each has a stable `code` and an HTTP `status`, so that a node's service can send it to a client
that raises it again.
"""

from signer.errors import EXIT_REFUSED, EXIT_UNAVAILABLE, EXIT_UNVERIFIED, PartitaError


class StagerError(PartitaError, code="staging-failed"):
    """Base of all errors of this package."""


class CacheUnusable(StagerError, code="cache-unusable"):
    """The cache's directory, ledger or quota cannot be used as it is."""


class CacheBusy(StagerError, code="cache-busy", status=409, exit_code=EXIT_UNAVAILABLE):
    """Another process owns the cache."""


class CacheDegraded(StagerError, code="cache-degraded", status=503, exit_code=EXIT_UNAVAILABLE):
    """The disk below the cache failed to keep what it was given; nothing more is written until somebody has looked."""


class QuotaExceeded(StagerError, code="quota-exceeded", status=507):
    """What is asked for does not fit into the quota beside what is leased."""


class DiskFull(StagerError, code="disk-full", status=507):
    """The filesystem below the cache has no room, whatever the quota says."""


class NotCached(StagerError, code="not-cached", status=404):
    """The cache does not hold that."""


class InUse(StagerError, code="in-use", status=409, exit_code=EXIT_REFUSED):
    """Something leased would have been evicted."""


class EntryChanged(StagerError, code="entry-changed", status=409, exit_code=EXIT_UNVERIFIED):
    """A cache entry is no longer the one that was verified; it has been dropped."""


class ContentCorrupt(StagerError, code="content-corrupt", status=502, exit_code=EXIT_UNVERIFIED):
    """A source keeps sending bytes that do not have the address asked for."""


class SourceUnavailable(StagerError, code="source-unavailable", status=503, exit_code=EXIT_UNAVAILABLE):
    """A source cannot be reached, or ends its answers early; trying again later may help."""


class SourceLacks(StagerError, code="source-lacks", status=404):
    """A source can be reached and does not have the content."""


class TrackerUnavailable(StagerError, code="tracker-unavailable", status=503, exit_code=EXIT_UNAVAILABLE):
    """The tracker cannot be reached or cannot answer; swarms go on with the peers that they know."""


class TrackerRefuses(StagerError, code="tracker-refuses", status=403, exit_code=EXIT_REFUSED):
    """The tracker will not have this node in a swarm."""


class PeerFailed(StagerError, code="peer-failed", status=503, exit_code=EXIT_UNAVAILABLE):
    """The peer process cannot be started or kept running."""
