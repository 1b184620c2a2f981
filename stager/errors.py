"""Everything that `stager` raises for the world's faults.

As in `catalog.errors`, each has a stable `code` and an HTTP `status`, so that a node's service can send it to a client
that raises it again.
"""

from signer.errors import EXIT_REFUSED, EXIT_UNAVAILABLE, EXIT_UNVERIFIED, PartitaError


class StagerError(PartitaError):
    """Base of all errors of this package."""

    code = "staging-failed"


class CacheUnusable(StagerError):
    """The cache's directory, ledger or quota cannot be used as it is."""

    code = "cache-unusable"


class CacheBusy(StagerError):
    """Another process owns the cache."""

    exit_code = EXIT_UNAVAILABLE
    code, status = "cache-busy", 409


class CacheDegraded(StagerError):
    """The disk below the cache failed to keep what it was given; nothing more is written until somebody has looked."""

    exit_code = EXIT_UNAVAILABLE
    code, status = "cache-degraded", 503


class QuotaExceeded(StagerError):
    """What is asked for does not fit into the quota beside what is leased."""

    code, status = "quota-exceeded", 507


class DiskFull(StagerError):
    """The filesystem below the cache has no room, whatever the quota says."""

    code, status = "disk-full", 507


class NotCached(StagerError):
    """The cache does not hold that."""

    code, status = "not-cached", 404


class InUse(StagerError):
    """Something leased would have been evicted."""

    exit_code = EXIT_REFUSED
    code, status = "in-use", 409


class EntryChanged(StagerError):
    """A cache entry is no longer the one that was verified; it has been dropped."""

    exit_code = EXIT_UNVERIFIED
    code, status = "entry-changed", 409


class ContentCorrupt(StagerError):
    """A source keeps sending bytes that do not have the address asked for."""

    exit_code = EXIT_UNVERIFIED
    code, status = "content-corrupt", 502


class SourceUnavailable(StagerError):
    """A source cannot be reached, or ends its answers early; trying again later may help."""

    exit_code = EXIT_UNAVAILABLE
    code, status = "source-unavailable", 503


class SourceLacks(StagerError):
    """A source can be reached and does not have the content."""

    code, status = "source-lacks", 404


class TrackerUnavailable(StagerError):
    """The tracker cannot be reached or cannot answer; swarms go on with the peers that they know."""

    exit_code = EXIT_UNAVAILABLE
    code, status = "tracker-unavailable", 503


class TrackerRefuses(StagerError):
    """The tracker will not have this node in a swarm."""

    exit_code = EXIT_REFUSED
    code, status = "tracker-refuses", 403


class PeerFailed(StagerError):
    """The peer process cannot be started or kept running."""

    exit_code = EXIT_UNAVAILABLE
    code, status = "peer-failed", 503
