"""Staging beside the site's service: `partita ec2 upload` has separate caches, since a cache has one owner.

    DIR/uploads/1, DIR/uploads/2, ...    each for one command at a time, kept for the next

Contents that the service's cache has already are linked and hashed again, not fetched (`stager.cache.directory`). Two
processes upload the same content one after the other, by the lock of the journal, and the same image by that of `image_upload`.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final, Self

from catalog.client.trusted import TrustedCatalog
from catalog.image.manifest import Blank, Manifest
from signer.runtime.progress import Advance
from stager.cache.cache import Cache
from stager.cache.directory import link_contents
from stager.errors import CacheBusy
from stager.factory import quota_bytes
from stager.fetch.http import FetchLimits
from stager.fetch.sources import HttpSource
from stager.settings import NodeSettings
from stager.staging import StagedImage, Stager

UPLOADS: Final = "uploads"

MOST: Final = 16
"""Commands at one time: each may fill a cache. More are a mistake."""


class UploadCache:
    """Stages and keeps images for one command, as `stager.staging.Stager` does for a service. For one thread.

    Nothing is opened before the first image is staged.

    Args:
        settings: of the site's host for staging (`open_account.staging_settings`).
        catalog: the site's verified catalog.
        clock: seconds since the epoch.
    """

    def __init__(self, settings: NodeSettings, catalog: TrustedCatalog, clock: Callable[[], float]) -> None:
        self._settings, self._catalog, self._clock = settings, catalog, clock
        self._open = ExitStack()
        self._cache: Cache | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()
        self._cache = None

    def stage(
        self, manifest: Manifest, holder: str, ttl: float, advance: Advance, *, extra: Sequence[Blank] = ()
    ) -> StagedImage:
        """As `stager.staging.Stager.stage`; CacheBusy where too many commands are at work."""
        if self._cache is None:
            self._cache = self._open.enter_context(self._take(manifest))
        pace = FetchLimits(connections=self._settings.connections, part_bytes=self._settings.part_bytes)
        stager = Stager(self._cache, HttpSource(self._catalog), pace)
        return stager.stage(manifest, holder, ttl, advance, extra=extra)

    @property
    def cache(self) -> Cache:
        """The cache of the staged images; only after `stage`."""
        assert self._cache is not None  # noqa: S101 - only staged contents are checked or released
        return self._cache

    def _take(self, manifest: Manifest) -> Cache:
        """The first cache that is not in use, with the service's contents of an image linked."""
        quota = quota_bytes(self._settings)
        for number in range(1, MOST + 1):
            root: Path = self._settings.directory / UPLOADS / str(number)
            try:
                link_contents(self._settings.cache, root, manifest.contents())
                return Cache(root, quota, self._clock)
            except CacheBusy:
                continue
        raise CacheBusy(
            f"{self._settings.directory / UPLOADS}: {MOST} uploads are under way beside the site's service; wait for one"
        )
