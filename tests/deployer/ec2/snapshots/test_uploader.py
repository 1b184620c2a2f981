"""Uploads that are killed, throttled, cut off and cancelled."""

import json
import random
import secrets
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from catalog.image.address import Address
from deployer.ec2.errors import AwsThrottled, SnapshotGone
from deployer.ec2.snapshots.blocks import BLOCK_SIZE
from deployer.ec2.snapshots.disk_reader import open_disk
from deployer.ec2.snapshots.record_store import SnapshotRecords
from deployer.ec2.snapshots.snapshots import Snapshots
from deployer.ec2.snapshots.upload_journal import UploadJournal
from deployer.ec2.snapshots.uploader import SnapshotUploader, client_token
from tests.support.aws.fake_aws import ROOT, AwsWorld
from tests.support.aws.killed_uploader import BLOCKS
from tests.support.aws.memory_disks import Shelf, bare, plain_digests
from tests.support.aws.snapshot_reader import snapshot_digests


def token() -> str:
    """A fresh one."""
    return secrets.token_hex(32)


def content(shelf: Shelf, blocks: int, seed: int) -> Address:
    """Every other block random, the rest zeros."""
    chance = random.Random(seed)
    return shelf.put(b"".join(chance.randbytes(BLOCK_SIZE) + bytes(BLOCK_SIZE) for _ in range(blocks)))


def puts(world: AwsWorld, since: int = 0) -> Counter[tuple[str, int]]:
    """How often each block was acknowledged."""
    return Counter(
        (line["snapshot"], line["block"])
        for line in world.log(since)
        if line["operation"] == "PutSnapshotBlock" and line["status"] == 201
    )


def run_killed(world: AwsWorld, profile: str, directory: Path, kills: int) -> list[dict[str, Any]]:
    """Contents uploaded by a site that is killed; then every snapshot is right. What was known at each kill."""
    command = [
        sys.executable,
        "-m",
        "tests.support.aws.killed_uploader",
        world.url,
        profile,
        str(directory),
        str(kills),
        "1",
    ]
    ended = subprocess.run(command, cwd=ROOT, env=world.environment(), capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    world.faults()
    aws, ledger = world.aws(profile), SnapshotRecords(directory / "ledger")
    contents = list((directory / "disks").iterdir())
    records = {record.layout.runs[0].source: record for record in ledger.records()}
    for path in contents:
        assert snapshot_digests(aws, records[path.name].snapshot_id) == plain_digests(path.read_bytes())
    left = [one["SnapshotId"] for one in aws.ec2_list("describe_snapshots", "Snapshots", OwnerIds=["self"])]
    assert len(left) == len(contents)  # no snapshot was begun twice, and none is left over
    assert not list((directory / "ledger").glob("*.upload"))
    return [json.loads(line) for line in ended.stdout.splitlines()]


def check_kills(world: AwsWorld, told: list[dict[str, Any]], kills: int) -> None:
    """What was acknowledged before a kill was never sent again."""
    assert len(told) == kills
    log = world.log()
    for line in told:
        later = {
            (entry["snapshot"], entry["block"])
            for entry in log[line["asked"] :]
            if entry["operation"] == "PutSnapshotBlock"
        }
        before = {(name, block) for name, blocks in line["acknowledged"].items() for block in blocks}
        assert not later & before
    # And the kills hit more than the beginning and the end.
    assert sum(0 < sum(map(len, line["acknowledged"].values())) < BLOCKS for line in told) > kills / 10


def test_thirty_kills_lose_nothing_and_send_nothing_twice(world: AwsWorld, profile: str, tmp_path: Path) -> None:
    world.faults(latency=0.01, seal=0.02)
    check_kills(world, run_killed(world, profile, tmp_path, 30), 30)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_hundred_kills_and_faults_besides(world: AwsWorld, profile: str, tmp_path: Path) -> None:
    world.faults(latency=0.01, seal=0.05, rate=0.05)
    check_kills(world, run_killed(world, profile, tmp_path, 100), 100)


def test_five_in_a_hundred_faults_are_survived(world: AwsWorld, profile: str, tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "shelf")
    address = content(shelf, 100, 1)
    begun = world.asked()
    world.faults(
        rate=0.05,
        seed=3,
        slow=0.2,
        kinds=["throttle", "error", "done-error", "cut", "no-answer", "slow", "cut-request"],
    )
    with open_disk(bare(address), shelf) as disk:
        made = Snapshots(world.aws(profile), SnapshotRecords(tmp_path / "ledger"), workers=8).ensure(disk)
    log = world.log(begun)
    assert len({line["fault"] for line in log if line["fault"]}) >= 3
    assert made.sent == 100
    world.faults(rate=0.05, seed=4)
    assert snapshot_digests(world.aws(profile), made.snapshot_id) == plain_digests(shelf.path(address).read_bytes())


def test_a_throttled_upload_goes_slower_and_ends(world: AwsWorld, profile: str, tmp_path: Path) -> None:
    """The service takes four requests at a time, and sixteen workers come."""
    shelf = Shelf(tmp_path / "shelf")
    address = content(shelf, 40, 2)
    world.faults(most=4, latency=0.02)
    with open_disk(bare(address), shelf) as disk:
        made = Snapshots(world.aws(profile, connections=16), SnapshotRecords(tmp_path / "ledger"), workers=16).ensure(
            disk
        )
    assert made.sent == 40
    world.faults()
    assert snapshot_digests(world.aws(profile), made.snapshot_id) == plain_digests(shelf.path(address).read_bytes())


def test_what_is_throttled_for_ever_is_said_and_gone_on_with(world: AwsWorld, profile: str, tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "shelf")
    address = content(shelf, 6, 3)
    snapshots = Snapshots(world.aws(profile), SnapshotRecords(tmp_path / "ledger"), workers=2)
    with open_disk(bare(address), shelf) as disk:
        world.faults(rate=1.0, kinds=["throttle"], only=["PutSnapshotBlock"])
        with pytest.raises(AwsThrottled, match="RequestThrottledException"):
            snapshots.ensure(disk)
        world.faults()
        begun = world.asked()
        made = snapshots.ensure(disk)
    assert made.sent == 6
    assert not [line for line in world.log(begun) if line["operation"] == "StartSnapshot"]


def test_a_snapshot_that_aws_cancelled_is_begun_anew(world: AwsWorld, profile: str, tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "shelf")
    address = content(shelf, 8, 4)
    aws, ledger = world.aws(profile), SnapshotRecords(tmp_path / "ledger")
    with open_disk(bare(address), shelf) as disk:
        with UploadJournal(ledger.journal(disk.layout.key)) as journal:
            SnapshotUploader(aws, workers=2).upload(disk, journal, token=token(), before=lambda: False)
            world.cancel(journal.snapshot_id)
            cancelled = journal.snapshot_id
            with pytest.raises(SnapshotGone):
                SnapshotUploader(aws, workers=2).upload(disk, journal, token=token())
        made = Snapshots(aws, ledger, workers=2).ensure(disk)
    assert made.snapshot_id != cancelled
    assert made.sent == 8
    assert snapshot_digests(aws, made.snapshot_id) == plain_digests(shelf.path(address).read_bytes())


@pytest.mark.parametrize("blocks", [0, 3])
def test_a_snapshot_that_is_not_known_at_once_is_waited_for(
    world: AwsWorld, profile: str, tmp_path: Path, blocks: int
) -> None:
    """As at AWS, where it takes a moment until all servers know of it."""
    shelf = Shelf(tmp_path / "shelf")
    address = content(shelf, blocks, 8) if blocks else shelf.put(b"", BLOCK_SIZE)
    world.faults(young=0.15)
    begun = world.asked()
    with open_disk(bare(address), shelf) as disk:
        made = Snapshots(world.aws(profile), SnapshotRecords(tmp_path / "ledger"), workers=2).ensure(disk)
    assert made.sent == blocks
    assert sum(line["operation"] == "StartSnapshot" for line in world.log(begun)) == 1


def test_a_started_snapshot_whose_id_was_lost_is_the_same_one(world: AwsWorld, profile: str, tmp_path: Path) -> None:
    """Killed between the answer and the journal: the client token is noted before, and names it."""
    shelf = Shelf(tmp_path / "shelf")
    address = content(shelf, 2, 5)
    aws = world.aws(profile)
    with open_disk(bare(address), shelf) as disk:
        with UploadJournal(tmp_path / "journal") as journal:
            SnapshotUploader(aws, workers=2).upload(disk, journal, token=token(), before=lambda: False)
            first = journal.snapshot_id
        heading = (tmp_path / "journal").read_bytes().split(b"\n")[0]
        (tmp_path / "journal").write_bytes(heading + b"\n")
        with UploadJournal(tmp_path / "journal") as journal:
            SnapshotUploader(aws, workers=2).upload(disk, journal, token=token(), before=lambda: False)
            assert journal.snapshot_id == first


def test_a_lost_answer_to_complete_is_not_a_failure(world: AwsWorld, profile: str, tmp_path: Path) -> None:
    """Completed, and killed before anybody knew: the next attempt finds it so."""
    shelf = Shelf(tmp_path / "shelf")
    address = content(shelf, 4, 6)
    aws, ledger = world.aws(profile), SnapshotRecords(tmp_path / "ledger")
    world.faults(seal=0.3)
    with open_disk(bare(address), shelf) as disk:
        with UploadJournal(ledger.journal(disk.layout.key)) as journal:
            first = SnapshotUploader(aws, workers=2).upload(disk, journal, token=token())
        assert first is not None
        begun = world.asked()
        made = Snapshots(aws, ledger, workers=2).ensure(disk)
    assert made.snapshot_id == first.snapshot_id
    assert (made.sent, made.resumed) == (0, 4)
    assert not puts(world, begun)


def test_a_journal_that_says_more_than_was_sent_is_begun_anew(world: AwsWorld, profile: str, tmp_path: Path) -> None:
    """The count and the checksum do not match: AWS completes nothing, and the next attempt sends all of it."""
    shelf = Shelf(tmp_path / "shelf")
    address = content(shelf, 3, 7)
    aws, ledger = world.aws(profile), SnapshotRecords(tmp_path / "ledger")
    waited: list[float] = []
    with open_disk(bare(address), shelf) as disk:
        with UploadJournal(ledger.journal(disk.layout.key)) as journal:
            SnapshotUploader(aws, workers=2).upload(disk, journal, token=token(), before=lambda: False)
            journal.sent(5, b"?" * 32)
            wrong = journal.snapshot_id
        clock = iter(range(0, 10_000, 30))
        snapshots = Snapshots(aws, ledger, workers=2, clock=lambda: float(next(clock)), sleep=waited.append)
        made = snapshots.ensure(disk)
    assert waited
    assert (made.sent, made.resumed) == (3, 0)
    left = [one["SnapshotId"] for one in aws.ec2_list("describe_snapshots", "Snapshots", OwnerIds=["self"])]
    assert left == [made.snapshot_id] != [wrong]


def test_tokens_are_of_the_content_the_parent_and_the_upload() -> None:
    tokens = {client_token(*parts) for parts in (("a", "b", b"c"), ("a", "", b"c"), ("b", "b", b"c"), ("a", "b", b"d"))}
    assert len(tokens) == 4
    assert client_token("a", "b", b"c") == client_token("a", "b", b"c")
