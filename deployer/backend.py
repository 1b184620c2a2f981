"""What a node needs of a hypervisor: six verbs that every backend truly has, and how it tells what happened."""

from collections.abc import Callable, Mapping
from typing import Protocol

from deployer.machine import Happening, MachineSpec, Tag

Tell = Callable[[str, Happening, str], None]
"""What a backend calls when something happened to a machine: its UUID, what, and a reason or an empty text.

It is called from a thread of the backend's own, may come late or twice, and must return at once.
"""


class Backend(Protocol):
    """A hypervisor. All methods raise BackendFailed with the hypervisor's own reason."""

    def start(self, spec: MachineSpec) -> None:
        """Run a machine; it is running when this returns."""

    def shutdown(self, uuid: str) -> None:
        """Ask the guest to power off; whether and when it does is told later."""

    def pause(self, uuid: str) -> None:
        """Suspend a machine; that it is suspended is told later."""

    def destroy(self, uuid: str) -> None:
        """End a machine now; one that is not there is ended already."""

    def found(self) -> Mapping[str, Tag]:
        """The machines that run now and carry this node's tag, by UUID."""

    def close(self) -> None:
        """Let go of the hypervisor; machines go on."""
