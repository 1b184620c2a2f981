"""Domain XML: what it says, and that the real libvirt takes it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployer.hypervisor.domain_xml import build_domain_xml, tag_of
from deployer.machine.network import Network
from deployer.machine.spec import (
    MAX_DISKS,
    Descriptor,
    DiskSpec,
    DomainTag,
    KernelBoot,
    Overlay,
    RawFile,
    UefiBoot,
    disk_target,
)
from tests.deployer.machine.test_spec import spec

NASTY = """/m/<&'"]]>€ -- ${x} %s"""


def read(**changes: Any) -> ET.Element:
    return ET.fromstring(build_domain_xml(spec(**changes)))  # noqa: S314 - our own


def test_every_disk_names_its_driver_and_its_whole_backing_chain() -> None:
    first, second, seed = read().findall("devices/disk")

    assert [disk.find("driver").get("type") for disk in (first, second, seed)] == ["qcow2", "raw", "raw"]
    assert first.find("backingStore/format").get("type") == "vmdk"
    assert first.find("backingStore/source").get("file") == "/m/disk0.vmdk"
    for end in (first.find("backingStore/backingStore"), second.find("backingStore"), seed.find("backingStore")):
        assert end is not None
        assert not list(end)
        assert not end.attrib
    assert [disk.find("readonly") is not None for disk in (first, second, seed)] == [False, True, True]
    assert [disk.find("target").get("dev") for disk in (first, second, seed)] == ["vda", "vdb", "vdc"]
    assert [disk.findtext("serial") for disk in (first, second, seed)] == [None, "data", "seed"]


def test_the_firmware_boots_from_the_first_disk_and_a_kernel_from_none() -> None:
    assert [disk.find("boot") is not None for disk in read().findall("devices/disk")] == [True, False, False]

    direct = read(boot=KernelBoot(kernel=Path("/k"), initrd=Path("/i"), cmdline="root=<a> & 'b'"))
    assert direct.find("devices/disk/boot") is None
    assert [direct.findtext(f"os/{name}") for name in ("kernel", "initrd", "cmdline")] == ["/k", "/i", "root=<a> & 'b'"]
    assert read(boot=KernelBoot(kernel=Path("/k"))).find("os/initrd") is None


def test_uefi_gets_variables_of_its_own() -> None:
    boot = UefiBoot(loader=Path("/code"), template=Path("/vars"), variables=Path("/m/vars"))

    domain = read(boot=boot)

    assert domain.findtext("os/loader") == "/code"
    assert domain.find("os/loader").get("readonly") == "yes"
    assert domain.findtext("os/nvram") == "/m/vars"
    assert domain.find("os/nvram").get("template") == "/vars"


def test_what_people_want_to_know_of_a_machine_stands_in_the_hypervisor_s_lists() -> None:
    assert read(description="the head of <star> & co").findtext("description") == "the head of <star> & co"
    assert read().find("description") is None


def test_the_accelerator_chooses_type_and_processor() -> None:
    assert (read(virt="kvm").get("type"), read(virt="kvm").find("cpu").get("mode")) == ("kvm", "host-passthrough")
    assert (read().get("type"), read().find("cpu").get("mode")) == ("qemu", "maximum")


@pytest.mark.parametrize(
    ("network", "kind", "source"),
    [
        ("user", "user", None),
        ("network:default", "network", {"network": "default"}),
        ("bridge:br0", "bridge", {"bridge": "br0"}),
    ],
)
def test_networks(network: str, kind: str, source: dict[str, str] | None) -> None:
    interface = read(network=Network.parse(network)).find("devices/interface")

    assert interface is not None
    assert interface.get("type") == kind
    found = interface.find("source")
    assert (found.attrib if found is not None else None) == source


def test_no_network_is_no_interface() -> None:
    assert read(network=Network.parse("none")).find("devices/interface") is None


def test_there_is_a_console_log_and_nothing_to_look_at() -> None:
    devices = read().find("devices")

    assert devices is not None
    assert devices.find("serial/log").get("file") == "/m/console.log"
    assert devices.find("graphics") is None
    assert devices.find("video/model").get("type") == "none"


def test_text_is_data() -> None:
    """Nothing that a path says becomes an element."""
    disks = (DiskSpec(target="vda", source=Overlay(path=Path(NASTY), base=RawFile(path=Path(NASTY + "b")))),)

    domain = read(disks=disks, seed=None)

    assert domain.find("devices/disk/source").get("file") == NASTY
    assert domain.find("devices/disk/backingStore/source").get("file") == NASTY + "b"
    assert [child.tag for child in domain] == [child.tag for child in read()]


def test_the_tag_is_found_again() -> None:
    assert tag_of(build_domain_xml(spec())) == spec().tag


@pytest.mark.parametrize(
    ("sentence", "xml"),
    [
        ("somebody else's machine", "<domain><metadata/></domain>"),
        ("a machine without metadata", "<domain/>"),
        (
            "a tag without an image",
            '<domain><metadata><p:machine xmlns:p="urn:partita:domain:v1" owner="x"/></metadata></domain>',
        ),
        (
            "a tag of another version",
            '<domain><metadata><p:machine xmlns:p="urn:partita:domain:v2"/></metadata></domain>',
        ),
        ("no XML", "<domain"),
    ],
)
def test_a_domain_without_our_whole_tag_is_not_ours(sentence: str, xml: str) -> None:
    assert tag_of(xml) is None


@given(st.text(alphabet=st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=256))
def test_any_owner_comes_back(owner: str) -> None:
    tag = DomainTag(owner=owner, image="sha256:" + "a" * 64)

    assert tag_of(build_domain_xml(spec(tag=tag))) == tag


DEFINE = """
import json, sys, threading
import libvirt

libvirt.registerErrorHandler(lambda *_: None, None)
libvirt.virEventRegisterDefaultImpl()
threading.Thread(target=lambda: [libvirt.virEventRunDefaultImpl() for _ in iter(int, 1)], daemon=True).start()
connection = libvirt.open("qemu:///embed?root=" + sys.argv[1])
answers = {}
for name, xml in json.load(sys.stdin).items():
    try:
        domain = connection.defineXMLFlags(xml, libvirt.VIR_DOMAIN_DEFINE_VALIDATE)
        answers[name] = domain.XMLDesc()
        domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_NVRAM)
    except libvirt.libvirtError as error:
        answers[name] = "refused: " + str(error)
connection.close()
print(json.dumps(answers))
"""


def test_libvirt_takes_it(tmp_path: Path) -> None:
    """Defined, with validation against libvirt's own schema, by the real QEMU driver."""
    many = tuple(
        DiskSpec(target=disk_target(i), source=Overlay(path=Path(f"/m/{i}"), base=Descriptor(path=Path("/m/v"))))
        for i in range(MAX_DISKS)
    )
    direct = KernelBoot(kernel=Path("/k"), initrd=Path("/i"), cmdline="console=ttyS0 a='<&>'")
    uefi = UefiBoot(loader=Path("/usr/share/OVMF/OVMF_CODE.fd"), template=Path("/t"), variables=Path("/m/v"))
    good = {
        "bios": spec(),
        "direct": spec(boot=direct),
        "uefi": spec(boot=uefi),
        "kvm": spec(virt="kvm"),
        "bridge": spec(network=Network.parse("bridge:br0")),
        "network": spec(network=Network.parse("network:default")),
        "alone": spec(network=Network.parse("none"), seed=None, disks=(), boot=direct),
        "many disks": spec(disks=many),
        "nasty": spec(disks=(DiskSpec(target="vda", source=RawFile(path=Path(NASTY)), serial="a.b-c_d"),)),
        "described": spec(description="é € 東京 <b>&amp;</b> ]]>"),
        "arm": spec(architecture="aarch64", machine="virt", boot=direct),
    }
    texts = {name: build_domain_xml(value) for name, value in good.items()}
    # What libvirt must refuse, so that "it takes ours" means something.
    texts["unknown element"] = texts["bios"].replace("<clock", "<klock")
    texts["no driver"] = texts["bios"].replace('type="raw"', 'type="unheard-of"')
    conf = tmp_path / "etc" / "qemu.conf"
    conf.parent.mkdir()
    conf.write_text('user="root"\ngroup="root"\ndynamic_ownership=0\nremember_owner=0\nstdio_handler="file"\n')

    child = subprocess.run(
        [sys.executable, "-c", DEFINE, str(tmp_path)],
        input=json.dumps(texts),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )

    answers = json.loads(child.stdout)
    refused = {name for name, answer in answers.items() if answer.startswith("refused: ")}
    if "No emulator found for arch 'aarch64'" in answers["arm"]:  # the schema was satisfied, which comes first
        refused.remove("arm")
    if "does not support virt type 'kvm'" in answers["kvm"] or "not available" in answers["kvm"]:
        refused.discard("kvm")
    assert refused == {"unknown element", "no driver"}, answers
    assert tag_of(answers["bios"]) == spec().tag
    taken = ET.fromstring(answers["bios"])  # noqa: S314 - written by libvirt
    assert taken.find("devices/disk/backingStore/backingStore") is not None
    assert taken.find("devices/interface/mac").get("address") == read().find("devices/interface/mac").get("address")
