"""A machine as libvirt's domain XML, built from typed values; no libvirt here, no templates, no probing.

The elements are those of libvirt's "Domain XML format". Every disk names its driver, and its backing chain is spelled
out down to an empty `<backingStore/>`, so that libvirt never looks into a file to find out what it is.
"""

import re
from pathlib import Path
from xml.etree import ElementTree as ET

from deployer.machine.network import Network
from deployer.machine.spec import (
    DiskSpec,
    DomainTag,
    KernelBoot,
    MachineSpec,
    Overlay,
    RawFile,
    UefiBoot,
    disk_target,
    mac_of,
)

NAMESPACE = "urn:partita:domain:v1"

ET.register_namespace("partita", NAMESPACE)


GUEST_AGENT = "org.qemu.guest_agent.0"
"""The name of the port by which a guest's agent is found (QEMU guest agent)."""


def build_domain_xml(spec: MachineSpec, agent: Path | None = None) -> str:
    """The domain of a machine, for defining or creating it.

    Args:
        spec: the machine.
        agent: the socket by which libvirt talks to the guest's agent; libvirt's own place if not given.
    """
    domain = ET.Element("domain", type=spec.virt)
    _text(domain, "name", spec.name)
    _text(domain, "uuid", spec.uuid)
    if spec.description is not None:
        _text(domain, "description", spec.description)
    metadata = ET.SubElement(domain, "metadata")
    ET.SubElement(metadata, f"{{{NAMESPACE}}}machine", owner=spec.tag.owner, image=spec.tag.image)
    _text(domain, "memory", str(spec.max_memory >> 10), unit="KiB")
    _text(domain, "currentMemory", str(spec.memory >> 10), unit="KiB")
    vcpu = _text(domain, "vcpu", str(spec.max_cores), placement="static")
    if spec.cores < spec.max_cores:
        vcpu.set("current", str(spec.cores))
    _boot(domain, spec)
    features = ET.SubElement(domain, "features")
    ET.SubElement(features, "acpi")
    if spec.architecture == "x86_64":
        ET.SubElement(features, "apic")
    else:
        ET.SubElement(features, "gic")
    # Under KVM the host's own processor; under emulation everything that the emulator can do.
    ET.SubElement(domain, "cpu", mode="host-passthrough" if spec.virt == "kvm" else "maximum")
    ET.SubElement(domain, "clock", offset="utc")
    _text(domain, "on_poweroff", "destroy")
    _text(domain, "on_reboot", "restart")
    _text(domain, "on_crash", "destroy")
    devices = ET.SubElement(domain, "devices")
    for index, disk in enumerate(spec.disks):
        _disk(devices, disk, boots=index == 0 and not isinstance(spec.boot, KernelBoot))
    if spec.seed is not None:
        seed = DiskSpec(target=disk_target(len(spec.disks)), source=RawFile(path=spec.seed), serial="seed")
        _disk(devices, seed, boots=False)
    _network(devices, spec.network, mac_of(spec.uuid))
    _console(devices, spec)
    if spec.network.kind in {"network", "bridge"}:  # the others have no addresses to ask for
        _agent(devices, agent)
    rng = ET.SubElement(devices, "rng", model="virtio")
    _text(rng, "backend", "/dev/urandom", model="random")
    ET.SubElement(devices, "memballoon", model="virtio")
    # What a server needs no part of is not emulated: each device is attack surface.
    ET.SubElement(devices, "controller", type="usb", model="none")
    ET.SubElement(ET.SubElement(devices, "video"), "model", type="none")
    ET.indent(domain)
    return ET.tostring(domain, encoding="unicode") + "\n"


def restore_domain_xml(xml: str, saved: str) -> str:
    """The domain of a machine with what its memory was saved with: QEMU's machine type in full, and what it had just then.

    Args:
        xml: of `build_domain_xml`.
        saved: the domain that stands beside the memory, which may be another node's: nothing but those values is taken.
    """
    ours = ET.fromstring(xml)  # noqa: S314 - written above
    theirs = ET.fromstring(saved)  # noqa: S314 - read by libvirt and written by it again; libvirt refuses entities
    kind = theirs.find("os/type")
    if kind is not None and re.fullmatch(r"[a-z0-9][a-z0-9.+_-]{0,63}", kind.get("machine", "")):
        _found(ours, "os/type").set("machine", kind.get("machine", ""))
    balloon = theirs.findtext("currentMemory", "")
    if balloon.isdigit():
        _found(ours, "currentMemory").text = balloon
    vcpu = theirs.find("vcpu")
    if vcpu is not None and vcpu.get("current", "").isdigit():
        _found(ours, "vcpu").set("current", vcpu.get("current", ""))
    return ET.tostring(ours, encoding="unicode") + "\n"


def _found(domain: ET.Element, path: str) -> ET.Element:
    found = domain.find(path)
    assert found is not None  # noqa: S101 - `build_domain_xml` writes it
    return found


def tag_of(xml: str) -> DomainTag | None:
    """The tag in a domain's XML as libvirt gives it back; None where the domain is not ours or its tag is not whole."""
    try:
        machine = ET.fromstring(xml).find(f"metadata/{{{NAMESPACE}}}machine")  # noqa: S314 - written by libvirt itself
        if machine is None:
            return None
        return DomainTag(owner=machine.get("owner", ""), image=machine.get("image", ""))
    except (ET.ParseError, ValueError):
        return None


def _text(parent: ET.Element, name: str, text: str, **attributes: str) -> ET.Element:
    element = ET.SubElement(parent, name, attributes)
    element.text = text
    return element


def _boot(domain: ET.Element, spec: MachineSpec) -> None:
    os = ET.SubElement(domain, "os")
    _text(os, "type", "hvm", arch=spec.architecture, machine=spec.machine)
    match spec.boot:
        case KernelBoot(kernel=kernel, initrd=initrd, cmdline=cmdline):
            _text(os, "kernel", str(kernel))
            if initrd is not None:
                _text(os, "initrd", str(initrd))
            if cmdline:
                _text(os, "cmdline", cmdline)
        case UefiBoot(loader=loader, template=template, variables=variables):
            _text(os, "loader", str(loader), readonly="yes", type="pflash")
            _text(os, "nvram", str(variables), template=str(template))


def _disk(devices: ET.Element, disk: DiskSpec, *, boots: bool) -> None:
    element = ET.SubElement(devices, "disk", type="file", device="disk")
    source = disk.source
    driver = ET.SubElement(element, "driver", name="qemu", type=source.kind)
    if isinstance(source, Overlay):
        # What a guest discards is given back to the host.
        driver.set("discard", "unmap")
    ET.SubElement(element, "source", file=str(source.path))
    backing = ET.SubElement(element, "backingStore")
    if isinstance(source, Overlay):
        backing.set("type", "file")
        ET.SubElement(backing, "format", type=source.base.kind)
        ET.SubElement(backing, "source", file=str(source.base.path))
        ET.SubElement(backing, "backingStore")
    ET.SubElement(element, "target", dev=disk.target, bus="virtio")
    if disk.read_only:
        ET.SubElement(element, "readonly")
    if disk.serial is not None:
        _text(element, "serial", disk.serial)
    if boots:
        ET.SubElement(element, "boot", order="1")


def _network(devices: ET.Element, network: Network, mac: str) -> None:
    if network.kind == "none":
        return
    interface = ET.SubElement(devices, "interface", type=network.kind)
    ET.SubElement(interface, "mac", address=mac)
    if network.kind != "user":
        ET.SubElement(interface, "source", {network.kind: network.name})
    ET.SubElement(interface, "model", type="virtio")


def _agent(devices: ET.Element, place: Path | None) -> None:
    channel = ET.SubElement(devices, "channel", type="unix")
    if place is not None:
        ET.SubElement(channel, "source", mode="bind", path=str(place))
    ET.SubElement(channel, "target", type="virtio", name=GUEST_AGENT)


def _console(devices: ET.Element, spec: MachineSpec) -> None:
    serial = ET.SubElement(devices, "serial", type="pty")
    ET.SubElement(serial, "log", file=str(spec.console), append="on")
    ET.SubElement(serial, "target", port="0")
    console = ET.SubElement(devices, "console", type="pty")
    ET.SubElement(console, "target", type="serial", port="0")
