"""A machine's network is written as one word, and read as a value."""

import pytest

from deployer.machine.network import NO_NETWORK, Network, NetworkText
from signer.documents import Document


class Carrier(Document):
    """A document with a network."""

    network: NetworkText


@pytest.mark.parametrize("text", ["none", "user", "network:grid", "bridge:br0"])
def test_text_reads_back(text: str) -> None:
    """What is written is what was read, in documents too."""
    assert str(Network.parse(text)) == text
    carrier = Carrier(network=Network.parse(text))
    assert carrier.model_dump(mode="json") == {"network": text}
    assert Carrier.model_validate({"network": text}) == carrier


@pytest.mark.parametrize(
    "text", ["", "host", "none:x", "user:x", "user:", "network", "network:", "bridge:../x", "bridge:a b"]
)
def test_other_text_is_refused_with_what_would_be_right(text: str) -> None:
    """A network or bridge has a name, the other kinds have none."""
    with pytest.raises(ValueError, match="write none, user, network:NAME or bridge:NAME"):
        Network.parse(text)


def test_a_long_text_is_cut_in_the_message() -> None:
    """At most 80 characters of it are quoted."""
    with pytest.raises(ValueError, match="is not a valid network") as caught:
        Network.parse("bridge:" + "b" * 500)
    assert len(str(caught.value)) < 200


def test_no_network_has_no_name() -> None:
    """A value with a name that its kind does not take is refused."""
    assert str(NO_NETWORK) == "none"
    with pytest.raises(ValueError, match="network:NAME"):
        Network(kind="user", name="grid")
