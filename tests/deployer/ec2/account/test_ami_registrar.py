"""Images at EC2: the same again is the same, and nothing is used that somebody else put in its place."""

import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deployer.ec2.account.ami_registrar import ami_difference, image_key, register_request
from deployer.ec2.account.bookkeeping import AmiEntry
from deployer.ec2.aws.tags import KEY_TAG
from deployer.ec2.errors import AwsFailed
from deployer.ec2.images.image_upload import MachineProgress
from deployer.ec2.model.boot_mapping import map_boot
from tests.support.aws.fake_aws import AwsWorld
from tests.support.aws.site_with_pool import Ec2Site, Images, OpenSite, account


@pytest.fixture
def host(images: Images, world: AwsWorld, profile: str, tmp_path: Path) -> Ec2Site:
    return Ec2Site(images, world, tmp_path / "host", account(world, profile))


def register(site: OpenSite, images: Images) -> AmiEntry:
    manifest = images.hello.manifest
    return site.imaging.image(manifest, map_boot(manifest), MachineProgress())[0]


def test_the_same_image_is_the_same_ami_and_another_boot_is_another(host: Ec2Site, images: Images) -> None:
    with host.open() as site:
        first = register(site, images)
        assert register(site, images).ami == first.ami
        assert len(site.calls("RegisterImage")) >= 1
    with host.open() as site:  # after a restart, by the books
        before = host.world.asked()
        assert register(site, images).ami == first.ami
        assert not site.calls("RegisterImage", before)
    found = map_boot(images.hello.manifest)
    contents = {volume.device: "0" * 64 for volume in found.snapshots}
    keys = {
        image_key(found, contents),
        image_key(found, contents | {"/dev/sdf": "1" * 64}),
        image_key(replace(found, boot_mode="uefi"), contents),
    }
    assert len(keys) == 3


def _as_registered(site: OpenSite, entry: AmiEntry) -> dict[str, Any]:
    ami = site.opened.aws.ec2("describe_images", ImageIds=[entry.ami])["Images"][0]
    return dict(ami)


ATTACKS: list[tuple[str, Callable[[dict[str, Any]], None], str]] = [
    ("another architecture", lambda ami: ami.update(Architecture="arm64"), "Architecture"),
    ("another way to boot", lambda ami: ami.update(BootMode="uefi"), "BootMode"),
    ("a kernel from elsewhere", lambda ami: ami.update(KernelId="aki-1"), "KernelId"),
    ("an initrd from elsewhere", lambda ami: ami.update(RamdiskId="ari-1"), "RamdiskId"),
    ("metadata without tokens", lambda ami: ami.pop("ImdsSupport"), "ImdsSupport"),
    ("another snapshot", lambda ami: ami["BlockDeviceMappings"][0]["Ebs"].update(SnapshotId="snap-0"), "/dev/xvda"),
    ("another size", lambda ami: ami["BlockDeviceMappings"][1]["Ebs"].update(VolumeSize=9), "/dev/sdf"),
    ("a blank that begins with something", lambda ami: ami["BlockDeviceMappings"][2]["Ebs"].update(SnapshotId="snap-0"), "/dev/sdg"),
    ("a disk less", lambda ami: ami["BlockDeviceMappings"].pop(), "/dev/sdg"),
    ("a disk more", lambda ami: ami["BlockDeviceMappings"].append({"DeviceName": "/dev/sdz", "Ebs": {"VolumeSize": 1}}), "one more device"),
    ("another root device", lambda ami: ami.update(RootDeviceName="/dev/sdf"), "RootDeviceName"),
]  # fmt: skip


def test_an_ami_that_is_not_what_was_registered_is_told_apart(host: Ec2Site, images: Images) -> None:
    with host.open() as site:
        entry = register(site, images)
        found = map_boot(images.hello.manifest)
        snapshots = {
            device: record.snapshot_id
            for device, key in entry.contents.items()
            if (record := site.opened.ledger.get(key)) is not None
        }
        assert ami_difference(_as_registered(site, entry), found, snapshots) == ""
        for what, attack, says in ATTACKS:
            ami = _as_registered(site, entry)
            attack(ami)
            assert says in ami_difference(ami, found, snapshots), what


def test_an_ami_with_our_tags_and_key_that_we_did_not_register_is_not_used(host: Ec2Site, images: Images) -> None:
    with host.open() as site:
        entry = register(site, images)
        aws, owner = site.opened.aws, site.opened.owner
        site.opened.books.forget("image", entry.key)
        aws.ec2("deregister_image", ImageId=entry.ami)
        request = register_request(
            f"partita-{uuid.uuid4().hex}",
            images.hello.manifest,
            map_boot(images.hello.manifest),
            {},
            owner.tags | {KEY_TAG: entry.key},
        )
        forged = aws.ec2("register_image", **request)["ImageId"]
        assert register(site, images).ami not in {forged, entry.ami}


def test_an_ami_in_the_books_that_was_exchanged_at_ec2_is_registered_anew(host: Ec2Site, images: Images) -> None:
    with host.open() as site:
        entry = register(site, images)
        aws, books = site.opened.aws, site.opened.books
        request = register_request("other", images.hello.manifest, map_boot(images.hello.manifest), {}, {})
        forged = aws.ec2("register_image", **request)["ImageId"]
        books.put_image(entry.model_copy(update={"ami": forged}))
        fresh = register(site, images)
        assert fresh.ami not in {forged, entry.ami}
        assert register(site, images).ami == fresh.ami
        aws.ec2("deregister_image", ImageId=fresh.ami)  # and one that was removed there
        assert register(site, images).ami not in {forged, entry.ami, fresh.ami}


def test_a_registration_whose_answer_was_lost_is_found_again(host: Ec2Site, images: Images) -> None:
    with host.open() as site:
        entry = register(site, images)
        # The site died after EC2 had registered it and before it was written down.
        site.opened.books.put_image(entry.model_copy(update={"ami": ""}))
        assert register(site, images).ami == entry.ami
        site.opened.books.put_image(entry.model_copy(update={"ami": "", "name": f"partita-{uuid.uuid4().hex}"}))
        assert register(site, images).ami != entry.ami  # there, it was never asked for


@pytest.mark.parametrize(
    "kind",
    [
        "no-answer",
        *(
            pytest.param(kind, marks=pytest.mark.slow)
            for kind in ("throttle", "error", "done-error", "cut", "cut-request")
        ),
    ],
)
def test_registering_outlives_every_fault_and_registers_once(host: Ec2Site, images: Images, kind: str) -> None:
    with host.open() as site:
        host.world.faults(rate=0.4, kinds=[kind], only=["RegisterImage", "DescribeImages"], seed=5)
        entry = register(site, images)
        host.world.faults()
        own = site.opened.aws.ec2("describe_images", Owners=["self"])["Images"]
        assert [image["ImageId"] for image in own] == [entry.ami]


def test_what_ec2_will_not_register_is_said(host: Ec2Site, images: Images) -> None:
    with host.open() as site:
        manifest, found = images.hello.manifest, map_boot(images.hello.manifest)
        with pytest.raises(AwsFailed, match=r"register_image: InvalidSnapshot\.NotFound"):
            site.opened.registrar.register(manifest, found, {}, {"/dev/xvda": "snap-01234567"})
