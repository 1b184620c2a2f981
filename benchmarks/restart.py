"""A node starts again: how long until it offers what it has; how fast it re-reads it; how long eight tiny contents take."""

import multiprocessing
import os
import random
import resource
import socket
import statistics
import subprocess
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.staging import timed
from catalog.client.client import CatalogClient
from catalog.content.indexing import index_file
from catalog.image.address import Address
from catalog.image.bundle import Bundle
from catalog.image.manifest import BareDisk
from catalog.swarm.torrent import info_hash, short_hash, torrent_file
from catalog.swarm.tracker import Endpoint
from stager.cache.cache import Cache
from stager.fetch.resume import read_boot_id
from stager.fetch.sources import HttpSource
from stager.scrubber import Scrubber
from stager.staging import Stager
from stager.swarm.sharing import CacheSharing
from stager.swarm.swarm import Swarm, SwarmOptions
from tests.support import factories
from tests.support.stager.catalog_process import catalog

MIB = 1 << 20
CONTENTS, SIZE = 16, 17 * MIB
LARGE = 512 * MIB
TINY, TINY_SIZE = 8, 192 << 10
ROUNDS = 3


def run(workdir: Path) -> dict[str, list[dict[str, Any]]]:
    """Measure; see benchmarks.__main__ for the form of a row."""
    return {"rows": [_offering(workdir / "offer"), _scrubbing(workdir / "scrub"), _tiny(workdir / "tiny")]}


def _offering(place: Path) -> dict[str, Any]:
    """From opening the cache until the last content is served to who asks for it; beside, a full check by libtorrent."""
    contents = _fill(place, CONTENTS, SIZE)
    ours = []
    for _ in range(ROUNDS):
        os.sync()
        began = time.perf_counter()
        boot = read_boot_id()
        with (
            Cache(place / "cache", 4 << 30, time.time) as cache,
            Swarm(None, SwarmOptions(listen="127.0.0.1:0"), boot=boot) as swarm,
            CacheSharing(cache, swarm, None, boot=boot, rng=random.Random(1)) as sharing,  # noqa: S311 - spreads requests
        ):
            assert sharing.offer_all() == CONTENTS
            swarm.add_peers(swarm.torrents[0], {Endpoint("127.0.0.1", 9)})  # who is named may connect
            for address in contents:
                _handshake(swarm.port, address)
            ours.append(time.perf_counter() - began)
    peer = _libtorrent_check(place, contents)
    seconds = statistics.median(ours)
    return {
        "name": f"from start to seeding {CONTENTS} contents of {SIZE // MIB} MiB, beside libtorrent's check of them",
        "ours": seconds,
        "peer": peer,
        "unit": "s",
        "ratio": seconds / peer,
        "target": "< 1 s",
        "bound": 1.0 / peer,
        "met": seconds < 1.0,
    }


def _scrubbing(place: Path) -> dict[str, Any]:
    """The scrubber without its limit, against libtorrent's full check of the same file; both from the page cache."""
    (address,) = _fill(place, 1, LARGE)
    ours, peers, cpu = [], [], 0.0
    for _ in range(ROUNDS):
        peers.append(_libtorrent_check(place, {address: Path()}))
        with Cache(place / "cache", 4 << 30, time.time) as cache:
            scrubber = Scrubber(cache, lambda _: None, lambda _: None, 1.0, time.time)
            entry = cache.entry(address)
            busy, began = _busy(), time.perf_counter()
            assert scrubber.scrub(entry)
            ours.append(LARGE / MIB / (time.perf_counter() - began))
            cpu = _busy() - busy
    mine, theirs = statistics.median(ours), statistics.median(LARGE / MIB / one for one in peers)
    return {
        "name": f"scrubbing {LARGE >> 20} MiB without a limit, against libtorrent's full check",
        "ours": mine,
        "peer": theirs,
        "unit": "MiB/s",
        "ratio": mine / theirs,
        "target": ">= 0.4",
        "bound": 0.4,
        "met": mine >= 0.4 * theirs,
        "cpu_s": cpu,
    }


def _tiny(place: Path) -> dict[str, Any]:
    """Eight tiny contents, durable and leased, against curl fetching and sha256sum checking the same."""
    addresses = []
    (place / "image" / "blobs").mkdir(parents=True)
    for number in range(TINY):
        fresh = place / "image" / "blobs" / f"new{number}"
        fresh.write_bytes(os.urandom(TINY_SIZE))
        addresses.append(index_file(fresh).address)
        fresh.rename(place / "image" / "blobs" / str(addresses[-1]))
    manifest = factories.manifest(addresses)
    disks = tuple(disk for disk in manifest.disks if isinstance(disk, BareDisk) and disk.partition.blank is None)
    bundle = Bundle.create(place / "image", manifest.model_copy(update={"disks": disks}))
    ours, peers = [], []
    with catalog(place / "served", [bundle]) as url, CatalogClient(url) as client:
        for number in range(2 * ROUNDS + 1):
            files = [str(place / f"curl{at}") for at in range(len(addresses))]
            command = ["curl", "-sS", "--fail"]
            for address, file in zip(addresses, files, strict=True):
                command += ["-o", file, f"{url}/v1/contents/{address}"]

            def peer(command: list[str] = command, files: list[str] = files) -> None:
                subprocess.run(command, check=True)
                subprocess.run(["sha256sum", *files], check=True, stdout=subprocess.DEVNULL)

            peers.append(timed(peer))
            with Cache(place / f"cache{number}", 1 << 30, time.time) as cache:
                stager = Stager(cache, HttpSource(client))
                ours.append(timed(lambda stager=stager: stager.stage(bundle.manifest, "bench", 60)))  # type: ignore[misc]
    mine, theirs = statistics.median(ours[1:]), statistics.median(peers[1:])
    return {
        "name": f"staging {TINY} contents of {TINY_SIZE >> 10} KiB, against curl and sha256sum",
        "ours": mine,
        "peer": theirs,
        "unit": "s",
        "ratio": theirs / mine,
        "target": ">= 0.1",
        "bound": 0.1,
        "met": theirs >= 0.1 * mine,
    }


def _fill(place: Path, count: int, size: int) -> dict[Address, Path]:
    """A cache with contents; where their files are."""
    place.mkdir(parents=True)
    found = {}
    with Cache(place / "cache", 4 << 30, time.time) as cache:
        for _ in range(count):
            source = place / "source"
            with source.open("wb") as file:
                for _ in range(size // MIB):
                    file.write(os.urandom(MIB))
            measured = index_file(source)
            address = measured.address
            with cache.reserve({address: size}), cache.fill(address) as incoming:
                assert incoming is not None
                with source.open("rb") as file:
                    for at in range(0, size, MIB):
                        incoming.write(file.read(MIB), at)
                cache.commit(incoming, address)
            found[address] = cache.path(address)
            (place / f"{address}.torrent").write_bytes(torrent_file(address, measured.layer))
            source.unlink()
    return found


def _handshake(port: int, address: Address) -> None:
    """Ask a peer for a content as BEP 3 says, again until it answers."""
    asked = b"\x13BitTorrent protocol" + bytes(7) + b"\x10" + short_hash(address) + b"-PB0000-benchmarking"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 5) as connection:
            connection.sendall(asked)
            answer = connection.recv(68, socket.MSG_WAITALL)
            if answer[28:48] == info_hash(address)[:20]:
                return
        time.sleep(0.01)
    raise RuntimeError(f"{address} is not served")


def _libtorrent_check(place: Path, contents: dict[Address, Path]) -> float:
    """Seconds in which libtorrent checks the files, in a process of its own, tuned as the facts say."""
    torrents = [str(place / f"{address}.torrent") for address in contents]
    shelves = [str(place / "cache" / "partitions" / str(address)[:2]) for address in contents]
    names = [str(address) for address in contents]
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        pool.submit(time.time).result()
        return pool.submit(_check, torrents, shelves, names).result()


def _check(torrents: list[str], shelves: list[str], names: list[str]) -> float:
    import libtorrent as lt

    session = lt.session(
        {"hashing_threads": 2, "checking_mem_usage": 2048, "enable_dht": False, "enable_lsd": False,
         "listen_interfaces": "127.0.0.1:0", "active_checking": -1, "alert_mask": 0}
    )  # fmt: skip
    began = time.perf_counter()
    handles = []
    for torrent, shelf, name in zip(torrents, shelves, names, strict=True):
        params = lt.load_torrent_file(torrent)
        params.save_path, params.renamed_files = shelf, {0: name}
        params.flags &= ~(lt.torrent_flags.auto_managed | lt.torrent_flags.paused)
        handles.append(session.add_torrent(params))
    deadline = time.monotonic() + 300
    while not all(handle.status().is_seeding for handle in handles):
        if time.monotonic() > deadline:
            raise RuntimeError("libtorrent did not finish its check")
        time.sleep(0.005)
    return time.perf_counter() - began


def _busy() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
