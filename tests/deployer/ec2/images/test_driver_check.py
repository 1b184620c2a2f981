"""Drivers for EC2's machines in images: lists of modules of the kinds that there are, and a real Debian kernel's."""

import bz2
import gzip
import json
import lzma
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from catalog.client import transfer
from catalog.image.address import Address
from catalog.image.bundle import Bundle
from catalog.image.manifest import Blank, Manifest
from deployer.ec2.images import driver_check_child as drivers_child
from deployer.ec2.images.driver_check import DriverVerdict, KernelDrivers, check_drivers, evaluate_drivers
from deployer.ec2.images.image_upload import MachineProgress
from deployer.ec2.model.boot_mapping import map_boot
from deployer.machine.state import MachineState
from examples.guest_system import initramfs, kernel_tree
from signer.documents import validate
from tests.deployer.ec2.images.test_boot_disk import PACKAGES
from tests.support.aws.fake_aws import AwsWorld
from tests.support.aws.memory_disks import Shelf
from tests.support.aws.site_with_pool import Ec2Site, Images, account

NVME, ENA, BOTH = ("nvme",), ("ena",), ("nvme", "ena")
HOST, NET = "kernel/drivers/nvme/host/nvme.ko", "kernel/drivers/net/ethernet/amazon/ena/ena.ko"


def kernel(
    modules: Sequence[str] = (), builtin: Sequence[str] = (), *, listed: bool = True, version: str = "6.1.0"
) -> KernelDrivers:
    return KernelDrivers(version=version, modules=tuple(modules), builtin=tuple(builtin), listed=listed)


@pytest.mark.parametrize(
    ("what", "root", "early", "direct", "answer", "says"),
    [
        ("modules of a disk", [kernel(BOTH)], None, False, "yes", ""),
        ("one is built in", [kernel(ENA, NVME)], None, False, "yes", ""),
        ("nothing that can be read", [], None, False, "unknown", "no kernel modules were found"),
        ("no driver for disks", [kernel(ENA)], None, False, "no", "6.1.0 has no driver for EC2's disks (nvme)"),
        ("no driver at all", [kernel()], None, False, "no", "EC2's disks (nvme) and EC2's network (ena)"),
        ("no list of what is built in", [kernel(ENA, listed=False)], None, False, "unknown", "it does not list"),
        ("one kernel of two", [kernel(BOTH), kernel(version="5.10")], None, False, "unknown", "5.10 has no driver"),
        ("an initrd with both", [], kernel(BOTH, listed=False), True, "yes", ""),
        ("the network's comes from the root", [kernel(ENA)], kernel(NVME, listed=False), True, "yes", ""),
        ("the disks' comes too late", [kernel(BOTH)], kernel(), True, "no", "its initrd has no driver for EC2's disks"),
        ("it is built in, says the root", [kernel(ENA, NVME)], kernel(listed=False), True, "yes", ""),
        ("nothing says what is built in", [], kernel(listed=False), True, "unknown", "built in is unknown"),
        ("no initrd, and built in", [kernel(ENA, NVME)], None, True, "yes", ""),
        ("no initrd, and nothing known", [], None, True, "unknown", "its readable part has no driver"),
    ],
)
def test_what_is_decided(
    what: str, root: list[KernelDrivers], early: KernelDrivers | None, direct: bool, answer: str, says: str
) -> None:
    verdict = evaluate_drivers(root, early, direct=direct)
    assert verdict.answer == answer
    assert says in verdict.reason if says else verdict == DriverVerdict("yes")


def cpio(files: dict[str, bytes]) -> bytes:
    """An archive as the kernel reads them."""
    made = b""
    for number, (name, content) in enumerate([*files.items(), ("TRAILER!!!", b"")], 1):
        fields = (number, 0o100644, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
        header = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
        made += header + bytes(-len(header) % 4) + content + bytes(-len(content) % 4)
    return made


def zstd(data: bytes) -> bytes:
    return subprocess.run(["zstd", "-cq"], input=data, capture_output=True, check=True).stdout


MICROCODE = cpio({"kernel/x86/microcode/GenuineIntel.bin": bytes(range(250))})
FULL = cpio(
    {
        f"usr/lib/modules/6.1.0/{NET}.xz": b"module",
        "usr/lib/modules/6.1.0/modules.builtin": f"kernel/fs/ext4/ext4.ko\n{HOST}\n".encode(),
        "bin/nvme": b"not a driver",
    }
)
FOUND = {"version": "", "modules": ["ena"], "builtin": ["nvme"], "listed": True}


@pytest.mark.parametrize(
    ("what", "data"),
    [
        ("plain", FULL),
        ("gzip", gzip.compress(FULL)),
        ("xz", lzma.compress(FULL, check=lzma.CHECK_CRC32)),
        ("lzma", lzma.compress(FULL, lzma.FORMAT_ALONE)),
        ("bzip2", bz2.compress(FULL)),
        ("microcode before it", MICROCODE + bytes(512) + gzip.compress(FULL)),
        ("two compressed ones and padding", gzip.compress(MICROCODE) + bytes(3) + lzma.compress(FULL) + bytes(5)),
    ],
)
def test_an_initrd_is_read_however_it_is_packed(tmp_path: Path, what: str, data: bytes) -> None:
    (tmp_path / "initrd").write_bytes(data)
    assert drivers_child.inspect_initrd(str(tmp_path / "initrd")) == [FOUND]


@dataclass(frozen=True)
class Files:
    """Contents by address; whatever is not named is noise."""

    held: dict[Address, Path]
    noise: Path

    def path(self, address: Address) -> Path:
        return self.held.get(address, self.noise)

    def blank(self, blank: Blank) -> Path:
        raise NotImplementedError


@pytest.fixture
def noise(tmp_path: Path) -> Path:
    path = tmp_path / "noise"
    path.write_bytes(bytes(range(256)) * 64)
    return path


def direct(images: Images, noise: Path, data: bytes, tmp_path: Path) -> DriverVerdict:
    """What is found in the direct image with another initrd."""
    boot = images.direct.manifest.boot
    (tmp_path / "initrd").write_bytes(data)
    return check_drivers(images.direct.manifest, Files({boot.initrd: tmp_path / "initrd"}, noise))  # type: ignore[union-attr, dict-item]


@pytest.mark.parametrize(
    ("what", "data", "answer", "says"),
    [
        ("both drivers, packed with Zstandard behind microcode", lambda: MICROCODE + zstd(FULL), "yes", ""),
        ("not an archive", lambda: b"noise" * 99, "unknown", "its initrd cannot be read (not an archive"),
        ("not a complete cpio", lambda: gzip.compress(FULL)[:-40], "unknown", "its initrd cannot be read ("),
        ("an absurd name", lambda: FULL[:94] + b"FFFFFFFF" + FULL[102:], "unknown", "invalid length"),
    ],
)
def test_an_initrd_from_a_stranger_is_looked_into(
    images: Images, noise: Path, tmp_path: Path, what: str, data: Callable[[], bytes], answer: str, says: str
) -> None:
    verdict = direct(images, noise, data(), tmp_path)
    assert verdict.answer == answer
    assert says in verdict.reason


def filesystem(tmp_path: Path, lists: dict[str, str], *, version: str = "6.1.0") -> Path:
    """An ext4 root, as Debian has it: /lib is a link."""
    place = tmp_path / "tree" / "usr/lib/modules" / version
    place.mkdir(parents=True)
    (tmp_path / "tree" / "lib").symlink_to("usr/lib")
    for name, text in lists.items():
        (place / f"modules.{name}").write_text(text)
    disk = tmp_path / "root"
    command = ["mkfs.ext4", "-q", "-F", "-d", tmp_path / "tree", disk, "16M"]
    subprocess.run(command, check=True, capture_output=True)
    return disk


@pytest.mark.parametrize(
    ("what", "lists", "answer"),
    [
        ("both", {"dep": f"{HOST}: x.ko\n{NET}:\n", "builtin": ""}, "yes"),
        ("none for the network", {"dep": f"a.ko: {NET}\n", "builtin": f"{HOST}\n"}, "no"),
    ],
)
def test_a_root_filesystem_is_looked_into(
    images: Images, noise: Path, tmp_path: Path, what: str, lists: dict[str, str], answer: str
) -> None:
    root = filesystem(tmp_path, lists)
    manifest = images.hello.manifest
    first = next(part.content for part in manifest.partitions() if part.content is not None)
    assert check_drivers(manifest, Files({first: root}, noise)).answer == answer
    assert check_drivers(manifest, Files({}, noise)).answer == "unknown"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_real_kernel_of_debian_has_both_and_is_missed_without_them(
    images: Images, noise: Path, tmp_path: Path
) -> None:
    tree = kernel_tree(PACKAGES)
    lists = next((tree / "lib/modules").iterdir())
    texts = {name: (lists / f"modules.{name}").read_text() for name in ("dep", "builtin")}
    first = next(part.content for part in images.hello.manifest.partitions() if part.content is not None)
    (tmp_path / "good").mkdir()
    good = filesystem(tmp_path / "good", texts, version=lists.name)
    assert check_drivers(images.hello.manifest, Files({first: good}, noise)) == DriverVerdict("yes")
    (tmp_path / "bad").mkdir()
    without = {name: "".join(x for x in text.splitlines(True) if "/ena.ko" not in x) for name, text in texts.items()}
    bad = filesystem(tmp_path / "bad", without, version=lists.name)
    verdict = check_drivers(images.hello.manifest, Files({first: bad}, noise))
    assert verdict == DriverVerdict("no", f"{lists.name} has no driver for EC2's network (ena)")
    # The guest of the examples: a real initramfs, without these drivers, and without a list of what its kernel has.
    made = initramfs(tree)
    assert direct(images, noise, made, tmp_path).answer == "unknown"
    parts = [part.content for part in images.direct.manifest.partitions() if part.content is not None]
    boot = images.direct.manifest.boot
    (tmp_path / "initrd").write_bytes(made)
    held = {boot.initrd: tmp_path / "initrd", parts[0]: good}  # type: ignore[union-attr]
    assert check_drivers(images.direct.manifest, Files(held, noise)) == DriverVerdict("yes")  # type: ignore[arg-type]
    shutil.rmtree(tmp_path / "good")


@pytest.mark.timeout(240)
def test_an_image_without_the_drivers_is_refused_before_anything_is_uploaded(
    images: Images, world: AwsWorld, profile: str, tmp_path: Path
) -> None:
    root = filesystem(tmp_path, {"dep": "", "builtin": f"{HOST}\n"})
    place = tmp_path / "bundle"
    shutil.copytree(images.hello.root / "blobs", place / "blobs")
    address = Shelf(place / "blobs").put(root.read_bytes())
    document = json.loads(images.hello.manifest.canonical())
    document["version"] = "9.0"
    document["disks"][1]["partition"]["content"] = str(address)
    bundle = images.star.endorse(Bundle.create(place, validate(Manifest, document, "manifest")))
    with images.service.client() as client:
        transfer.publish_image(client, bundle)
    host = Ec2Site(images, world, tmp_path / "host", account(world, profile))
    since = world.asked()
    with host.open() as site:
        uuid = host.want(bundle)
        site.settle()
        assert site.state(uuid) is MachineState.FAILED
        assert "6.1.0 has no driver for EC2's network (ena)" in site.seen(uuid).reason
        assert not [one for one in world.log(since) if one["operation"] in {"StartSnapshot", "RegisterImage"}]
        assert site.opened.books.machines() == []  # and the money is free again
        progress = MachineProgress()
        entry, _ = site.imaging.image(bundle.manifest, map_boot(bundle.manifest), progress, drivers=False)
        assert entry.ami
        assert progress.drivers is not None
        assert progress.drivers.answer == "no"
