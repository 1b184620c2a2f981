"""Machines as values: what a description may say, and how one state follows another."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from deployer.machine.spec import (
    BiosBoot,
    Descriptor,
    DiskSpec,
    Happening,
    KernelBoot,
    MachineSpec,
    Network,
    Overlay,
    RawFile,
    State,
    Tag,
    after,
    check_hostname,
    mac_of,
    target,
)
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
        "tag": Tag(owner="node:a", image="sha256:" + "0" * 64),
    }
    return MachineSpec(**fields | changes)


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
            {"disks": tuple(DiskSpec(target=target(min(i, 23)), source=RawFile(path=Path("/a"))) for i in range(25))},
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
    with pytest.raises(ValueError, match="is no host name"):
        check_hostname(name)


LIFE = [
    (State.PENDING, Happening.ACCEPTED, State.STAGING),
    (State.STAGING, Happening.STAGED, State.BOOTING),
    (State.BOOTING, Happening.STARTED, State.RUNNING),
    (State.RUNNING, Happening.PAUSED, State.PAUSED),
    (State.PAUSED, Happening.RESUMED, State.RUNNING),
    (State.RUNNING, Happening.POWERED_OFF, State.STOPPED),
    (State.STOPPED, Happening.STARTED, State.RUNNING),
    (State.RUNNING, Happening.SUSPENDED, State.SUSPENDED),
    (State.PAUSED, Happening.SUSPENDED, State.SUSPENDED),
    (State.SUSPENDED, Happening.STARTED, State.RUNNING),
    (State.SUSPENDED, Happening.POWERED_OFF, State.STOPPED),
    (State.SUSPENDED, Happening.EXPIRED, State.ENDED),
    (State.RUNNING, Happening.REBOOTED, State.RUNNING),
    (State.RUNNING, Happening.CRASHED, State.FAILED),
    (State.PAUSED, Happening.EXPIRED, State.ENDED),
    (State.STAGING, Happening.DESTROYED, State.ENDED),
    (State.STAGING, Happening.BROKE, State.FAILED),
    # What comes late, twice or from another side changes nothing.
    (State.STOPPED, Happening.POWERED_OFF, State.STOPPED),
    (State.SUSPENDED, Happening.PAUSED, State.SUSPENDED),
    (State.SUSPENDED, Happening.RESUMED, State.SUSPENDED),
    (State.RUNNING, Happening.STARTED, State.RUNNING),
    (State.RUNNING, Happening.BROKE, State.RUNNING),
    (State.STAGING, Happening.STARTED, State.STAGING),
    (State.STAGING, Happening.EXPIRED, State.STAGING),
]


@pytest.mark.parametrize(("state", "happening", "follows"), LIFE)
def test_a_state_follows_another(state: State, happening: Happening, follows: State) -> None:
    assert after(state, happening) is follows


@given(st.sampled_from([State.ENDED, State.FAILED]), st.sampled_from(Happening))
def test_nothing_follows_the_end(state: State, happening: Happening) -> None:
    assert state.final
    assert after(state, happening) is state


@given(st.sampled_from([state for state in State if not state.final]))
def test_whatever_is_not_at_its_end_can_be_destroyed(state: State) -> None:
    assert after(state, Happening.DESTROYED) is State.ENDED
