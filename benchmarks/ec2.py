"""Disks into EBS snapshots: how many blocks are sent, what many workers gain over latency, what preparing costs, memory.

Counts are taken at moto's server (through the tests' proxy, which is as strict as AWS). Rates are taken at an answerer of
our own, because moto spends more on a block than the uploader does; its latency is 100 ms. Nothing leaves the machine.
"""

import hashlib
import multiprocessing
import os
import random
import resource
import secrets
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deployer.ec2.aws.access import AwsAccess
from deployer.ec2.aws.client import AwsClient
from deployer.ec2.snapshots.blocks import BLOCK_SIZE, Layout, Run
from deployer.ec2.snapshots.disk_reader import OpenDisk, block_digests
from deployer.ec2.snapshots.record_store import SnapshotRecords
from deployer.ec2.snapshots.snapshots import Snapshots
from deployer.ec2.snapshots.upload_journal import UploadJournal
from deployer.ec2.snapshots.uploader import MAX_WORKERS, WORKERS, SnapshotUploader
from tests.support.aws.fake_aws import REGION, aws_world
from tests.support.aws.memory_disks import plain_digests

MIB = 1 << 20
LATENCY = 0.1
ONE, MANY = 30, 1500
"""Blocks that one worker sends, and all of them: some seconds each."""
ROUNDS = 3
LARGE = 20 << 30
LARGE_BLOCKS = 1024
MOST_MIB = 256
KEYS = {"AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE", "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY"}


def run(workdir: Path) -> dict[str, list[dict[str, Any]]]:
    """Measure; see benchmarks.__main__ for the form of a row."""
    os.environ.update(KEYS)
    memory = [_memory(workdir, workers) for workers in (WORKERS, 128, MAX_WORKERS)]
    return {"rows": [*_counts(workdir), _latency(workdir), _preparing(workdir), *memory]}


def _counts(workdir: Path) -> list[dict[str, Any]]:
    """Blocks sent for an image, the same again, and its update; against those that are not zero, and those that differ."""
    chance = random.Random(1)  # noqa: S311 - the same disk each time
    old = bytearray(b"".join(chance.choice((bytes(BLOCK_SIZE), chance.randbytes(BLOCK_SIZE))) for _ in range(96)))
    new = bytearray(old)
    for index in chance.sample(range(96), 7):
        new[index * BLOCK_SIZE + 99 : index * BLOCK_SIZE + 103] = b"new!"
    before, after = plain_digests(bytes(old)), plain_digests(bytes(new))
    changed = sum(before.get(index) != after.get(index) for index in before.keys() | after.keys())
    rows = []
    with aws_world(workdir) as world:
        os.environ.update(world.variables())
        snapshots = Snapshots(world.aws(world.profile()), SnapshotRecords(workdir / "ledger"))
        for name, data, wanted in (
            ("blocks sent, first time", old, len(before)),
            ("blocks sent, the same again", old, 0),
            ("blocks sent, an update", new, changed),
        ):
            path = workdir / "disk"
            path.write_bytes(data)
            layout = _layout(len(data), hashlib.sha256(data).hexdigest())
            with _disk(path, layout) as disk:
                sent = snapshots.ensure(disk, family="bench/disk").sent
            ratio = sent / wanted if wanted else 1.0 + sent
            rows.append(_row(name, sent, wanted, "blocks", ratio, 1.0, "exactly", met=sent == wanted))
    return rows


def _latency(workdir: Path) -> dict[str, Any]:
    """Blocks per second of 64 workers and of one, each request answered after 100 ms."""
    path = workdir / "random"
    with path.open("wb") as file:
        for _ in range(MANY):
            file.write(secrets.token_bytes(BLOCK_SIZE))
    ours, theirs, cpu, rss = list[float](), list[float](), [], []
    for _ in range(ROUNDS):
        for workers, blocks, rates in ((1, ONE, theirs), (WORKERS, MANY, ours)):
            rate, spent, peak = _upload(path, blocks * BLOCK_SIZE, workers, LATENCY, workdir)
            rates.append(rate)
        cpu.append(spent)
        rss.append(peak)
    mine, peer = statistics.median(ours), statistics.median(theirs)
    row = _row(f"{WORKERS} workers against 1, 100 ms latency", mine, peer, "blocks/s", mine / peer, 40.0, ">= 40x")
    return row | {"met": mine / peer >= 40, "cpu_s": statistics.median(cpu), "rss_mib": max(rss)}


def _preparing(workdir: Path) -> dict[str, Any]:
    """Reading, zero test and hashing of a GiB, against plain SHA-256 over the same file; the best of each."""
    path, size = workdir / "random", 1 << 30
    while path.stat().st_size < size:
        with path.open("ab") as file:
            file.write(secrets.token_bytes(64 * MIB))
    ours, theirs = [], []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        digest, buffer = hashlib.sha256(), bytearray(MIB)
        with path.open("rb") as file:
            for _ in range(size // MIB):
                file.readinto(buffer)
                digest.update(buffer)
        theirs.append(size / (time.perf_counter() - began) / 1e9)
        began = time.perf_counter()
        with _disk(path, _layout(size, "prepared")) as disk:
            assert len(block_digests(disk)) == size // BLOCK_SIZE
        ours.append(size / (time.perf_counter() - began) / 1e9)
    mine, peer = max(ours), max(theirs)
    row = _row("read, zero test and hash", mine, peer, "GB/s", mine / peer, 0.7, ">= 1 GB/s or 0.7x")
    return row | {"met": mine >= 1 or mine / peer >= 0.7}


def _memory(workdir: Path, workers: int) -> dict[str, Any]:
    """Peak memory of a process that uploads a disk of 20 GiB, of which half a GiB is not zero, with so many workers."""
    path = workdir / "large"
    with path.open("wb") as file:
        for number in range(LARGE_BLOCKS):
            file.seek(number * (LARGE // LARGE_BLOCKS))
            file.write(secrets.token_bytes(BLOCK_SIZE))
        file.truncate(LARGE)
    _, spent, peak = _upload(path, LARGE, workers, LATENCY, workdir)
    row = _row(
        f"peak memory, a disk of 20 GiB, {workers} workers",
        peak,
        MOST_MIB,
        "MiB",
        peak / MOST_MIB,
        1.0,
        f"<= {MOST_MIB} MiB",
    )
    return row | {"met": peak <= MOST_MIB, "cpu_s": spent, "rss_mib": peak}


def _row(
    name: str, ours: float, peer: float, unit: str, ratio: float, bound: float, target: str, *, met: bool = False
) -> dict[str, Any]:
    return {
        "name": name, "ours": ours, "peer": peer, "unit": unit, "ratio": ratio, "bound": bound, "target": target, "met": met
    }  # fmt: skip


def _layout(size: int, name: str) -> Layout:
    return Layout(size=size, runs=(Run(offset=0, length=size, source=name),))


@contextmanager
def _disk(path: Path, layout: Layout) -> Iterator[OpenDisk]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield OpenDisk(layout, [descriptor])
    finally:
        os.close(descriptor)


def _upload(path: Path, size: int, workers: int, latency: float, workdir: Path) -> tuple[float, float, float]:
    """Blocks per second, CPU seconds and peak MiB of an upload, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.ebs_responder", str(latency)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as answerer:
        assert answerer.stdout is not None
        url = f"http://127.0.0.1:{int(answerer.stdout.readline())}"
        try:
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                return pool.submit(_measured, url, path, size, workers, workdir).result()
        finally:
            answerer.communicate()


def _measured(url: str, path: Path, size: int, workers: int, workdir: Path) -> tuple[float, float, float]:
    aws = AwsClient(AwsAccess(region=REGION), endpoint=url, connections=workers)
    aws.ec2("describe_snapshots")  # clients are made before: that takes half a second, once
    aws.ebs("start_snapshot", VolumeSize=1, ClientToken="first")
    began, spent = time.perf_counter(), time.process_time()
    with (
        _disk(path, _layout(size, "uploaded")) as disk,
        UploadJournal(workdir / f"{secrets.token_hex(8)}.upload") as journal,
    ):
        made = SnapshotUploader(aws, workers=workers).upload(disk, journal, token=secrets.token_hex(32))
        assert made is not None
        rate = made.sent / (time.perf_counter() - began)
        journal.finish()
    return rate, time.process_time() - spent, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
