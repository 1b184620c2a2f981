"""A site that is killed again and again while it uploads: each attempt is a process of its own, forked off this one.

    python -m tests.support.aws.killed_uploader ENDPOINT PROFILE DIRECTORY KILLS SEED

Contents are made in DIRECTORY/disks, each to become the snapshot of a bare disk; DIRECTORY/ledger is what the site knows.
The first is uploaded undisturbed, and how long that and what follows takes here and now decides when the others are killed.
It prints a line of JSON for each kill: what the journal then said was acknowledged, and how much the proxy had answered.
"""

import json
import os
import random
import signal
import sys
import time
import urllib.request
from pathlib import Path

from deployer.ec2.aws.access import AwsAccess
from deployer.ec2.aws.client import AwsClient
from deployer.ec2.snapshots.blocks import BLOCK_SIZE
from deployer.ec2.snapshots.disk_reader import OpenDisk, open_disk
from deployer.ec2.snapshots.record_store import SnapshotRecords
from deployer.ec2.snapshots.snapshots import Snapshots
from deployer.ec2.snapshots.upload_journal import UploadJournal
from tests.support.aws.fake_aws import QUICK, REGION
from tests.support.aws.memory_disks import Shelf, bare

WORKERS = 2
BLOCKS = 14
FOREVER = 120.0
"""Seconds, for an attempt that is not to be disturbed."""


def main() -> None:
    """Upload one content after the other, until all kills are done and the last is whole."""
    endpoint, profile, directory = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    kills, chance = int(sys.argv[4]), random.Random(int(sys.argv[5]))
    shelf, ledger = Shelf(directory / "disks"), SnapshotRecords(directory / "ledger")
    aws = AwsClient(AwsAccess(region=REGION, profile=profile), endpoint=endpoint, patience=QUICK, connections=WORKERS)
    for service in ("ebs", "ec2"):
        aws._client(service)  # takes a while, which is not what is to be interrupted
    usual = 0.0
    while kills or not usual:
        address = shelf.put(b"".join(chance.randbytes(BLOCK_SIZE) + bytes(BLOCK_SIZE) for _ in range(BLOCKS)))
        with open_disk(bare(address), shelf) as disk:
            done = False
            while not done:
                took = attempt(aws, ledger, disk, chance.uniform(0, usual) if usual and kills else FOREVER)
                done = took is not None
                if took is not None:
                    # Not that of the first alone, which made connections, nor of one that the machine was too busy for.
                    usual = (usual + took) / 2 if usual else took
                else:
                    kills -= 1
                    tell(endpoint, ledger.journal(disk.layout.key))


def attempt(aws: AwsClient, ledger: SnapshotRecords, disk: OpenDisk, delay: float) -> float | None:
    """One attempt in a process of its own, killed after `delay` seconds: the seconds that it took, None if it was killed."""
    began = time.monotonic()
    child = os.fork()
    if not child:
        Snapshots(aws, ledger, workers=WORKERS).ensure(disk)
        os._exit(0)
    while time.monotonic() < began + delay:
        if (ended := os.waitpid(child, os.WNOHANG)) != (0, 0):
            break
        time.sleep(0.002)
    else:
        os.kill(child, signal.SIGKILL)
        ended = os.waitpid(child, 0)
    if ended[1] not in (0, signal.SIGKILL):
        sys.exit(f"an attempt failed by itself, with status {ended[1]}")
    return None if ended[1] else time.monotonic() - began


def tell(endpoint: str, journal: Path) -> None:
    """What is known at a kill."""
    acknowledged: dict[str, list[int]] = {}
    if journal.exists():
        with UploadJournal(journal) as found:
            acknowledged = {found.snapshot_id: sorted(found.blocks)}
    request = urllib.request.Request(f"{endpoint}/-/asked", b"{}", method="POST")
    with urllib.request.urlopen(request, timeout=60) as answer:
        asked = json.loads(answer.read())
    sys.stdout.write(json.dumps({"acknowledged": acknowledged, "asked": asked}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
