"""What a request leaves open is settled by the image and the defaults; a property reaches everything that embeds it."""

import pytest
from pydantic import ValidationError

from catalog.errors import Misused
from catalog.image.manifest import Blank, Needs
from deployer.machine.network import NO_NETWORK, Network
from deployer.machine.properties import (
    FirstBootData,
    MachineOptions,
    MachineProperties,
    RequestedProperties,
)
from deployer.machine.spec import MachineSpec
from deployer.policy.decision import Request
from deployer.protocol.deployment_request import DeploymentRequest
from deployer.protocol.desired_state import DesiredMachine
from deployer.protocol.machine_order import MachineOrder
from deployer.records.machine_store import MachineRecord
from deployer.site.model.cluster import ClusterRole
from deployer.site.model.records import SiteMachine
from deployer.site.schema.views import MachineView
from signer.documents import canonical, parse
from signer.errors import DocumentError

MIB = 1 << 20
SCRATCH = Blank(size=64 * MIB, filesystem="ext4")
NEEDS = Needs(memory=(1 << 30) + 5, cores=2)


def test_an_open_request_gets_what_the_image_needs() -> None:
    """In whole MiB; it may not grow, and its network is the default."""
    settled = RequestedProperties().settle(NEEDS, "user")
    memory = (1 << 30) + (1 << 20)
    assert (settled.memory, settled.cores, settled.max_memory, settled.max_cores) == (memory, 2, memory, 2)
    assert str(settled.network) == "user"


def test_what_a_request_says_counts() -> None:
    """Over the image's needs and over the defaults; disks and checks are taken along."""
    asked = RequestedProperties(
        memory=1 << 31,
        cores=1,
        max_cores=4,
        network=Network.parse("bridge:br0"),
        verify="full",
        blanks=(Blank(filesystem="ext4", size=1 << 30, label="scratch"),),
    )
    settled = asked.settle(NEEDS, "none")
    assert (settled.memory, settled.cores, settled.max_memory, settled.max_cores) == (1 << 31, 1, 1 << 31, 4)
    assert (str(settled.network), settled.verify, settled.blanks) == ("bridge:br0", "full", asked.blanks)


@pytest.mark.parametrize("ceiling", [{"max_memory": 1 << 29}, {"max_cores": 1}])
def test_a_machine_cannot_begin_above_its_maximum(ceiling: dict[str, int]) -> None:
    """The message has both sizes."""
    with pytest.raises(Misused, match="ask for a larger maximum, or let it begin smaller"):
        RequestedProperties.model_validate(ceiling).settle(NEEDS, "none")


def test_members_embed_in_other_documents() -> None:
    """Under their own names, those of subclasses left out."""
    settled = RequestedProperties().settle(NEEDS, "user")
    assert MachineProperties(**settled.properties()) == settled
    asked = RequestedProperties(public_keys=("ssh-ed25519 AAAA",))
    assert RequestedProperties(**asked.requested()) == asked


def test_user_data_is_base64() -> None:
    """Its bytes are what the guest gets; without any there are none."""
    assert FirstBootData(user_data="IyEvYmluL3NoCg==").user_data_bytes() == b"#!/bin/sh\n"
    assert FirstBootData().user_data_bytes() is None
    with pytest.raises(ValueError, match="base64"):
        FirstBootData(user_data="#!/bin/sh")


def test_options_are_taken_over_as_they_are() -> None:
    """Whatever options there are."""
    options = {"blanks": (SCRATCH,), "verify": "full", "description": "the head of the March campaign"}
    assert set(options) == set(MachineOptions.model_fields)
    settled = RequestedProperties.model_validate(options).settle(NEEDS, "user")
    assert {name: getattr(settled, name) for name in options} == options


@pytest.mark.parametrize(
    "embeds",
    [MachineSpec, MachineRecord, DesiredMachine, SiteMachine, MachineView, Request],
    ids=lambda one: one.__name__,
)
def test_every_property_reaches_what_exists(embeds: type[MachineProperties]) -> None:
    """So that a new one is added in one place."""
    assert set(MachineProperties.model_fields) <= set(embeds.model_fields)


@pytest.mark.parametrize("embeds", [MachineOrder, DeploymentRequest, ClusterRole], ids=lambda one: one.__name__)
def test_every_property_can_be_asked_for(embeds: type[RequestedProperties]) -> None:
    """At a node, at a site, and by a role of a cluster."""
    assert set(MachineProperties.model_fields) | set(FirstBootData.model_fields) == set(
        RequestedProperties.model_fields
    )
    assert set(RequestedProperties.model_fields) <= set(embeds.model_fields)


def test_a_network_is_carried_as_people_write_it() -> None:
    """And refused where it is misspelt, with what would be right."""
    settled = RequestedProperties().settle(NEEDS, "network:grid")
    assert settled.network == Network(kind="network", name="grid")
    assert b'"network":"network:grid"' in canonical(settled)
    assert parse(MachineProperties, canonical(settled), "machine") == settled
    with pytest.raises(DocumentError, match=r"order: \$\.network: 'wifi' is no.* network; write none, user"):
        parse(MachineOrder, b'{"image":"star/x","network":"wifi"}', "order")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("x" * 201, "200"),
        ("two\nlines", "cannot be printed"),
        ("\x1b[2J", "cannot be printed"),
        ("\u202eevil", "printed"),
    ],
)
def test_a_description_is_a_line_of_text(text: str, fault: str) -> None:
    """It stands in the hypervisor's lists, on pages and in terminals."""
    assert MachineOrder(image="star/x", description="é € 東京 <b>&amp;").description == "é € 東京 <b>&amp;"
    with pytest.raises(ValidationError, match=fault):
        MachineOrder(image="star/x", description=text)


def test_a_request_that_is_only_supposed_may_ask_for_anything() -> None:
    """A policy judges whether it can be had."""
    request = Request.supposed(NEEDS, memory=3, cores=0)
    assert (request.memory, request.max_memory, request.max_cores) == (3, 3, 0)
    assert (request.count, request.lifetime, request.network) == (1, 3600, NO_NETWORK)
    assert request.model_copy(update={"blanks": (SCRATCH,)}).blanks == (SCRATCH,)
