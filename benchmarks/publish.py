"""What publishing does to content in one pass (root, data map, piece layer, hint index), against two peers.

libtorrent's set_piece_hashes finds root and layers alone; `casync make` chunks, hashes and stores. Every run is a process
of its own on a file that is in memory; ours and the peer's alternate, and the medians are compared.
"""

import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SIZE = 512 << 20
RUN = 16 << 20
ROUNDS = 5

_OURS = """
from catalog.content.indexing import index_file
def job(path):
    index_file(path)
"""
_LIBTORRENT = """
import libtorrent
from catalog.image.address import piece_length
def job(path):
    size = path.stat().st_size
    torrent = libtorrent.create_torrent(
        [libtorrent.create_file_entry(path.name, size)], piece_length(size), libtorrent.create_torrent.v2_only)
    libtorrent.set_piece_hashes(torrent, str(path.parent))
"""
_TIMED = """
import json, resource, sys, time
from pathlib import Path
begun, cpu = time.perf_counter(), time.process_time()
job(Path(sys.argv[1]))
print(json.dumps({"seconds": time.perf_counter() - begun, "cpu_s": time.process_time() - cpu,
                  "rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))
"""

Figures = dict[str, float]


def run(workdir: Path) -> dict[str, Any]:
    """Compare; rates are MB of content a second, so more is better."""
    disk = _disk(workdir / "disk")
    dense = _dense(workdir / "dense")

    def casync(path: Path) -> Figures:
        return _casync(path, workdir)

    rows = [
        _row("real disk, against libtorrent", disk, _in_python(_LIBTORRENT), 0.8),
        _row("nothing but data, against libtorrent", dense, _in_python(_LIBTORRENT), 0.8),
        _row("real disk, against casync make", disk, casync, 4.0),
    ]
    return {"rows": rows}


def _row(name: str, path: Path, peer: Callable[[Path], Figures], bound: float) -> dict[str, Any]:
    ours = _in_python(_OURS)
    mine, theirs = [], []
    for job in (ours, peer):
        job(path)  # the file comes into memory, and so do the programs
    for _ in range(ROUNDS if bound < 1 else 3):
        mine.append(ours(path))
        theirs.append(peer(path))
    ours_s, peer_s = (statistics.median(each["seconds"] for each in runs) for runs in (mine, theirs))
    megabytes = path.stat().st_size / 1e6
    return {
        "name": name,
        "ours": megabytes / ours_s,
        "peer": megabytes / peer_s,
        "unit": "MB/s",
        "ratio": peer_s / ours_s,
        "target": f">= {bound}",
        "bound": bound,
        "met": peer_s / ours_s >= bound,
        "cpu_s": statistics.median(each["cpu_s"] for each in mine),
        "rss_mib": max(each["rss_mib"] for each in mine),
        "ours_all_s": [each["seconds"] for each in mine],
        "peer_all_s": [each["seconds"] for each in theirs],
        "peer_cpu_s": statistics.median(each["cpu_s"] for each in theirs),
    }


def _in_python(program: str) -> Callable[[Path], Figures]:
    def job(path: Path) -> Figures:
        command = [sys.executable, "-c", program + _TIMED, str(path)]
        done = subprocess.run(command, check=True, capture_output=True, cwd=Path(__file__).parent.parent)
        figures: Figures = json.loads(done.stdout)
        return figures

    return job


def _casync(path: Path, workdir: Path) -> Figures:
    store, index = workdir / "store", workdir / "disk.caibx"
    shutil.rmtree(store, ignore_errors=True)
    begun = time.perf_counter()
    process = os.posix_spawnp(
        "casync",
        ["casync", "make", f"--store={store}", str(index), str(path)],
        os.environ,
        file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)],
    )
    _, status, usage = os.wait4(process, 0)
    seconds = time.perf_counter() - begun
    if status:
        raise RuntimeError(f"casync make ended with status {status}")
    return {"seconds": seconds, "cpu_s": usage.ru_utime + usage.ru_stime, "rss_mib": usage.ru_maxrss / 1024}


def _disk(path: Path) -> Path:
    """512 MiB like a disk: this system's own files, a sixteenth stored zeros, a sixteenth holes."""
    command = ["tar", "--create", "--sort=name", "--ignore-failed-read", "/usr/lib", "/usr/bin", "/usr/share"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as tar, path.open("wb") as file:
        assert tar.stdout is not None
        for index in range(SIZE // RUN):
            if index % 16 == 7:
                file.write(bytes(RUN))
            elif index % 16 == 15:
                file.seek(RUN, os.SEEK_CUR)
            else:
                # A small system has fewer files; what is missing then is data too.
                data = tar.stdout.read(RUN)
                file.write(data + _noise(index).randbytes(RUN - len(data)))
        file.truncate(SIZE)
        tar.kill()
    return path


def _dense(path: Path) -> Path:
    """256 MiB without a zero block: nothing can be skipped."""
    source = _noise(0)
    with path.open("wb") as file:
        for _ in range(SIZE // RUN // 2):
            file.write(source.randbytes(RUN))
    return path


def _noise(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311 - the same bytes in every run
