"""Putting a node's stager together from its settings."""

import logging
import os
import random
import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from catalog.client.credential_file import read_credential
from stager.cache.cache import Cache
from stager.errors import CacheUnusable, PeerFailed
from stager.fetch.http import FetchLimits
from stager.fetch.rate_limit import RateLimit
from stager.fetch.resume import read_boot_id
from stager.fetch.sources import HttpSource
from stager.scrubber import Scrubber
from stager.settings import NodeSettings
from stager.staging import Stager
from stager.swarm.grants import CatalogCredentialsProvider, CredentialsProvider, node_label, public_credentials
from stager.swarm.options import SwarmOptions
from stager.swarm.sharing import CacheSharing
from stager.swarm.swarm import Swarm
from stager.swarm.tracker_client import TrackerClient

if TYPE_CHECKING:  # it loads the TUF library, which only those pay for who ask a catalog
    from catalog.client.trusted import TrustedCatalog

log = logging.getLogger("partita.node")

NAME = "-PA0100-"
"""What our peer IDs begin with (the convention of BEP 20: two letters for the program, four figures for its version)."""

DEFAULT_QUOTA_SHARE = 0.7
"""Of a filesystem that is smaller than the default quota, what the cache may take unless the settings say otherwise."""


def quota_bytes(settings: NodeSettings) -> int:
    """The cache's quota in bytes: as set; the default gives way to a small filesystem, a quota that was set does not."""
    default = NodeSettings.model_fields["cache_quota"].default
    if settings.cache_quota != default:
        return settings.cache_quota
    found = os.statvfs(_existing(settings.cache))
    return min(settings.cache_quota, int(found.f_blocks * found.f_frsize * DEFAULT_QUOTA_SHARE))


def open_cache(settings: NodeSettings, clock: Callable[[], float]) -> Cache:
    """Open the node's cache; errors as :class:`stager.cache.cache.Cache`."""
    room = quota_bytes(settings)
    shares = {vo: int(part * room) for vo, part in settings.shares.items()}
    return Cache(settings.cache, room, clock, grace=settings.trash_grace, shares=shares)


def open_catalog(
    settings: NodeSettings, clock: Callable[[], float], alarm: Callable[[str], None] = lambda _said: None
) -> "TrustedCatalog":
    """The node's catalog and mirrors, believed by the root that is pinned; without one nothing of them is believed."""
    from catalog.client.trusted import TrustedCatalog

    def root() -> bytes | None:
        try:
            return settings.pinned_root.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise CacheUnusable(f"{settings.pinned_root}: the pinned root cannot be read ({exc.strerror})") from exc

    def now() -> datetime:
        return datetime.fromtimestamp(clock(), UTC)

    return TrustedCatalog(
        settings.freshness,
        root,
        [settings.catalog, *settings.mirrors],
        now,
        credential=read_credential(settings.credential),
        alarm=alarm,
    )


@contextmanager
def open_stager(
    settings: NodeSettings,
    clock: Callable[[], float],
    *,
    service: bool = False,
    alarm: Callable[[str], None] = lambda _said: None,
) -> Iterator[tuple[Stager, "TrustedCatalog"]]:
    """A stager over the node's cache and catalog, and that catalog as the node believes it; closed when the block ends.

    Args:
        service: share contents with other nodes, and scrub the cache, as long as the block runs.
        alarm: see `TrustedCatalog`.
    """
    pace = FetchLimits(
        connections=settings.connections,
        part_bytes=settings.part_bytes,
        throttle=RateLimit(settings.download_limit),
    )
    with ExitStack() as closing:
        client = closing.enter_context(open_catalog(settings, clock, alarm))
        cache = closing.enter_context(open_cache(settings, clock))
        sharing = _share(settings, cache, closing) if service and settings.swarm else None
        stager = Stager(cache, HttpSource(client), pace, sharing)
        if service:
            scrubber = Scrubber(cache, stager.restage, RateLimit(settings.scrub_rate), settings.scrub_interval, clock)
            closing.enter_context(scrubber)
        yield stager, client


def _share(settings: NodeSettings, cache: Cache, closing: ExitStack) -> CacheSharing | None:
    """The node's part in swarms, or None when it cannot have one: then everything comes over HTTP."""
    rng = random.Random(secrets.token_bytes(16))  # noqa: S311 - it spreads requests, it hides nothing
    options = SwarmOptions(
        listen=settings.swarm_listen,
        upload_limit=settings.upload_limit,
        download_limit=settings.download_limit,
        log=settings.directory / "peer.log",
        name=NAME + secrets.token_hex(6),
    )
    boot = read_boot_id()
    admission = _admission(settings, closing)
    tracker = closing.enter_context(
        TrackerClient(
            settings.catalog + "/v1",
            peer_id=secrets.token_bytes(20),
            site=settings.site,
            grants=lambda address: admission(address).grant,
            authorities=lambda address: admission(address).authority,
        )
    )
    try:
        swarm = closing.enter_context(Swarm(tracker, options, boot=boot, admission=admission))
    except PeerFailed as exc:
        log.warning("%s; contents come over HTTP alone", exc)
        return None
    sharing = closing.enter_context(CacheSharing(cache, swarm, tracker, boot=boot, rng=rng))
    log.info("%d contents are offered to other nodes on port %d", sharing.offer_all(), swarm.port)
    return sharing


def _admission(settings: NodeSettings, closing: ExitStack) -> CredentialsProvider:
    """What opens swarms to the node: as its site's credential allows; a stranger has what is public."""
    credential = read_credential(settings.credential)
    if not credential:
        return public_credentials
    from catalog.client.client import CatalogClient

    return CatalogCredentialsProvider(
        closing.enter_context(CatalogClient(settings.catalog, credential=credential)), node_label()
    )


def _existing(path: Path) -> Path:
    """The nearest directory above a path that is there already."""
    return next(parent for parent in (path, *path.absolute().parents) if parent.exists())
