"""A site host is killed while it deploys, again and again: nothing is there twice, nothing is left over."""

import random
from pathlib import Path

import pytest

from deployer.ec2.account.cleanup import ResourceKind, list_resources
from deployer.machine.state import MachineState
from deployer.protocol.desired_state import DesiredStatus
from deployer.records.receipt import read_receipt
from tests.support.aws.fake_aws import AwsWorld
from tests.support.aws.site_with_pool import Ec2Site, Images, OpenSite, account, working


def all_is_as_desired(site: OpenSite) -> None:
    """One machine each and no other; no AMI or snapshot beside the books; each machine's receipt is its own."""
    host = site.host
    running = {one.uuid for one in host.desired.machines if one.desired is DesiredStatus.RUNNING}
    live = site.live()
    assert sorted(one.machine for one in live) == sorted(running)
    opened = site.opened
    things = [
        thing for thing in list_resources(opened.aws, opened.owner, opened.books) if opened.owner.owns(thing.tags)
    ]
    assert {thing.id for thing in things if thing.kind is ResourceKind.IMAGE} == {
        entry.ami for entry in opened.books.images()
    }
    records = {record.snapshot_id for record in opened.ledger.records()}
    assert {thing.id for thing in things if thing.kind is ResourceKind.SNAPSHOT} == records
    assert [thing for thing in things if thing.kind is ResourceKind.VOLUME and not thing.active] == []
    for instance in live:
        path = site.records.receipts.directory / f"{instance.machine}.json"
        cloud = read_receipt(path.read_bytes(), str(path)).deployment.cloud
        assert cloud is not None
        assert (cloud.ami, cloud.instance_type) == (instance.ami, instance.instance_type)
        entry = opened.books.machine(instance.machine)
        assert entry is not None
        assert entry.instance == instance.instance


def storm(host: Ec2Site, images: Images, kills: int, chance: random.Random) -> None:
    bundles = (images.hello, images.update, images.direct)
    wanted: list[str] = []
    for number in range(kills):
        if number % 3 == 0:
            wanted.append(host.want(bundles[number // 3 % len(bundles)]))
        elif number % 7 == 6:
            host.change(wanted[0], desired=DesiredStatus.ENDED, reason="no longer wanted")
        with working(host) as process:
            process.join(chance.uniform(0.0, 1.5))
    with host.open() as site:
        site.settle()
        all_is_as_desired(site)
        for uuid in wanted:
            want = next(one.desired for one in host.desired.machines if one.uuid == uuid)
            assert site.state(uuid) is (MachineState.RUNNING if want is DesiredStatus.RUNNING else MachineState.ENDED)
        for machine in host.desired.machines:
            host.change(machine.uuid, desired=DesiredStatus.ENDED)
        site.settle()
        all_is_as_desired(site)


@pytest.mark.slow
def test_killed_at_random_points_it_ends_as_desired(
    images: Images, world: AwsWorld, profile: str, tmp_path: Path
) -> None:
    storm(Ec2Site(images, world, tmp_path / "host", account(world, profile)), images, 5, random.Random(6))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_killed_often_while_aws_fails_too(images: Images, world: AwsWorld, profile: str, tmp_path: Path) -> None:
    host = Ec2Site(images, world, tmp_path / "host", account(world, profile))
    world.faults(rate=0.05, seed=3)
    storm(host, images, 60, random.Random(7))
