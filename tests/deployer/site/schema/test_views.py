"""What the API shows of machines and deployments: all that people need, and no secret."""

from dataclasses import dataclass
from typing import Any

import pytest

from catalog.image.manifest import Blank
from deployer.machine.state import MachineState
from deployer.protocol.desired_state import BrokerAccess, DesiredStatus
from deployer.site.db.machines import get_deployment, get_machine
from deployer.site.model.principal import LOCAL_OPERATOR, Principal
from deployer.site.model.records import CostReservation, Migration, SaveProgress, SiteMachine
from deployer.site.schema.views import DeploymentView, MachineView
from signer.documents import canonical, parse
from signer.errors import DocumentError
from tests.support.site.values import ALICE, BOB, GIB, MIB, NOW, World, machine

SECRET = "s3cr3t" * 6
NODES = ("00000000-0000-4000-8000-000000000003", "00000000-0000-4000-8000-000000000004")


def everything() -> SiteMachine:
    """A machine of which there is something to say in every respect."""
    return machine(
        blanks=(Blank(size=64 * MIB, filesystem="ext4", label="scratch"),),
        verify="full",
        max_memory=4 * GIB,
        context=BrokerAccess(url="https://broker.example.org", secret=SECRET),
        saves=(SaveProgress(number=1, version="1.1", key=SECRET, asked=NOW, state="sending", done=1, total=2),),
        reserved_cost=CostReservation(instance_type="m5.large", gib=8),
        migration=Migration(
            number=2, source=NODES[0], target=NODES[1], desired=DesiredStatus.RUNNING, reason="drained"
        ),
        warned=True,
        held=True,
        migrations=3,
        migrated=1,
    )


def test_a_machine_is_shown_with_all_its_properties() -> None:
    """Flat, so that a script finds memory beside its maximum."""
    shown = MachineView.of(everything())
    assert shown.properties() == everything().properties()
    found: dict[str, Any] = shown.model_dump(mode="json", exclude_none=True)
    assert (found["memory"], found["max_memory"], found["network"], found["verify"]) == (GIB, 4 * GIB, "user", "full")
    assert found["saves"][0] | {"version": "1.1", "state": "sending", "done": 1, "total": 2} == found["saves"][0]
    assert found["reserved_cost"] == {"instance_type": "m5.large", "gib": 8}
    assert (found["migrating"], found["migration"]["phase"], found["migration"]["target"]) == (
        True,
        "migrating",
        NODES[1],
    )
    assert parse(MachineView, canonical(shown), "machine") == shown


def test_what_is_the_sites_own_is_not_shown() -> None:
    """Neither the secret for the context broker, nor keys, nor what the site notes for itself."""
    text = MachineView.of(everything()).model_dump_json()
    assert SECRET not in text
    shown = set(MachineView.model_fields)
    assert set(SiteMachine.model_fields) - shown == {"context", "warned", "migrations", "migrated"}
    assert shown - set(SiteMachine.model_fields) == {"migrating"}


@pytest.mark.parametrize(
    ("changes", "held"),
    [({}, False), ({"held": True}, True), ({"held": True, "desired": DesiredStatus.ENDED}, False)],
)
def test_what_is_to_end_is_held_no_more(changes: dict[str, Any], held: bool) -> None:
    """It does not start with its cluster."""
    assert MachineView.of(machine(**changes)).held is held


@pytest.mark.parametrize(
    ("changes", "known"),
    [
        ({"addresses": ("10.0.0.7",), "guest_addresses": ("10.0.0.8",)}, ("10.0.0.7",)),
        ({"guest_addresses": ("10.0.0.8",)}, ("10.0.0.8",)),
        ({"guest_addresses": ("10.0.0.8",), "state": MachineState.STOPPED}, ()),
    ],
)
def test_addresses_for_people(changes: dict[str, Any], known: tuple[str, ...]) -> None:
    """As its node sees them, else as its guest says while it runs."""
    assert MachineView.of(machine(**changes)).known == known


@dataclass(frozen=True)
class Reader:
    """Who looks, and whether they see user-data."""

    who: Principal
    sees: bool


@pytest.mark.parametrize("reader", [Reader(ALICE, True), Reader(BOB, False), Reader(LOCAL_OPERATOR, False)])
def test_user_data_is_its_owners_alone(world: World, reader: Reader) -> None:
    """It may hold passwords."""
    world.join("n1")
    made = world.machine(user_data="I2Nsb3VkLWNvbmZpZwp7fQo=", public_keys=("ssh-ed25519 AAAA alice",))
    kept = world.store.read(get_deployment, world.store.read(get_machine, made.uuid).deployment)
    shown = DeploymentView.of(kept, reader.who)
    assert (shown.request.user_data is not None) is reader.sees
    assert shown.request.public_keys == ("ssh-ed25519 AAAA alice",)
    assert shown.model_dump(exclude={"request"}) == kept.model_dump(exclude={"request"})


def test_an_old_client_is_told_what_it_does_not_know() -> None:
    """And so is one of today that asks a site of before: by the member's name, not by a wrong amount."""
    old = MachineView.of(machine()).model_dump(mode="json", exclude_none=True)
    old["granted_memory"] = old.pop("max_memory")
    with pytest.raises(DocumentError, match=r"machine: \$\.(max_memory: is missing|granted_memory: is not known here)"):
        parse(MachineView, canonical(old), "machine")
