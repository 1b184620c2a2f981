"""What the stager's tests share: images in memory and on disk, caches, a real catalog."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from catalog.content.indexing import index_file
from catalog.image.bundle import Bundle
from catalog.image.manifest import Manifest
from stager.cache.cache import Cache
from stager.fetch.http import FetchLimits
from tests.support import factories
from tests.support.stager.catalog_process import catalog
from tests.support.stager.fakes import MIB, Clock, MemorySource, no_sleep

PACE = FetchLimits(connections=3, part_bytes=512 << 10, sleep=no_sleep)


class Served(NamedTuple):
    """A real catalog and the image that it serves."""

    url: str
    bundle: Bundle


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A real catalog process that has one image, of 2 x 6 MiB with holes and a kernel of 1 MiB."""
    bundle = factories.bundle(tmp_path_factory.mktemp("image"), partitions=2, size=6 * MIB)
    with tempfile.TemporaryDirectory(prefix="served") as directory, catalog(Path(directory), [bundle]) as url:
        yield Served(url, bundle)


@pytest.fixture
def clock() -> Clock:
    """Time that moves when told."""
    return Clock()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Where a cache is to be."""
    return tmp_path / "cache"


@pytest.fixture
def cache(root: Path, clock: Clock) -> Iterator[Cache]:
    """An empty cache with room for everything."""
    with Cache(root, 1 << 30, clock) as opened:
        yield opened


@pytest.fixture
def image(tmp_path: Path) -> tuple[Manifest, MemorySource]:
    """An image of a kernel, two partitions with holes and a blank, and a source that has it."""
    return in_memory(factories.bundle(tmp_path / "image", partitions=2, size=4 * MIB))


@pytest.fixture
def fast_root() -> Iterator[Path]:
    """A directory where fsync costs nothing, for tests that do it thousands of times."""
    where = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=where, prefix="cache") as directory:
        yield Path(directory)


def in_memory(bundle: Bundle) -> tuple[Manifest, MemorySource]:
    """A source that has all of an image."""
    paths = {address: bundle.content(address) for address in bundle.manifest.contents()}
    contents = {address: path.read_bytes() for address, path in paths.items()}
    measured = {address: index_file(path) for address, path in paths.items()}
    return bundle.manifest, MemorySource(contents, measured)


def without_blanks(manifest: Manifest) -> Manifest:
    """The same image with contents only."""
    disks = tuple(disk for disk in manifest.disks if disk.partition.blank is None)
    return manifest.model_copy(update={"disks": disks})
