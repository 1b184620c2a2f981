"""Builds a node's stager from its settings."""

import logging
import os
import random
import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from catalog.client.credential_file import read_credential
from stager.cache.cache import Cache
from stager.errors import PeerFailed
from stager.fetch.http import FetchLimits
from stager.fetch.rate_limit import RateLimit
from stager.fetch.resume import read_boot_id
from stager.fetch.sources import HttpSource
from stager.scrubber import Scrubber
from stager.settings import NodeSettings
from stager.staging import Stager
from stager.swarm.grants import CatalogCredentialsProvider, CredentialsProvider, node_label, public_credentials
from stager.swarm.sharing import CacheSharing
from stager.swarm.swarm import Swarm, SwarmOptions
from stager.swarm.tracker_client import TrackerClient

if TYPE_CHECKING:  # it loads the TUF library, which is slow and only needed to ask a catalog
    from catalog.client.trusted import TrustedCatalog

log = logging.getLogger("partita.node")

NAME = "-PA0100-"
"""Prefix of our peer IDs (the convention of BEP 20: two letters for the program, four digits for its version)."""

DEFAULT_QUOTA_SHARE = 0.7
"""The share of a filesystem smaller than the default quota that the cache may use unless a quota is set."""


def quota_bytes(settings: NodeSettings) -> int:
    """Return the cache's quota in bytes: as set; only the default is reduced on a small filesystem."""
    default = NodeSettings.model_fields["cache_quota"].default
    if settings.cache_quota != default:
        return settings.cache_quota
    places = (settings.cache, *settings.cache.absolute().parents)
    found = os.statvfs(next(place for place in places if place.exists()))
    return min(settings.cache_quota, int(found.f_blocks * found.f_frsize * DEFAULT_QUOTA_SHARE))


def open_cache(settings: NodeSettings, clock: Callable[[], float]) -> Cache:
    """Open the node's cache; errors as :class:`stager.cache.cache.Cache`."""
    quota = quota_bytes(settings)
    shares = {vo: int(part * quota) for vo, part in settings.shares.items()}
    return Cache(settings.cache, quota, clock, grace=settings.trash_grace, shares=shares)


def open_catalog(
    settings: NodeSettings, clock: Callable[[], float], alarm: Callable[[str], None] = lambda _message: None
) -> "TrustedCatalog":
    """Make the client of the node's catalog and mirrors, which trusts them by the pinned root, and without one not at all."""
    from catalog.client.trusted import TrustedCatalog, read_pin

    return TrustedCatalog(
        settings.freshness,
        lambda: read_pin(settings.pinned_root),
        [settings.catalog, *settings.mirrors],
        lambda: datetime.fromtimestamp(clock(), UTC),
        credential=read_credential(settings.credential),
        alarm=alarm,
    )


@contextmanager
def open_stager(
    settings: NodeSettings,
    clock: Callable[[], float],
    *,
    service: bool = False,
    alarm: Callable[[str], None] = lambda _message: None,
) -> Iterator[tuple[Stager, "TrustedCatalog"]]:
    """Open a stager over the node's cache and catalog, and the client of that catalog; closed when the block ends.

    Args:
        service: share contents with other nodes, and scrub the cache, while the block runs.
        alarm: called with a message when one title names two images, as for `TrustedCatalog`.
    """
    throttle = RateLimit(settings.download_limit)
    limits = FetchLimits(connections=settings.connections, part_bytes=settings.part_bytes, throttle=throttle)
    with ExitStack() as closing:
        client = closing.enter_context(open_catalog(settings, clock, alarm))
        cache = closing.enter_context(open_cache(settings, clock))
        sharing = _share(settings, cache, closing) if service and settings.swarm else None
        stager = Stager(cache, HttpSource(client), limits, sharing)
        if service:
            scrubber = Scrubber(cache, stager.restage, RateLimit(settings.scrub_rate), settings.scrub_interval, clock)
            closing.enter_context(scrubber)
        yield stager, client


def _share(settings: NodeSettings, cache: Cache, closing: ExitStack) -> CacheSharing | None:
    """Start the node's part in swarms; None if that fails, and all contents are fetched over HTTP."""
    rng = random.Random(secrets.token_bytes(16))  # noqa: S311 - it spreads requests and keeps no secret
    options = SwarmOptions(
        listen=settings.swarm_listen,
        upload_limit=settings.upload_limit,
        download_limit=settings.download_limit,
        log=settings.directory / "peer.log",
        name=NAME + secrets.token_hex(6),
    )
    boot = read_boot_id()
    credentials = _credentials_provider(settings, closing)
    peer_id, url = secrets.token_bytes(20), settings.catalog + "/v1"
    tracker = closing.enter_context(TrackerClient(url, peer_id=peer_id, site=settings.site, credentials=credentials))
    try:
        swarm = closing.enter_context(Swarm(tracker, options, boot=boot, credentials=credentials))
    except PeerFailed as exc:
        log.warning("%s; fetching contents over HTTP only", exc)
        return None
    sharing = closing.enter_context(CacheSharing(cache, swarm, tracker, boot=boot, rng=rng))
    log.info("offering %d contents to other nodes on port %d", sharing.offer_all(), swarm.port)
    return sharing


def _credentials_provider(settings: NodeSettings, closing: ExitStack) -> CredentialsProvider:
    """Make the provider of swarm credentials: by the site's credential; without one only for public contents."""
    credential = read_credential(settings.credential)
    if not credential:
        return public_credentials
    from catalog.client.client import CatalogClient

    client = closing.enter_context(CatalogClient(settings.catalog, credential=credential))
    return CatalogCredentialsProvider(client.grant, node_label())
