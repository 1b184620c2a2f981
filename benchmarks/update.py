"""Staging an update of an image that a node has: bytes on the wire, for an edit in place and for a filesystem made anew.

Beside it, on the same pair and the same bytes: casync with a seed, zsync, rsync. Each is told of the old image.
"""

import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

from benchmarks.counting import counted
from benchmarks.staging import high_water
from catalog.client.client import CatalogClient
from catalog.content.indexing import HINT_BLOCK, ContentIndex, index_file
from catalog.image.address import LEAF, Address
from catalog.image.bundle import Bundle
from catalog.image.manifest import BareDisk
from stager.cache.cache import Cache
from stager.fetch.sources import HttpSource
from stager.staging import Stager
from tests.support import factories
from tests.support.stager.catalog_process import catalog

MIB = 1 << 20
SIZE = 512 * MIB
FILES = 9000
EDITED = 60
PEER_SECONDS = 120
"""What a peer may take: zsync takes hours over images of which much is zero (each zero block matches all others)."""

SYSTEM = {"PATH": "/usr/sbin:/sbin:/usr/bin:/bin", "LC_ALL": "C", "E2FSPROGS_FAKE_TIME": "946684800"}


@dataclass(frozen=True)
class Pair:
    """An old image, a new one, and the fewest bytes that could be sent."""

    old: Path
    new: Path
    old_measured: ContentIndex
    new_measured: ContentIndex

    def by_leaf(self) -> int:
        """Leaves of the new one that are neither zero nor the same at the same place, in bytes."""
        with self.old.open("rb") as old, self.new.open("rb") as new:
            return sum(
                len(leaf)
                for leaf in iter(partial(new.read, LEAF), b"")
                if old.read(LEAF) != leaf and leaf != bytes(len(leaf))
            )

    def by_block(self) -> int:
        """Blocks of 4 KiB of the new one that are neither zero nor anywhere in the old one, in bytes."""
        old, new = (memoryview(one.hints).cast("Q") for one in (self.old_measured, self.new_measured))
        here = set(old) | {0}
        return sum(hint not in here for hint in new) * HINT_BLOCK


def run(workdir: Path, size: int = SIZE, files: int = FILES) -> dict[str, list[dict[str, Any]]]:
    """Measure; see benchmarks.__main__ for the form of a row."""
    rows: list[dict[str, Any]] = []
    old, edited, rebuilt = images(workdir / "images", size, files)
    measured = {path: index_file(path) for path in (old, edited, rebuilt)}
    bounds: list[tuple[str, Path, Callable[[Pair], int], str, float]] = [
        ("edited in place", edited, Pair.by_leaf, "16 KiB leaves that differ", 1.1),
        ("filesystem made anew", rebuilt, Pair.by_block, "4 KiB blocks that are nowhere here", 1.5),
    ]
    for what, new, bound_of, bound_name, target in bounds:
        pair = Pair(old, new, measured[old], measured[new])
        place = workdir / new.stem
        place.mkdir()
        wire, seconds, cpu = ours(pair, place)
        bound = bound_of(pair)
        rows.append(
            {
                "name": f"{what}: wire bytes, against {bound_name}",
                "ours": wire / MIB,
                "peer": bound / MIB,
                "unit": "MiB",
                "ratio": wire / bound,
                "target": f"<= {target}",
                "bound": target,
                "met": wire <= target * bound,
                "cpu_s": cpu,
                "rss_mib": high_water() / 1024,
            }
        )
        for tool, peer in (("casync with seed", casync), ("zsync", zsync), ("rsync", rsync)):
            if shutil.which(tool.split()[0], path=SYSTEM["PATH"]) is None:
                continue  # what is not installed cannot be beside
            try:
                theirs, took = peer(pair, place)
            except subprocess.TimeoutExpired:
                print(f"   {what}: {tool} did not end within {PEER_SECONDS} s (ours: {seconds:.1f} s)", file=sys.stderr)
                continue
            rows.append(
                {
                    "name": f"{what}: beside {tool} ({took:.1f} s, ours {seconds:.1f} s)",
                    "ours": wire / MIB,
                    "peer": theirs / MIB,
                    "unit": "MiB",
                    "ratio": wire / theirs,
                    "target": "told",
                    "bound": 1.0,
                    "met": True,
                }
            )
        shutil.rmtree(place)
    return {"rows": rows}


def ours(pair: Pair, place: Path) -> tuple[int, float, float]:
    """Stage the old image, then the new one, from a real catalog: (bytes on the wire, seconds, CPU seconds)."""
    first, second = (
        _bundle(place / name, path, one.address)
        for name, path, one in (("old", pair.old, pair.old_measured), ("new", pair.new, pair.new_measured))
    )
    with (
        catalog(place / "s", [first, second]) as url,
        counted(url) as relay,
        CatalogClient(relay.url) as client,
        Cache(place / "cache", 8 << 30, time.time) as cache,
    ):
        stager = Stager(cache, HttpSource(client))
        stager.stage(first.manifest, "bench", 3600)
        relay.taken()
        began, busy = time.perf_counter(), time.process_time()
        stager.stage(second.manifest, "bench", 3600)
        seconds, cpu = time.perf_counter() - began, time.process_time() - busy
        return relay.taken(), seconds, cpu


def casync(pair: Pair, place: Path) -> tuple[int, float]:
    """casync: chunks over HTTP, the old image as the seed."""
    store = place / "casync"
    store.mkdir()
    _tool("casync", "make", f"--store={store}/default.castr", str(store / "new.caibx"), str(pair.new))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(store)))
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        with counted(f"http://127.0.0.1:{server.server_port}") as relay:
            began = time.perf_counter()
            target = place / "casync.img"
            _tool("casync", "extract", f"--seed={pair.old}", f"{relay.url}/new.caibx", str(target))
            seconds = time.perf_counter() - began
            wire = relay.taken()
    finally:
        server.shutdown()
        server.server_close()
    _same(target, pair.new)
    return wire, seconds


def zsync(pair: Pair, place: Path) -> tuple[int, float]:
    """zsync: ranges from a catalog, which answers several at once; its control file counts as sent."""
    bundle = _bundle(place / "zsync", pair.new, pair.new_measured.address)
    with catalog(place / "z", [bundle]) as url, counted(url) as relay:
        control, target = place / "new.zsync", place / "zsync.img"
        source = f"{relay.url}/v1/contents/{pair.new_measured.address}"
        _tool("zsyncmake", "-u", source, "-o", str(control), str(pair.new))
        began = time.perf_counter()
        _tool("zsync", "-q", "-i", str(pair.old), "-o", str(target), str(control))
        seconds = time.perf_counter() - began
        wire = relay.taken() + control.stat().st_size
    _same(target, pair.new)
    return wire, seconds


def rsync(pair: Pair, place: Path) -> tuple[int, float]:
    """rsync, in place over the old image; both directions count."""
    target = place / "rsync.img"
    shutil.copyfile(pair.old, target)
    began = time.perf_counter()
    told = _tool("rsync", "--inplace", "--no-whole-file", "--stats", str(pair.new), str(target))
    seconds = time.perf_counter() - began
    _same(target, pair.new)
    totals = [line.split(":")[1] for line in told.splitlines() if line.startswith("Total bytes ")]
    return sum(int(text.strip().replace(",", "")) for text in totals), seconds


def images(place: Path, size: int, files: int) -> tuple[Path, Path, Path]:
    """An ext4 filesystem; the same with some files written anew in place; the same files in a filesystem made anew."""
    rng = random.Random(2026)  # noqa: S311 - data that is the same every time
    tree = place / "tree"
    names = []
    for number in range(files):
        path = tree / f"d{number % 97:02d}" / f"e{number % 13:02d}" / f"f{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.randbytes(min(4 * MIB, int(rng.lognormvariate(9.6, 1.5)))))
        names.append(path)
    old = _filesystem(place / "old.img", tree, size)
    edited = place / "edited.img"
    shutil.copyfile(old, edited)
    commands = []
    for path in [*rng.sample(names, EDITED), tree / "new"]:
        content = rng.randbytes(path.stat().st_size if path.exists() else MIB)
        if path.exists():
            commands.append(f"rm /{path.relative_to(tree)}")
        path.write_bytes(content)
        commands.append(f"write {path} /{path.relative_to(tree)}")
    script = place / "edits"
    script.write_text("\n".join(commands) + "\n")
    _tool("debugfs", "-w", "-f", str(script), str(edited))
    rebuilt = _filesystem(place / "rebuilt.img", tree, size)
    shutil.rmtree(tree)
    return old, edited, rebuilt


def _filesystem(path: Path, tree: Path, size: int) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
    uuid = "7d0d9c1e-3c52-4b0e-9a43-0e3f7a1b2c3d"
    _tool("mkfs.ext4", "-q", "-F", "-d", str(tree), "-U", uuid, "-E", f"hash_seed={uuid}", str(path))
    return path


def _bundle(root: Path, content: Path, address: Address) -> Bundle:
    """An image of that one content, and a small kernel."""
    (root / "blobs").mkdir(parents=True)
    shutil.copyfile(content, root / "blobs" / str(address))
    kernel = root / "blobs" / "kernel"
    kernel.write_bytes(b"kernel" * 1000)
    kernel_address = index_file(kernel).address
    kernel.rename(root / "blobs" / str(kernel_address))
    manifest = factories.manifest([kernel_address, address], version=root.name)
    disks = tuple(disk for disk in manifest.disks if isinstance(disk, BareDisk) and disk.partition.blank is None)
    return Bundle.create(root, manifest.model_copy(update={"disks": disks}))


def _same(first: Path, second: Path) -> None:
    _tool("cmp", str(first), str(second))
    first.unlink()


def _tool(*command: str) -> str:
    ended = subprocess.run(command, check=True, env=SYSTEM, capture_output=True, text=True, timeout=PEER_SECONDS)
    return ended.stdout


class _Quiet(SimpleHTTPRequestHandler):
    """Says nothing of each request."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass
