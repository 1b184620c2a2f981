"""What a node needs of a hypervisor: verbs that every backend truly has, and how it tells what happened."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from deployer.machine.spec import DomainTag, MachineEvent, MachineSpec, MachineState

EventListener = Callable[[str, MachineEvent, str], None]
"""What a backend calls when something happened to a machine: its UUID, what, and a reason or an empty text.

It is called from a thread of the backend's own, may come late or twice, and must return at once.
"""


class Backend(Protocol):
    """A hypervisor. All methods raise BackendFailed with the hypervisor's own reason."""

    def start(self, spec: MachineSpec) -> None:
        """Run a machine; it is running when this returns."""

    def shutdown(self, uuid: str) -> None:
        """Ask the guest to power off; whether and when it does is told later."""

    def reboot(self, uuid: str) -> None:
        """Ask the guest to boot again; that it does is told later as REBOOTED."""

    def reset(self, uuid: str) -> None:
        """Boot the guest again now, as its reset button would."""

    def pause(self, uuid: str) -> None:
        """Halt a machine, which stays in memory; that it is paused is told later."""

    def resume(self, uuid: str) -> None:
        """Let a paused machine go on; told later."""

    def suspend(self, uuid: str, place: Path) -> None:
        """Save a machine's memory in a file that is not there yet, and end the emulator; done when this returns."""

    def restore(self, place: Path) -> None:
        """Let a machine go on from what `suspend` saved; it is running when this returns, and the file may go."""

    def saved(self, place: Path) -> bool:
        """Whether a file holds all that `suspend` saves."""

    def adopt(self, place: Path, spec: MachineSpec) -> None:
        """Have what another node's `suspend` saved be the memory of this machine: the file is changed, nothing runs.

        Raises BackendFailed where the hypervisor finds that it is another machine's.
        """

    def resize(self, uuid: str, memory: int, cores: int) -> None:
        """Give a running machine so many bytes of memory and cores, within what its description grants."""

    def addresses(self, uuid: str) -> tuple[str, ...]:
        """The IP addresses that the hypervisor's network or the guest's agent reports; none where nobody knows."""

    def state(self, uuid: str) -> MachineState | None:
        """RUNNING or PAUSED as the hypervisor has it now; None where there is no such machine."""

    def destroy(self, uuid: str) -> None:
        """End a machine now; one that is not there is ended already."""

    def found(self) -> Mapping[str, DomainTag]:
        """The machines that run now and carry this node's tag, by UUID."""

    def close(self) -> None:
        """Let go of the hypervisor; machines go on."""
