"""Machines at EC2: every verb, what is asked of AWS for it, and what comes of faults."""

import base64
import gzip
from datetime import timedelta
from pathlib import Path

import pytest

from deployer.ec2.tags import CATALOG, DEPLOYMENT, ENDS, IMAGE, RECEIPT, ends_tag
from deployer.machine import State
from deployer.receipts import read_receipt
from deployer.site.desired import Want
from tests.ec2.pools import MIB, Ec2Site, Images, OpenSite, account
from tests.ec2.worlds import AwsWorld


@pytest.fixture
def host(images: Images, world: AwsWorld, profile: str, tmp_path: Path) -> Ec2Site:
    return Ec2Site(images, world, tmp_path / "host", account(world, profile))


def user_data(site: OpenSite, instance: str) -> bytes:
    answer = site.opened.aws.ec2("describe_instance_attribute", InstanceId=instance, Attribute="userData")
    data = base64.b64decode(answer["UserData"]["Value"])
    return gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data


def test_a_machine_is_made_of_what_was_endorsed_and_says_so(host: Ec2Site, images: Images) -> None:
    with host.open() as site:
        uuid = host.want(images.hello)
        site.look()
        assert site.state(uuid) is State.STAGING
        site.settle()
        seen, instance = site.seen(uuid), site.instance(uuid)
        assert seen.state is State.RUNNING
        assert seen.addresses[0].startswith("172.31.")
        assert seen.from_network > 0
        manifest = images.hello.manifest
        assert instance.tags[CATALOG] == "star/hello@1.0"
        assert instance.tags[IMAGE] == manifest.image_id
        assert instance.tags[DEPLOYMENT] == host.desired.machines[0].deployment
        assert instance.tags[ENDS] == ends_tag(host.desired.machines[0].ends)
        assert instance.token == uuid
        described = site.opened.aws.ec2("describe_instances", InstanceIds=[instance.instance])
        options = described["Reservations"][0]["Instances"][0]["MetadataOptions"]
        assert (options["HttpTokens"], options["HttpPutResponseHopLimit"]) == ("required", 1)
        behaviour = site.opened.aws.ec2(
            "describe_instance_attribute",
            InstanceId=instance.instance,
            Attribute="instanceInitiatedShutdownBehavior",
        )
        assert behaviour["InstanceInitiatedShutdownBehavior"]["Value"] == "terminate"
        # The receipt names the AMI and the snapshots, and the instance names the receipt.
        path = site.records.receipts.directory / f"{uuid}.json"
        receipt = read_receipt(path.read_bytes(), str(path))
        cloud = receipt.deployment.cloud
        assert cloud is not None
        assert (cloud.ami, cloud.instance_type) == (instance.ami, instance.instance_type)
        entry = site.opened.books.machine(uuid)
        assert entry is not None
        assert instance.tags[RECEIPT] == entry.receipt
        ami = site.opened.aws.ec2("describe_images", ImageIds=[instance.ami])["Images"][0]
        there = {each["DeviceName"]: each["Ebs"].get("SnapshotId") for each in ami["BlockDeviceMappings"]}
        assert there == {volume.device: volume.snapshot for volume in cloud.volumes}
        assert list(there.values()).count(None) == 1  # the blank is a fresh volume
        assert all(volume.checksum for volume in cloud.volumes if volume.snapshot)


def test_the_same_image_again_stages_and_uploads_nothing(host: Ec2Site, images: Images) -> None:
    with host.open() as site:
        host.want(images.hello)
        site.settle()
        before = len(host.world.log())
        again = host.want(images.hello)
        site.settle()
        assert site.state(again) is State.RUNNING
        assert not site.calls("PutSnapshotBlock", before)
        assert not site.calls("RegisterImage", before)
        assert (site.seen(again).from_network, site.seen(again).from_cache) == (0, 0)
        assert len({one.ami for one in site.live()}) == 1
        update = host.want(images.update)
        site.settle()
        assert site.state(update) is State.RUNNING
        assert len(site.calls("PutSnapshotBlock", before)) in {2, 3}  # the changed MiB alone


def test_every_verb(host: Ec2Site, images: Images) -> None:
    with host.open() as site:
        uuid = host.want(images.hello, granted_memory=2048 * MIB, granted_cores=2)
        site.settle()
        made = site.instance(uuid)
        assert made.instance_type == "t3.micro"
        for want, state in (
            (Want.PAUSED, State.PAUSED),
            (Want.SUSPENDED, State.SUSPENDED),
            (Want.STOPPED, State.STOPPED),
        ):
            host.change(uuid, want=want)
            site.settle()
            assert (site.state(uuid), site.instance(uuid).state) == (state, "stopped")
            host.change(uuid, want=Want.RUNNING)
            site.settle()
            assert site.state(uuid) is State.RUNNING
        host.change(uuid, reboots=2)
        site.settle()
        assert site.seen(uuid).reboots == 2
        assert site.calls("RebootInstances")
        later = host.desired.machines[0].ends + timedelta(hours=2)
        host.change(uuid, ends=later)
        site.settle()
        assert site.instance(uuid).tags[ENDS] == ends_tag(later)
        host.change(uuid, memory=2048 * MIB, cores=2)
        site.settle()
        assert (site.state(uuid), site.instance(uuid).instance_type) == (State.RUNNING, "t3.small")
        assert site.instance(uuid).instance == made.instance
        host.change(uuid, want=Want.ENDED, reason="its owner is done")
        site.settle()
        assert (site.state(uuid), site.seen(uuid).reason) == (State.ENDED, "its owner is done")
        assert site.live() == []
        volumes = site.opened.aws.ec2("describe_volumes")["Volumes"]
        assert [volume for volume in volumes if volume.get("Tags")] == []
