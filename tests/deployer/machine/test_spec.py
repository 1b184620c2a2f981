"""Machines as values: what a description may say, and how one state follows another."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from deployer.machine.network import Network
from deployer.machine.spec import (
    BiosBoot,
    Descriptor,
    DiskSpec,
    DomainTag,
    KernelBoot,
    MachineSpec,
    Overlay,
    RawFile,
    check_hostname,
    disk_target,
    mac_of,
)
from deployer.machine.state import MachineEvent, MachineState, next_state
from signer.documents import canonical, parse

UUID = "00000000-0000-4000-8000-000000000001"


def spec(**changes: Any) -> MachineSpec:
    """A machine with a written disk over a descriptor and a shared one."""
    fields: dict[str, Any] = {
        "uuid": UUID,
        "name": "worker-1",
        "memory": 256 << 20,
        "cores": 1,
        "virt": "qemu",
        "architecture": "x86_64",
        "machine": "q35",
        "boot": BiosBoot(),
        "disks": (
            DiskSpec(
                target="vda",
                source=Overlay(path=Path("/m/disk0.qcow2"), base=Descriptor(path=Path("/m/disk0.vmdk"))),
            ),
            DiskSpec(target="vdb", source=RawFile(path=Path("/cache/part")), serial="data"),
        ),
        "seed": Path("/m/seed.iso"),
        "network": Network.parse("user"),
        "console": Path("/m/console.log"),
        "tag": DomainTag(owner="node:a", image="sha256:" + "0" * 64),
    }
    fields |= changes
    return MachineSpec(**{"max_memory": fields["memory"], "max_cores": fields["cores"]} | fields)


def test_a_description_can_be_kept_beside_its_machine() -> None:
    kept = spec(boot=KernelBoot(kernel=Path("/k"), initrd=Path("/i"), cmdline="quiet"))

    assert parse(MachineSpec, canonical(kept), "machine") == kept


@pytest.mark.parametrize(
    ("sentence", "changes"),
    [
        ("a relative path", {"seed": Path("seed.iso")}),
        ("a path that climbs", {"console": Path("/m/../etc/passwd")}),
        ("a path with a line feed", {"console": Path("/m/a\nb")}),
        ("a path with an undecodable byte", {"console": Path("/m/\udcff")}),
        ("no memory to speak of", {"memory": 1 << 20}),
        ("half a MiB of memory", {"memory": (256 << 20) + 1024}),
        ("no cores", {"cores": 0}),
        ("a name that is a path", {"name": "../x"}),
        ("a name with a line feed", {"name": "a\n"}),
        ("an accelerator nobody knows", {"virt": "xen"}),
        ("a machine type with an option", {"machine": "q35,accel=kvm"}),
        ("BIOS on ARM", {"architecture": "aarch64"}),
        ("a gap in the targets", {"disks": (DiskSpec(target="vdb", source=RawFile(path=Path("/a"))),)}),
        (
            "two disks that write to one file",
            {
                "disks": tuple(
                    DiskSpec(target=t, source=Overlay(path=Path("/o"), base=RawFile(path=Path("/b"))))
                    for t in ("vda", "vdb")
                )
            },
        ),
        (
            "more disks than there are targets",
            {
                "disks": tuple(
                    DiskSpec(target=disk_target(min(i, 23)), source=RawFile(path=Path("/a"))) for i in range(25)
                )
            },
        ),
    ],
)
def test_what_is_no_machine_is_refused(sentence: str, changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        spec(**changes)


@pytest.mark.parametrize("serial", ["", "a" * 21, "a b", "a,readonly=off", "ä"])
def test_what_is_no_serial_is_refused(serial: str) -> None:
    with pytest.raises(ValidationError):
        DiskSpec(target="vda", source=RawFile(path=Path("/a")), serial=serial)


def test_only_an_overlay_is_written() -> None:
    assert [disk.read_only for disk in spec().disks] == [False, True]


@pytest.mark.parametrize("text", ["none", "user", "network:default", "bridge:br0"])
def test_networks_are_read_as_they_are_written(text: str) -> None:
    assert str(Network.parse(text)) == text


@pytest.mark.parametrize(
    "text", ["", "user:", "user:x", "none:x", "network", "network:", "bridge:a b", "bridge:a/b", "x:y", "bridge:-a"]
)
def test_what_is_no_network_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write none, user, network:NAME or bridge:NAME"):
        Network.parse(text)


def test_a_mac_address_follows_from_the_machine() -> None:
    assert mac_of(UUID) == mac_of(UUID) != mac_of(UUID.replace("1", "2"))
    assert mac_of(UUID).startswith("52:54:00:")


@pytest.mark.parametrize("name", ["a", "worker-1", "worker-1.star.example", "0a", "a" * 63, "x--y"])
def test_host_names(name: str) -> None:
    assert check_hostname(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "", "-a", "a-", "a.", ".a", "a..b", "A", "a_b", "a b", "a\n", "a\nb: c", "ä", "a" * 64, "a." * 40 + "a", "10.0.0.1",
        "1", "$(x)", "{{ v1 }}", "a\x00",
    ],
)  # fmt: skip
def test_what_is_no_host_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is not a valid host name"):
        check_hostname(name)


LIFE = [
    (MachineState.PENDING, MachineEvent.ACCEPTED, MachineState.STAGING),
    (MachineState.STAGING, MachineEvent.STAGED, MachineState.BOOTING),
    (MachineState.BOOTING, MachineEvent.STARTED, MachineState.RUNNING),
    (MachineState.RUNNING, MachineEvent.PAUSED, MachineState.PAUSED),
    (MachineState.PAUSED, MachineEvent.RESUMED, MachineState.RUNNING),
    (MachineState.RUNNING, MachineEvent.POWERED_OFF, MachineState.STOPPED),
    (MachineState.STOPPED, MachineEvent.STARTED, MachineState.RUNNING),
    (MachineState.RUNNING, MachineEvent.SUSPENDED, MachineState.SUSPENDED),
    (MachineState.PAUSED, MachineEvent.SUSPENDED, MachineState.SUSPENDED),
    (MachineState.SUSPENDED, MachineEvent.STARTED, MachineState.RUNNING),
    (MachineState.SUSPENDED, MachineEvent.POWERED_OFF, MachineState.STOPPED),
    (MachineState.SUSPENDED, MachineEvent.EXPIRED, MachineState.ENDED),
    (MachineState.RUNNING, MachineEvent.REBOOTED, MachineState.RUNNING),
    (MachineState.RUNNING, MachineEvent.CRASHED, MachineState.FAILED),
    (MachineState.PAUSED, MachineEvent.EXPIRED, MachineState.ENDED),
    (MachineState.STAGING, MachineEvent.DESTROYED, MachineState.ENDED),
    (MachineState.STAGING, MachineEvent.BROKE, MachineState.FAILED),
    # What comes late, twice or from another side changes nothing.
    (MachineState.STOPPED, MachineEvent.POWERED_OFF, MachineState.STOPPED),
    (MachineState.SUSPENDED, MachineEvent.PAUSED, MachineState.SUSPENDED),
    (MachineState.SUSPENDED, MachineEvent.RESUMED, MachineState.SUSPENDED),
    (MachineState.RUNNING, MachineEvent.STARTED, MachineState.RUNNING),
    (MachineState.RUNNING, MachineEvent.BROKE, MachineState.RUNNING),
    (MachineState.STAGING, MachineEvent.STARTED, MachineState.STAGING),
    (MachineState.STAGING, MachineEvent.EXPIRED, MachineState.STAGING),
]


@pytest.mark.parametrize(("state", "happening", "follows"), LIFE)
def test_a_state_follows_another(state: MachineState, happening: MachineEvent, follows: MachineState) -> None:
    assert next_state(state, happening) is follows


@given(st.sampled_from([MachineState.ENDED, MachineState.FAILED]), st.sampled_from(MachineEvent))
def test_nothing_follows_the_end(state: MachineState, happening: MachineEvent) -> None:
    assert state.final
    assert next_state(state, happening) is state


@given(st.sampled_from([state for state in MachineState if not state.final]))
def test_whatever_is_not_at_its_end_can_be_destroyed(state: MachineState) -> None:
    assert next_state(state, MachineEvent.DESTROYED) is MachineState.ENDED
