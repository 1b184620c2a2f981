"""The values that a machine begins with on a node: nothing that the site wants is lost on the way to the hypervisor."""

import base64
from datetime import UTC, datetime
from pathlib import Path

import pytest

from catalog.image.address import Address
from catalog.image.manifest import Blank, Needs
from deployer.hypervisor.disks import AssembledDisks
from deployer.machine.properties import MachineProperties, RequestedProperties
from deployer.machine.spec import BiosBoot, DiskSpec, RawFile
from deployer.machine.state import MachineState
from deployer.node.machines.construction import assignment_of, failed_record, machine_spec, new_record, order_of
from deployer.protocol.desired_state import DesiredMachine
from signer.errors import DocumentError
from tests.support.factories import manifest
from tests.support.node.fake_site import MIB, machine

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
UUID = "00000000-0000-4000-8000-000000000001"
SITE = "5" * 64
OWNER = "11111111-2222-4333-8444-555555555555"


def wanted() -> DesiredMachine:
    """A machine that has every property, and a past at its site."""
    return machine(
        UUID,
        memory=64 * MIB,
        max_memory=256 * MIB,
        cores=1,
        max_cores=4,
        network="network:grid",
        blanks=(Blank(size=64 * MIB, filesystem="ext4", label="scratch"),),
        verify="full",
        description="the head of the March campaign",
        user_data=base64.b64encode(b"#!/bin/sh\n").decode(),
        public_keys=("ssh-ed25519 AAAA alice",),
        role="head",
        reboots=2,
        vendor_data=base64.b64encode(b"#cloud-config\n{}\n").decode(),
    )


def test_an_order_has_all_that_the_site_settled() -> None:
    """So that the node's own rules judge, and its own needs settle, the very same."""
    order = order_of(wanted())
    assert (order.image, order.count, order.hostname) == (wanted().image_id, 1, wanted().hostname)
    assert {name: getattr(order, name) for name in RequestedProperties.model_fields} == {
        name: getattr(wanted(), name) for name in RequestedProperties.model_fields
    }
    assert order.settle(Needs(memory=512 * MIB, cores=8), "user").properties() == wanted().properties()


def test_what_no_order_can_say_is_refused() -> None:
    """A site that wants it is not believed."""
    with pytest.raises(DocumentError, match="hostname"):
        order_of(wanted().model_copy(update={"hostname": "x" * 65}))


def test_a_record_begins_as_the_site_wants_it() -> None:
    """Its properties, whose it is, and what else is known."""
    assigned = assignment_of(wanted(), SITE)
    assert (assigned.vendor_data, assigned.context) == (b"#cloud-config\n{}\n", None)
    record = new_record(
        order_of(wanted()).settle(Needs(memory=512 * MIB, cores=8), "user"),
        assigned,
        NOW,
        name="worker-1",
        hostname="head",
        image_id=wanted().image_id,
        title="star/head@1.0",
        state=MachineState.STAGING,
        virt="qemu",
        policy="",
    )
    assert record.properties() == wanted().properties()
    assert (record.uuid, record.site, record.deployment, record.role) == (UUID, SITE, wanted().deployment, "head")
    assert (record.created, record.changed, record.expires, record.reboots) == (NOW, NOW, wanted().expires, 2)


def test_a_record_says_why_a_machine_could_not_be_made() -> None:
    """Until the site has read it."""
    record = failed_record(wanted(), SITE, "the policy refuses it", NOW)
    assert (record.state, record.reason, record.desired) == (MachineState.FAILED, "the policy refuses it", "running")
    assert (record.uuid, record.site, record.properties()) == (UUID, SITE, wanted().properties())


@pytest.mark.parametrize(("contextualization", "seeds"), [("nocloud", True), ("none", False)])
def test_the_hypervisor_is_told_all_of_it(contextualization: str, seeds: bool) -> None:
    """With a seed where the image reads one."""
    record = failed_record(wanted(), SITE, "", NOW).model_copy(update={"virt": "kvm"})
    image = manifest([Address(bytes(32), MIB)], contextualization=contextualization)
    disks = (DiskSpec(target="vda", source=RawFile(path=Path("/cache/a"))),)
    spec = machine_spec(record, image, AssembledDisks(disks, BiosBoot(), 0), Path("/m/1"), OWNER)
    assert spec.properties() == wanted().properties()
    assert set(MachineProperties.model_fields) == set(spec.properties())
    assert (spec.uuid, spec.name, spec.virt, spec.machine) == (UUID, UUID[:8], "kvm", "q35")
    assert spec.seed == (Path("/m/1/seed.iso") if seeds else None)
    assert (spec.console, spec.tag.owner, spec.tag.image) == (Path("/m/1/console.log"), OWNER, record.image_id)
