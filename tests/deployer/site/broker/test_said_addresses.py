"""Addresses that guests say they have: shown where their nodes see none, and in no certificate."""

from pathlib import Path

from rich.console import Console

from deployer.cli.site.machine import machine_table
from deployer.machine.state import MachineState
from deployer.site.broker.guest_certificates import certificate_names
from deployer.site.db.machines import get_machine
from deployer.site.model.records import SiteMachine
from deployer.site.schema.views import MachineView
from deployer.site.store.changes import change_machine
from tests.support.site.context_broker import World, site
from tests.support.site.values import telling


def shown(machine: SiteMachine) -> str:
    """The machine as a list has it for people."""
    console = Console(width=200)
    with console.capture() as taken:
        console.print(machine_table([MachineView.of(machine)]))
    return taken.get()


def test_what_a_guest_says_counts_for_people_until_its_node_sees_better(tmp_path: Path) -> None:
    with site(tmp_path) as (world, make):
        guest = make(world.machines()[0]).enter()

        def machine() -> SiteMachine:
            return world.store.read(get_machine, guest.machine.uuid)

        world.observed(guest.machine)
        assert MachineView.of(machine()).known == ()
        for _ in range(2):
            assert guest.publish("address", "10.1.2.3\nfd00::5\n").status == 204
        assert (machine().addresses, MachineView.of(machine()).known) == ((), ("10.1.2.3", "fd00::5"))
        assert "10.1.2.3, fd00::5" in shown(machine())
        assert certificate_names(machine()) == (machine().hostname,)
        told = [reason for what, reason in world.told(guest.machine) if what == "said-addresses"]
        assert told == ["the guest published the addresses 10.1.2.3, fd00::5"]

        world.observed(guest.machine, "10.1.2.9")
        assert MachineView.of(machine()).known == ("10.1.2.9",)
        assert "10.1.2.9" in shown(machine())
        assert "10.1.2.3" not in shown(machine())

        assert guest.publish("address", "127.0.0.1").status == 400
        world.observed(guest.machine, state=MachineState.PAUSED)
        assert MachineView.of(machine()).known == ()


def test_on_another_node_a_guest_says_it_anew(tmp_path: Path) -> None:
    world = World(tmp_path)
    (machine,) = world.machines()
    world.context(machine)
    world.store.write(
        change_machine,
        machine.uuid,
        telling(lambda found: found.model_copy(update={"guest_addresses": ("10.1.2.3",)}), "said", ""),
    )
    other = next(node for node in world.nodes if node != machine.node)
    world.store.write(
        change_machine, machine.uuid, telling(lambda found: found.model_copy(update={"node": other}), "migrated", "")
    )
    with site(tmp_path) as (again, make):
        make(again.store.read(get_machine, machine.uuid)).enter()
        assert again.store.read(get_machine, machine.uuid).guest_addresses == ()
    world.database.close()
