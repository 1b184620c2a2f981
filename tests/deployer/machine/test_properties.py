"""What a request leaves open is settled by the image and the defaults."""

import pytest

from catalog.errors import Misused
from catalog.image.manifest import Blank, Needs
from deployer.machine.network import Network
from deployer.machine.properties import FirstBootData, MachineProperties, RequestedProperties

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
