"""What EC2 can boot, and the sentence that refuses the rest."""

import json

import pytest

from catalog.image.manifest import Blank, Manifest
from deployer.ec2.model.boot_mapping import MAX_VOLUMES, ROOT_DEVICE, add_blanks, map_boot
from deployer.errors import CannotBoot
from signer.documents import validate
from tests.support.aws.site_with_pool import Images

MIB, GIB = 1 << 20, 1 << 30


def changed(manifest: Manifest, **changes: object) -> Manifest:
    return validate(Manifest, json.loads(manifest.canonical()) | changes, "manifest")


def direct(manifest: Manifest, cmdline: str, **changes: object) -> Manifest:
    boot = json.loads(manifest.canonical())["boot"] | {"cmdline": cmdline}
    return changed(manifest, boot=boot, **changes)


def test_a_bios_disk_is_the_root_device(images: Images) -> None:
    found = map_boot(images.hello.manifest)
    assert (found.boot_mode, found.architecture, found.boot_disk) == ("legacy-bios", "x86_64", None)
    assert [(volume.device, volume.size, volume.disk) for volume in found.volumes] == [
        (ROOT_DEVICE, 1, 0),
        ("/dev/sdf", 1, 1),
        ("/dev/sdg", 1, None),
    ]
    assert [volume.device for volume in found.snapshots] == [ROOT_DEVICE, "/dev/sdf"]


def test_uefi_boots_on_both_architectures(images: Images) -> None:
    document = json.loads(images.hello.manifest.canonical())
    document["disks"][0]["partitions"][0]["type"] = "esp"
    for architecture, name in (("x86_64", "x86_64"), ("aarch64", "arm64")):
        manifest = validate(Manifest, document | {"boot": {"mode": "uefi"}, "architecture": architecture}, "manifest")
        assert (map_boot(manifest).boot_mode, map_boot(manifest).architecture) == ("uefi", name)


def test_a_kernel_without_a_boot_loader_gets_a_boot_disk_in_front(images: Images) -> None:
    found = map_boot(images.direct.manifest)
    assert found.boot_mode == "legacy-bios"
    assert found.boot_disk == images.direct.manifest.boot
    assert [(volume.device, volume.disk) for volume in found.volumes] == [
        (ROOT_DEVICE, None),
        ("/dev/sdf", 0),
        ("/dev/sdg", None),
    ]


@pytest.mark.parametrize(
    ("what", "cmdline", "changes", "says"),
    [
        ("a virtio disk as root", "root=/dev/vda1 ro", {}, "names /dev/vda1"),
        ("a Xen disk as root", "ro root=/dev/xvda", {}, "names /dev/xvda"),
        ("a SCSI disk in a list", "x=1,/dev/sda2", {}, "names /dev/sda2"),
        ("quotes, which GRUB would change", 'root=LABEL=x dyndbg="file a +p"', {}, "holds quotes or backslashes"),
        ("a backslash", "root=LABEL=x y=\\n", {}, "holds quotes or backslashes"),
        ("an architecture without a BIOS", "root=LABEL=x", {"architecture": "aarch64"}, "made for x86_64 only"),
    ],
)
def test_what_cannot_boot_is_refused(
    images: Images, what: str, cmdline: str, changes: dict[str, object], says: str
) -> None:
    with pytest.raises(CannotBoot, match=r"star/direct@1\.0") as refused:
        map_boot(direct(images.direct.manifest, cmdline, **changes))
    assert says in str(refused.value)


def test_a_bios_image_for_arm_is_refused(images: Images) -> None:
    with pytest.raises(CannotBoot, match="boots with a BIOS, which EC2 does not have for arm64"):
        map_boot(changed(images.hello.manifest, architecture="aarch64"))


def test_blanks_that_were_asked_for_come_last_and_are_not_too_many(images: Images) -> None:
    found = map_boot(images.hello.manifest)
    blank = Blank(size=GIB + 512, filesystem="ext4", label="more")
    assert [(volume.device, volume.size) for volume in add_blanks(found, (blank, blank))[3:]] == [
        ("/dev/sdh", 2),
        ("/dev/sdi", 2),
    ]
    most = MAX_VOLUMES - len(found.volumes)
    assert len(add_blanks(found, (blank,) * most)) == MAX_VOLUMES
    with pytest.raises(CannotBoot, match="ask for fewer"):
        add_blanks(found, (blank,) * (most + 1))


def test_devices_have_names_of_their_own(images: Images) -> None:
    volumes = add_blanks(map_boot(images.hello.manifest), (Blank(size=GIB, filesystem="none"),) * 20)
    assert len({volume.device for volume in volumes}) == len(volumes)


def test_an_image_with_too_many_disks_is_refused(images: Images) -> None:
    manifest = images.hello.manifest
    huge = manifest.disks[0].model_copy(update={"size": 17 << 40})
    with pytest.raises(CannotBoot, match="a volume at EC2 has at most"):
        map_boot(manifest.model_copy(update={"disks": (huge,)}))
