"""What is asked for each machine, and what is settled about it: the one place where a machine's properties are listed.

Requests, roles of clusters and orders inherit `RequestedProperties`; everything that exists (desired machine, record,
specification, what the site keeps and shows) inherits `MachineProperties`, so that a new property reaches all of them.
Documents stay flat, as people write and read them.
"""

import base64
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from catalog.errors import Misused
from catalog.image.manifest import Blank, Needs
from deployer.machine.network import NetworkText
from deployer.machine.shape import Cores, MachineShape, Memory, whole_units
from signer.documents import Document, check_base64
from signer.runtime.units import size_text

MAX_BLANKS = 8
"""Extra disks of one machine."""

MAX_USER_DATA_TEXT = 64 << 10
"""Characters of user-data in base64: 16 KiB, and checked first when a client sends more."""


MAX_DESCRIPTION = 200
"""Characters of a machine's description: a line on a page."""


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("holds characters that cannot be printed; write it in one line of text")
    return text


class FirstBootData(Document):
    """The data for a guest's first boot. It may hold secrets, so it is kept apart from public data.

    Attributes:
        user_data: base64.
        public_keys: OpenSSH public keys for the guest's default user.
    """

    user_data: Annotated[str, Field(max_length=MAX_USER_DATA_TEXT), AfterValidator(check_base64)] | None = None
    public_keys: Annotated[tuple[str, ...], Field(max_length=16)] = ()

    def user_data_bytes(self) -> bytes | None:
        """The user-data itself."""
        return base64.b64decode(self.user_data) if self.user_data else None


class MachineOptions(Document):
    """The properties of a machine that are used exactly as requested.

    Attributes:
        blanks: extra disks, made on the node, after those of the image.
        verify: right before boot, look at a sample of the cached contents, or hash them in full again.
        description: for people, in one line.
    """

    blanks: Annotated[tuple[Blank, ...], Field(max_length=MAX_BLANKS)] = ()
    verify: Literal["sample", "full"] = "sample"
    description: Annotated[str, Field(max_length=MAX_DESCRIPTION), AfterValidator(_printable)] | None = None


class MachineProperties(MachineShape, MachineOptions):
    """Everything about a machine that is settled when its order is accepted.

    Attributes:
        network: how it reaches one.
    """

    network: NetworkText

    def properties(self) -> dict[str, Any]:
        """The members of this class by name, to construct another document that embeds them."""
        return {name: getattr(self, name) for name in MachineProperties.model_fields}


class RequestedProperties(FirstBootData, MachineOptions):
    """What is asked for each machine. What is left out is what the image needs, or the default.

    Attributes:
        memory: bytes at boot, whole MiB.
        cores: at boot.
        max_memory, max_cores: the ceiling to which the machine may be resized; what it boots with if not given. Quotas,
            policy and the capacity of nodes count this.
        network: none, user, network:NAME or bridge:NAME.
    """

    memory: Memory | None = None
    cores: Cores | None = None
    max_memory: Memory | None = None
    max_cores: Cores | None = None
    network: NetworkText | None = None

    def settle(self, needs: Needs, network: str) -> MachineProperties:
        """The properties of each machine.

        Args:
            needs: of the image.
            network: the default.

        Raises:
            Misused: the machine would have more at boot than it may have at all.
        """
        memory, cores = self.memory or whole_units(needs.memory), self.cores or needs.cores
        max_memory, max_cores = self.max_memory or memory, self.max_cores or cores
        if max_memory < memory or max_cores < cores:
            raise Misused(
                f"a machine begins with {size_text(memory)} and {cores} cores here, and should grow to "
                f"{size_text(max_memory)} and {max_cores} cores at most; ask for a larger maximum, or let it begin smaller"
            )
        return MachineProperties.model_validate(
            {name: getattr(self, name) for name in MachineOptions.model_fields}
            | {"memory": memory, "cores": cores, "max_memory": max_memory, "max_cores": max_cores}
            | {"network": self.network or network}
        )

    def requested(self) -> dict[str, Any]:
        """The members of this class by name, to construct another request that embeds them."""
        return {name: getattr(self, name) for name in RequestedProperties.model_fields}
