"""Machines at EC2: every verb, what is asked of AWS for it, and what comes of faults."""

import base64
import gzip
import random
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from catalog.image.manifest import DirectBoot
from deployer.ec2.aws.tags import CATALOG_TAG, DEPLOYMENT_TAG, END_TAG, IMAGE_TAG, RECEIPT_TAG, end_tag_value
from deployer.ec2.model.pricing import committed_cost
from deployer.ec2.pool.deployment import charge_of
from deployer.machine.state import MachineState
from deployer.protocol.desired_state import DesiredStatus
from deployer.records.receipt import read_receipt
from tests.support.aws.fake_aws import AwsWorld
from tests.support.aws.site_with_pool import MIB, Ec2Site, Images, OpenSite, account
from tests.support.node.service_process import policy


def user_data(site: OpenSite, instance: str) -> bytes:
    answer = site.opened.aws.ec2("describe_instance_attribute", InstanceId=instance, Attribute="userData")
    data = base64.b64decode(answer["UserData"]["Value"])
    return gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data


def test_a_machine_is_made_of_what_was_endorsed_and_says_so(host: Ec2Site, images: Images) -> None:
    with host.open() as site:
        uuid = host.want(images.hello)
        site.look()
        assert site.state(uuid) is MachineState.STAGING
        site.settle()
        seen, instance = site.seen(uuid), site.instance(uuid)
        assert seen.state is MachineState.RUNNING
        assert seen.addresses[0].startswith("172.31.")
        assert seen.from_network > 0
        manifest = images.hello.manifest
        assert instance.tags[CATALOG_TAG] == "star/hello@1.0"
        assert instance.tags[IMAGE_TAG] == manifest.image_id
        assert instance.tags[DEPLOYMENT_TAG] == host.desired.machines[0].deployment
        assert instance.tags[END_TAG] == end_tag_value(host.desired.machines[0].expires)
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
        assert instance.tags[RECEIPT_TAG] == entry.receipt
        ami = site.opened.aws.ec2("describe_images", ImageIds=[instance.ami])["Images"][0]
        there = {each["DeviceName"]: each["Ebs"].get("SnapshotId") for each in ami["BlockDeviceMappings"]}
        assert there == {volume.device: volume.snapshot for volume in cloud.volumes}
        assert list(there.values()).count(None) == 1  # the blank is a fresh volume
        assert all(volume.checksum for volume in cloud.volumes if volume.snapshot)


def test_the_same_image_again_stages_and_uploads_nothing(host: Ec2Site, images: Images) -> None:
    host.policy_text = policy(images.star.anchor(), machines=1)  # on one node, which a pool is not
    with host.open() as site:
        host.want(images.hello)
        site.settle()
        before = host.world.asked()
        again = host.want(images.hello)
        site.settle()
        assert site.state(again) is MachineState.RUNNING
        assert not site.calls("PutSnapshotBlock", before)
        assert not site.calls("RegisterImage", before)
        assert (site.seen(again).from_network, site.seen(again).from_cache) == (0, 0)
        assert len({one.ami for one in site.live()}) == 1
        update = host.want(images.update)
        site.settle()
        assert site.state(update) is MachineState.RUNNING
        assert len(site.calls("PutSnapshotBlock", before)) in {2, 3}  # the changed MiB alone


def test_a_machine_that_would_lose_its_memory_is_not_paused_and_says_so_when_suspended(
    host: Ec2Site, images: Images
) -> None:
    """The account has hibernation, and an image that boots from a boot disk has no room for its memory there."""
    host.account = host.account.model_copy(update={"hibernation": True})
    since = host.world.asked()
    with host.open() as site:
        uuid = host.want(images.direct)
        site.settle()
        assert not site.seen(uuid).suspends
        host.change(uuid, desired=DesiredStatus.PAUSED)
        site.settle()
        assert (site.state(uuid), site.instance(uuid).state) == (MachineState.RUNNING, "running")
        assert "so it goes on running" in site.seen(uuid).reason
        assert not site.calls("StopInstances", since)
        host.change(uuid, desired=DesiredStatus.SUSPENDED)
        site.settle()
        assert (site.state(uuid), site.instance(uuid).state) == (MachineState.SUSPENDED, "stopped")
        assert "its memory is not" in site.seen(uuid).reason
        host.change(uuid, desired=DesiredStatus.RUNNING)
        site.settle()
        assert (site.state(uuid), site.seen(uuid).reason) == (MachineState.RUNNING, "")


def test_every_verb(host: Ec2Site, images: Images) -> None:
    host.account = host.account.model_copy(update={"hibernation": True})
    with host.open() as site:
        uuid = host.want(images.hello, max_memory=2048 * MIB, max_cores=2)
        site.settle()
        made = site.instance(uuid)
        assert made.instance_type == "t3.micro"
        assert made.hibernates
        for want, state in (
            (DesiredStatus.PAUSED, MachineState.PAUSED),
            (DesiredStatus.SUSPENDED, MachineState.SUSPENDED),
            (DesiredStatus.STOPPED, MachineState.STOPPED),
        ):
            host.change(uuid, desired=want)
            site.settle()
            here = site.instance(uuid)
            assert (site.state(uuid), here.state) == (state, "stopped")
            assert (here.hibernated, site.seen(uuid).reason) == (want is not DesiredStatus.STOPPED, "")
            host.change(uuid, desired=DesiredStatus.RUNNING)
            site.settle()
            assert site.state(uuid) is MachineState.RUNNING
        host.change(uuid, reboots=2)
        site.settle()
        assert site.seen(uuid).reboots == 2
        assert site.calls("RebootInstances")
        later = host.desired.machines[0].expires + timedelta(hours=2)
        host.change(uuid, expires=later)
        site.settle()
        assert site.instance(uuid).tags[END_TAG] == end_tag_value(later)
        host.change(uuid, memory=2048 * MIB, cores=2)
        site.settle()
        assert (site.state(uuid), site.instance(uuid).instance_type) == (MachineState.RUNNING, "t3.small")
        assert site.instance(uuid).instance == made.instance
        host.change(uuid, desired=DesiredStatus.ENDED, reason="its owner is done")
        site.settle()
        assert (site.state(uuid), site.seen(uuid).reason) == (MachineState.ENDED, "its owner is done")
        assert site.live() == []
        volumes = site.opened.aws.ec2("describe_volumes")["Volumes"]
        assert [volume for volume in volumes if volume.get("Tags")] == []


def refused(site: OpenSite, uuid: str) -> str:
    """Why a machine failed; nothing was uploaded, begun or booked for it."""
    before = site.host.world.asked()
    site.settle()
    assert site.state(uuid) is MachineState.FAILED
    for operation in ("StartSnapshot", "RegisterImage", "RunInstances"):
        assert not site.calls(operation, before)
    assert site.opened.books.machine(uuid) is None
    return site.seen(uuid).reason


def test_what_is_refused_is_refused_before_anything_is_uploaded(host: Ec2Site, images: Images) -> None:
    noise = base64.b64encode(b"#!/bin/sh\n# " + base64.b64encode(random.Random(1).randbytes(12200))).decode()
    with host.open() as site:
        assert "no endorser is trusted for VO rogue" in refused(site, host.want(images.rogue))
        assert "limits.memory" in refused(site, host.want(images.hello, max_memory=8192 * MIB))
        assert "has 64 cores" in refused(site, host.want(images.hello, cores=64, max_cores=64))
        assert "16384 that EC2 allows" in refused(site, host.want(images.hello, user_data=noise))
        assert "user_data.allow" in refused(
            site, host.want(images.hello, user_data=base64.b64encode(b"#include\nhttp://x/\n").decode())
        )
        assert site.live() == []


@pytest.mark.slow
def test_a_kernel_without_a_boot_loader_runs_from_its_boot_disk(host: Ec2Site, images: Images) -> None:
    with host.open() as site:
        uuid = host.want(images.direct)
        site.settle()
        ami = site.opened.aws.ec2("describe_images", ImageIds=[site.instance(uuid).ami])["Images"][0]
        assert (ami["BootMode"], ami["RootDeviceName"]) == ("legacy-bios", "/dev/xvda")
        entry = site.opened.books.images()[0]
        record = site.opened.ledger.get(entry.contents["/dev/xvda"])
        assert record is not None
        boot = images.direct.manifest.boot
        assert isinstance(boot, DirectBoot)
        assert {str(boot.kernel), str(boot.initrd)} <= {run.source for run in record.layout.runs}


def test_the_cap_is_never_passed_however_many_come_at_once(
    images: Images, world: AwsWorld, profile: str, tmp_path: Path
) -> None:
    # One machine of an hour: 0.01 + 3 GiB x 0.10 / 730, rounded up to 0.02 USD; three of them pass the cap.
    host = Ec2Site(images, world, tmp_path / "host", account(world, profile, cap="0.05"))
    with host.open() as site:
        uuids = [host.want(images.hello) for _ in range(6)]
        site.settle()
        states = [site.state(uuid) for uuid in uuids]
        assert 1 <= states.count(MachineState.RUNNING) < 6
        assert states.count(MachineState.RUNNING) + states.count(MachineState.FAILED) == 6
        spent = committed_cost(host.account.prices, map(charge_of, site.opened.books.machines()), host.clock())
        assert spent <= Decimal("0.05")
        failed = next(uuid for uuid in uuids if site.state(uuid) is MachineState.FAILED)
        assert "more than the 0.05 USD that the account burst may spend" in site.seen(failed).reason


def test_a_machine_is_told_what_a_node_would_tell_it(host: Ec2Site, images: Images) -> None:
    script = base64.b64encode(b"#!/bin/sh\necho hello\n").decode()
    with host.open() as site:
        more = {"size": 512 << 20, "filesystem": "ext4", "label": "more"}
        uuid = host.want(images.hello, user_data=script, hostname="worker-7", blanks=[more])
        site.settle()
        data = user_data(site, site.instance(uuid).instance)
        assert b"MIME-Version: 1.0" in data
        assert script.encode() in data.replace(b"\n", b"")
        # Blanks, the image's and those that were asked for, are fresh volumes.
        found = site.opened.aws.ec2("describe_volumes", VolumeIds=list(site.instance(uuid).volumes))["Volumes"]
        sizes = sorted((volume["Size"], bool(volume.get("SnapshotId"))) for volume in found)
        assert sizes == [(1, False), (1, False), (1, True), (1, True)]
        assert {volume["Attachments"][0]["Device"] for volume in found} == {
            "/dev/xvda",
            "/dev/sdf",
            "/dev/sdg",
            "/dev/sdh",
        }


@pytest.mark.slow
def test_two_pools_in_one_account_never_end_each_others(
    images: Images, world: AwsWorld, profile: str, tmp_path: Path
) -> None:
    shared = account(world, profile)
    one, two = (Ec2Site(images, world, tmp_path / name, shared) for name in ("one", "two"))
    with one.open() as first, two.open() as second:
        mine, theirs = one.want(images.hello), two.want(images.hello)
        first.settle()
        before = world.asked()
        second.settle()
        assert not second.calls("CompleteSnapshot", before)  # what the first uploaded was read back and is used
        one.drop(mine)
        first.settle()
        assert first.live() == []
        second.settle()
        assert second.state(theirs) is MachineState.RUNNING


def test_what_ec2_ended_by_itself_is_told_and_not_made_again(host: Ec2Site, images: Images) -> None:
    with host.open() as site:
        uuid = host.want(images.hello)
        site.settle()
        site.opened.aws.ec2("terminate_instances", InstanceIds=[site.instance(uuid).instance])
        site.settle()
        assert site.state(uuid) is MachineState.ENDED
        assert "UserInitiatedShutdown" in site.seen(uuid).reason
        assert site.live() == []
    with host.open() as site:
        site.settle()
        assert (site.state(uuid), site.live()) == (MachineState.ENDED, [])


@pytest.mark.slow
def test_what_was_stopped_by_somebody_runs_again(host: Ec2Site, images: Images) -> None:
    with host.open() as site:
        uuid = host.want(images.hello)
        site.settle()
        site.opened.machines.stop(site.instance(uuid).instance)
        site.settle()
        assert site.state(uuid) is MachineState.RUNNING


def test_what_rests_runs_again_only_if_the_policy_still_accepts_it(host: Ec2Site, images: Images) -> None:
    with host.open() as site:
        uuid = host.want(images.hello)
        site.settle()
        host.change(uuid, desired=DesiredStatus.STOPPED)
        site.settle()
        host.site.policy.write_text(policy(images.star.anchor(), threshold=2))
        host.change(uuid, desired=DesiredStatus.RUNNING)
        site.settle()
        assert site.state(uuid) is MachineState.STOPPED
        assert "1 of 2 endorsers" in site.seen(uuid).reason
        host.site.policy.write_text(policy(images.star.anchor(), machines=20))
        host.clock.ahead += timedelta(minutes=10)
        site.settle()
        assert (site.state(uuid), site.seen(uuid).reason) == (MachineState.RUNNING, "")
