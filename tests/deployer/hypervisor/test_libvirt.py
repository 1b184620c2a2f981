"""The door to libvirt, with its real embedded driver: whose machines are seen, what is told, what errors become."""

import json
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from deployer.errors import BackendFailed
from deployer.hypervisor.disks import assemble_disks, find_firmware
from deployer.hypervisor.domain_xml import build_domain_xml
from deployer.hypervisor.embedded_driver import MAX_ROOT
from deployer.hypervisor.libvirt import Hypervisor, _advice, _usable
from deployer.hypervisor.qemu_monitor import QemuMonitor
from deployer.machine.network import Network
from deployer.machine.shape import MachineShape
from deployer.machine.spec import DomainTag, MachineSpec, UefiBoot
from deployer.machine.state import MachineEvent, MachineState
from tests.support.node.boot_sector_guest import GOODBYE, SAID, boot_sector_image
from tests.support.node.bundle_contents import BundleContents
from tests.support.node.service_process import wait_for

pytestmark = pytest.mark.guest
MIB = 1 << 20


class Site:
    """An embedded driver and a directory for its machines."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.told: list[tuple[str, MachineEvent, str]] = []
        self.image = boot_sector_image(root / "image")
        self.hypervisor = self.open("me")

    def open(self, owner: str) -> Hypervisor:
        """The driver, seen as an owner."""
        return Hypervisor.embedded(self.root / "l", owner, lambda *told: self.told.append(told))

    def machine(self, owner: str = "me") -> MachineSpec:
        """A machine that can be started."""
        name = str(uuid.uuid4())
        directory = self.root / name
        directory.mkdir()
        made = assemble_disks(self.image.manifest, BundleContents(self.image, self.root / "blanks"), directory)
        return MachineSpec(
            uuid=name,
            name=f"m-{name[:8]}",
            **MachineShape.fixed(32 * MIB, 1).model_dump(),
            virt="qemu",
            architecture="x86_64",
            machine="q35",
            boot=made.boot,
            disks=made.disks,
            network=Network(kind="none"),
            console=directory / "console.log",
            tag=DomainTag(owner=owner, image=self.image.manifest.image_id),
        )

    def happened(self, name: str) -> list[MachineEvent]:
        """What was told of a machine."""
        return [happening for uuid_, happening, _ in self.told if uuid_ == name]


@pytest.fixture(scope="session")
def site(warm: Path) -> Iterator[Site]:
    """One per process: libvirt opens one embedded root in its life, and a process may get tests of this module twice."""
    root = Path(tempfile.mkdtemp(prefix="pl-", dir="/tmp"))
    shutil.copytree(warm, root / "l" / "cache")
    site = Site(root)
    try:
        yield site
    finally:
        for name in site.hypervisor.found():
            site.hypervisor.destroy(name)
        site.hypervisor.close()
        shutil.rmtree(root)


def test_a_machine_runs_is_found_and_powers_off(site: Site) -> None:
    spec = site.machine()
    site.hypervisor.start(spec)
    assert site.hypervisor.found()[spec.uuid] == spec.tag
    wait_for(lambda: SAID[-1] in spec.console.read_bytes())
    site.hypervisor.shutdown(spec.uuid)
    wait_for(lambda: MachineEvent.POWERED_OFF in site.happened(spec.uuid))
    assert spec.uuid not in site.hypervisor.found()
    site.hypervisor.destroy(spec.uuid)  # what has ended is ended
    site.hypervisor.shutdown(spec.uuid)


def test_machines_of_others_are_not_seen(site: Site) -> None:
    spec = site.machine(owner="somebody else")
    site.hypervisor.start(spec)
    assert spec.uuid not in site.hypervisor.found()
    site.hypervisor.destroy(spec.uuid)
    wait_for(lambda: MachineEvent.DESTROYED in site.happened(spec.uuid))


def test_pausing_and_resuming_is_told(site: Site) -> None:
    spec = site.machine()
    site.hypervisor.start(spec)
    domain = site.hypervisor._connection.lookupByUUIDString(spec.uuid)
    domain.suspend()
    domain.resume()
    wait_for(lambda: MachineEvent.RESUMED in site.happened(spec.uuid)[-1:])
    assert MachineEvent.PAUSED in site.happened(spec.uuid)
    site.hypervisor.destroy(spec.uuid)


def test_the_same_machine_never_runs_twice(site: Site) -> None:
    spec = site.machine()
    site.hypervisor.start(spec)
    with pytest.raises(BackendFailed, match="does not start"):
        site.hypervisor.start(spec)
    site.hypervisor.destroy(spec.uuid)


def test_a_disk_that_is_not_there_is_the_hypervisors_own_sentence(site: Site) -> None:
    spec = site.machine()
    spec.disks[0].source.path.unlink()
    with pytest.raises(BackendFailed, match=r"does not start: .*No such file"):
        site.hypervisor.start(spec)
    assert spec.uuid not in site.hypervisor.found()


def test_the_driver_opens_again_after_it_was_closed(site: Site) -> None:
    spec = site.machine()
    site.hypervisor.start(spec)
    site.hypervisor.close()
    site.hypervisor = site.open("me")
    assert spec.uuid in site.hypervisor.found()
    site.hypervisor.destroy(spec.uuid)


def test_any_other_uri_may_be_set() -> None:
    hypervisor = Hypervisor("test:///default", "me", lambda *_: None)
    assert hypervisor.version.startswith("libvirt ")
    assert hypervisor.found() == {}  # the test driver's own domain carries no tag
    hypervisor.destroy(str(uuid.uuid4()))
    hypervisor.close()


def test_a_uri_that_leads_nowhere_is_one_sentence() -> None:
    with pytest.raises(BackendFailed, match=r"libvirt \(nothing:///here\) cannot be opened"):
        Hypervisor("nothing:///here", "me", lambda *_: None)


def test_a_path_too_long_for_sockets_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    root = tmp_path / ("x" * MAX_ROOT)
    with pytest.raises(BackendFailed, match=r"choose a shorter node\.directory"):
        Hypervisor.embedded(root, "me", lambda *_: None)
    assert not root.exists()


def uefi(site: Site) -> MachineSpec:
    """A machine that boots with UEFI, from a disk that holds no boot loader for it."""
    spec = site.machine()
    loader, template = find_firmware("x86_64")
    boot = UefiBoot(loader=loader, template=template, variables=spec.console.parent / "uefi-variables.fd")
    return spec.model_copy(update={"boot": boot, "memory": 128 * MIB, "max_memory": 128 * MIB})


def test_uefi_gives_each_machine_variables_of_its_own(site: Site) -> None:
    spec = uefi(site)
    site.hypervisor.start(spec)
    assert isinstance(spec.boot, UefiBoot)
    assert spec.boot.variables.stat().st_size == spec.boot.template.stat().st_size
    site.hypervisor.destroy(spec.uuid)


@pytest.mark.slow
def test_uefi_firmware_looks_for_a_boot_loader_on_the_first_disk(site: Site) -> None:
    spec = uefi(site)
    site.hypervisor.start(spec)
    wait_for(lambda: b"BdsDxe" in spec.console.read_bytes(), 120)
    site.hypervisor.destroy(spec.uuid)


def test_emulators_run_in_a_sandbox_and_name_every_format(site: Site) -> None:
    spec = site.machine()
    site.hypervisor.start(spec)
    (line,) = [
        path.read_bytes()
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if spec.uuid.encode() in path.read_bytes() and b"qemu-system" in path.read_bytes()
    ]
    assert b"-sandbox\0on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny" in line
    nodes = [json.loads(word) for word in line.split(b"\0") if word.startswith(b'{"node-name"') or b'"driver"' in word]
    formats = {node["driver"] for node in nodes if "format" in node.get("node-name", "")}
    assert formats == {"raw", "qcow2", "vmdk"}
    assert all(node.get("read-only") for node in nodes if node["driver"] == "vmdk")
    site.hypervisor.destroy(spec.uuid)


@pytest.mark.parametrize(
    ("reason", "says"),
    [
        ("Failed to acquire pid file '/n/libvirt/run/qemu/driver.pid'", "another partita node owns this directory"),
        ("invalid argument: Failed to parse user 'libvirt-qemu'", "run ./dev setup"),
        ("anything else", "cannot be opened: anything else"),
    ],
)
def test_failures_that_a_person_can_end_say_how(reason: str, says: str) -> None:
    assert says in _advice("qemu:///embed?root=/n/libvirt", reason)


def test_a_start_finds_out_nothing_anew(site: Site) -> None:
    """To ask QEMU what it can takes libvirt four seconds; what it has found out is written down anew each time."""

    def found_out() -> dict[Path, int]:
        return {file: file.stat().st_mtime_ns for file in site.root.rglob("qemu/capabilities/*.xml")}

    before = found_out()
    assert before
    spec = site.machine()
    site.hypervisor.start(spec)
    site.hypervisor.destroy(spec.uuid)
    assert found_out() == before, "libvirt has forgotten what it found out about QEMU"


def test_a_start_that_was_killed_before_there_was_an_emulator_is_forgotten(site: Site) -> None:
    """libvirt would list it for ever, and wait a minute for a lock when it should be ended."""
    spec = site.machine()
    site.hypervisor.start(spec)
    place = site.root / "l" / "run" / "qemu" / f"{spec.name}.xml"
    status = place.read_text()
    site.hypervisor.destroy(spec.uuid)
    site.hypervisor.close()
    place.write_text(re.sub(r"pid='[0-9]+'", "pid='0'", status, count=1))
    site.hypervisor = site.open("me")
    assert spec.uuid not in site.hypervisor.found()
    assert not place.exists()


def test_a_machine_is_suspended_whole_and_goes_on(site: Site) -> None:
    spec = site.machine()
    place = spec.console.parent / "memory"
    site.hypervisor.start(spec)
    wait_for(lambda: SAID[-1] in spec.console.read_bytes())
    assert site.hypervisor.state(spec.uuid) is MachineState.RUNNING
    assert not site.hypervisor.saved(place)
    site.hypervisor.suspend(spec.uuid, place)
    assert site.hypervisor.state(spec.uuid) is None
    assert site.hypervisor.saved(place)
    site.hypervisor.restore(place)
    assert site.hypervisor.state(spec.uuid) is MachineState.RUNNING
    assert spec.uuid in site.hypervisor.found()
    site.hypervisor.shutdown(spec.uuid)
    wait_for(lambda: GOODBYE in spec.console.read_bytes())
    assert spec.console.read_bytes().count(SAID[0]) == 1
    site.hypervisor.destroy(spec.uuid)


def test_a_machine_that_cannot_be_saved_goes_on_with_its_disks(site: Site) -> None:
    spec = site.machine()
    site.hypervisor.start(spec)
    wait_for(lambda: SAID[-1] in spec.console.read_bytes())
    with pytest.raises(BackendFailed, match="cannot be saved"):
        site.hypervisor.suspend(spec.uuid, site.root / "no such directory" / "memory")
    assert site.hypervisor.state(spec.uuid) is MachineState.RUNNING
    assert backings(site, spec) == {"disk0.vmdk"}
    site.hypervisor.reset(spec.uuid)  # it reads its disk again
    wait_for(lambda: spec.console.read_bytes().count(SAID[-1]) == 2)
    site.hypervisor.destroy(spec.uuid)


def test_a_machine_that_was_left_half_suspended_reads_its_disks_when_it_goes_on(site: Site) -> None:
    spec = site.machine()
    site.hypervisor.start(spec)
    wait_for(lambda: SAID[-1] in spec.console.read_bytes())
    site.hypervisor.pause(spec.uuid)
    site.hypervisor._domain(spec.uuid, lambda domain: QemuMonitor(domain).part(), "no")
    assert backings(site, spec) == set()
    site.hypervisor.close()  # whoever did that died
    site.hypervisor = site.open("me")
    assert spec.uuid in site.hypervisor.found()
    site.hypervisor.resume(spec.uuid)
    assert backings(site, spec) == {"disk0.vmdk"}
    site.hypervisor.reset(spec.uuid)
    wait_for(lambda: spec.console.read_bytes().count(SAID[-1]) == 2)
    site.hypervisor.destroy(spec.uuid)


def backings(site: Site, spec: MachineSpec) -> set[str]:
    """The descriptors that lie below a machine's overlays now."""
    found: list[dict[str, Any]] = []
    site.hypervisor._domain(spec.uuid, lambda domain: found.extend(QemuMonitor(domain)._nodes()), "no")
    names = {Path(node.get("backing_file", "")).name for node in found}
    return {name for name in names if name.endswith(".vmdk")}


def test_memory_and_cores_are_what_the_machine_was_granted_and_has(site: Site) -> None:
    spec = site.machine().model_copy(update={"max_memory": 64 * MIB, "max_cores": 2})
    site.hypervisor.start(spec)
    site.hypervisor.resize(spec.uuid, 48 * MIB, 2)
    found: list[Any] = []
    site.hypervisor._domain(spec.uuid, lambda domain: found.append((domain.maxMemory(), domain.vcpusFlags(1))), "no")
    assert found == [(64 << 10, 2)]
    with pytest.raises(BackendFailed, match="cannot be resized"):
        site.hypervisor.resize(spec.uuid, 48 * MIB, 3)
    assert site.hypervisor.addresses(spec.uuid) == ()
    site.hypervisor.destroy(spec.uuid)


def test_a_guest_s_agent_has_a_port_where_its_addresses_mean_something(site: Site) -> None:
    spec = site.machine()
    root = ET.fromstring(build_domain_xml(spec, Path("/a")))  # noqa: S314 - our own
    assert root.find("devices/channel") is None
    spec = spec.model_copy(update={"network": Network.parse("bridge:br0")})
    channel = ET.fromstring(build_domain_xml(spec, Path("/a"))).find("devices/channel")  # noqa: S314 - our own
    assert channel is not None
    assert channel.find("target").attrib == {"type": "virtio", "name": "org.qemu.guest_agent.0"}  # type: ignore[union-attr]
    assert channel.find("source").attrib == {"mode": "bind", "path": "/a"}  # type: ignore[union-attr]


def test_addresses_are_those_by_which_others_reach_a_guest() -> None:
    found = _usable(
        {
            "lo": {"addrs": [{"addr": "127.0.0.1"}, {"addr": "::1"}]},
            "eth0": {"addrs": [{"addr": "192.0.2.7"}, {"addr": "fe80::1"}, {"addr": "2001:db8::7"}]},
            "eth1": {"addrs": None},
        }
    )
    assert list(found) == ["192.0.2.7", "2001:db8::7"]
    assert list(_usable(None)) == []
