"""Staging a partition from a catalog over loopback, against curl fetching the same bytes and sha256sum checking them."""

import multiprocessing
import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from catalog.client.client import CatalogClient
from catalog.content.indexing import index_file
from catalog.image.address import Address
from catalog.image.bundle import Bundle
from catalog.image.manifest import BareDisk
from stager.cache.cache import Cache
from stager.fetch.sources import HttpSource
from stager.staging import Stager
from tests.support import factories
from tests.support.stager.catalog_process import catalog

SIZE = 512 << 20
ROUNDS = 3
BOUND = 0.5


def run(workdir: Path, size: int = SIZE, rounds: int = ROUNDS) -> dict[str, list[dict[str, object]]]:
    """Measure.

    Args:
        workdir: an empty directory on the disk to measure.
        size: bytes of the partition, none of them zero.
        rounds: runs of each, interleaved; medians are given.

    Returns:
        One row, in the form of benchmarks.__main__.
    """
    bundle = image(workdir / "image", size)
    address = max(bundle.manifest.contents(), key=lambda one: one.size)
    ours, peers, cpu, rss = [], [], [], 0
    # A process of its own, so that its memory and time are those of staging alone.
    own = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
    with own, catalog(workdir / "served", [bundle]) as url:
        own.submit(time.time).result()
        for _ in range(rounds):
            peers.append(timed(lambda: curl(url, address, workdir / "curl")))
            seconds, busy, rss = own.submit(stage, url, bundle, workdir / "cache").result()
            ours.append(seconds)
            cpu.append(busy)
            shutil.rmtree(workdir / "cache")
            (workdir / "curl").unlink()
    ours_s, peer_s = statistics.median(ours), statistics.median(peers)
    row = {
        "name": f"stage {size >> 20} MiB from a local catalog, against curl and sha256sum",
        "ours": size / ours_s / 1e6,
        "peer": size / peer_s / 1e6,
        "unit": "MB/s",
        "ratio": peer_s / ours_s,
        "target": f">= {BOUND}",
        "bound": BOUND,
        "met": peer_s / ours_s >= BOUND,
        "cpu_s": round(statistics.median(cpu), 3),
        "rss_mib": rss >> 10,
    }
    return {"rows": [row]}


def image(root: Path, size: int) -> Bundle:
    """An image with one large partition without zeros, and a small kernel."""
    (root / "blobs").mkdir(parents=True)
    addresses = []
    for number, length in enumerate((1 << 20, size)):
        fresh = root / "blobs" / f"new{number}"
        with fresh.open("wb") as file:
            for _ in range(length >> 20):
                file.write(os.urandom(1 << 20))
        address = index_file(fresh).address
        fresh.rename(root / "blobs" / str(address))
        addresses.append(address)
    blankless = factories.manifest(addresses)
    disks = tuple(disk for disk in blankless.disks if isinstance(disk, BareDisk) and disk.partition.blank is None)
    return Bundle.create(root, blankless.model_copy(update={"disks": disks}))


def stage(url: str, bundle: Bundle, cache: Path) -> tuple[float, float, int]:
    """Ours: into a fresh cache, verified twice, durable; (seconds, CPU seconds, largest resident set in KiB)."""

    def job() -> None:
        with CatalogClient(url) as client, Cache(cache, 8 << 30, time.time) as opened:
            Stager(opened, HttpSource(client)).stage(bundle.manifest, "benchmark", 3600)

    before = time.process_time()
    seconds = timed(job)
    return seconds, time.process_time() - before, high_water()


def high_water() -> int:
    """The largest resident set of this process in KiB; getrusage's would be that of whoever started it, if larger."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))


def curl(url: str, address: Address, target: Path) -> None:
    """The peer: neither resumed nor durable, hashed once."""
    subprocess.run(["curl", "-sS", "--fail", "-o", str(target), f"{url}/v1/contents/{address}"], check=True)
    subprocess.run(["sha256sum", str(target)], check=True, stdout=subprocess.DEVNULL)


def timed(job: Callable[[], None]) -> float:
    """Seconds that a job takes, after what was written before is on the disk."""
    os.sync()
    start = time.perf_counter()
    job()
    return time.perf_counter() - start
