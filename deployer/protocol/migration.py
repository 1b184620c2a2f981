"""Values about a machine that migrates from one node to another, which nodes and their site share."""

from typing import Annotated

from pydantic import Field

from deployer.machine.spec import Uuid
from signer.documents import Document

MigrationNumber = Annotated[int, Field(ge=1)]
"""Of a machine's migration: each attempt has a greater one, so that messages about earlier attempts are told apart."""


class Platform(Document):
    """What must be equal on two nodes for one to go on with memory that the other saved.

    A saved memory is QEMU's migration stream below libvirt's header: a node that reads it must build the very same machine,
    device by device, which only the same emulator and the same libvirt surely do.

    Attributes:
        emulator: as it says of itself, such as "QEMU emulator version 7.2.22".
        libvirt: such as "libvirt 9.0.0".
        processor: what a guest sees of the processor: a digest of its model and flags under KVM, empty under emulation.
    """

    emulator: str
    libvirt: str
    processor: str = ""

    def lacks(self, other: "Platform") -> str:
        """What is another here than there, as the end of a sentence; empty if nothing is."""
        pairs = (
            (self.emulator, other.emulator, "its emulator"),
            (self.libvirt, other.libvirt, "its libvirt"),
            (self.processor, other.processor, "its processor"),
        )
        for mine, theirs, what in pairs:
            if mine != theirs:
                return f"{what} is {mine or 'not known'}, and the memory was saved by {theirs or 'one not known'}"
        return ""


class MigrationSupport(Document):
    """A node's support of migration.

    Attributes:
        url: where it gives machines away; empty for one that gives none.
        platform: of its machines.
    """

    url: Annotated[str, Field(max_length=1024, pattern=r"^(https://.*)?$")] = ""
    platform: Platform


class OutgoingMigration(Document):
    """That a machine is given to another node: it is locked until its site says otherwise."""

    number: MigrationNumber
    to: Uuid


class MigrationProgress(Document):
    """How far a node has come with a machine that is being brought to it.

    Attributes:
        number: of the migration.
        ready: all of it is here, was verified, and would run.
        failed: why it will not come to that, or empty.
        done, total: bytes of its own files so far, and in all.
    """

    uuid: Uuid
    number: MigrationNumber
    ready: bool = False
    failed: str = ""
    done: int = 0
    total: int = 0
