"""How large a machine is, and how large it may become while it runs."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from signer.documents import Document

MEMORY_UNIT = 1 << 20
"""Bytes. Machines get memory in whole MiB: what hypervisors take everywhere without rounding."""

MIN_MEMORY, MAX_MEMORY = 16 << 20, 1 << 46
MAX_CORES = 1024

Memory = Annotated[int, Field(ge=MIN_MEMORY, le=MAX_MEMORY, multiple_of=MEMORY_UNIT)]
Cores = Annotated[int, Field(ge=1, le=MAX_CORES)]


class MachineShape(Document):
    """What a machine has of its node, and how far that may grow.

    Attributes:
        memory: bytes at boot, whole MiB; of a machine that was resized, what it has now and at its next boot.
        cores: virtual processors, likewise.
        max_memory, max_cores: the ceiling to which it may be resized without another admission. Policy, quotas and the
            capacity of nodes count this, never what the machine has at the moment.
    """

    memory: Memory
    cores: Cores
    max_memory: Memory
    max_cores: Cores

    @model_validator(mode="after")
    def _within_ceiling(self) -> Self:
        if self.max_memory < self.memory or self.max_cores < self.cores:
            raise ValueError("a machine cannot have more memory or cores than its maximum")
        return self

    @classmethod
    def fixed(cls, memory: int, cores: int) -> Self:
        """The shape of a machine that does not grow."""
        return cls(memory=memory, cores=cores, max_memory=memory, max_cores=cores)

    @property
    def shape(self) -> "MachineShape":
        """The shape alone, of a document that embeds it."""
        return MachineShape.model_construct(**{name: getattr(self, name) for name in MachineShape.model_fields})


def whole_units(size: int) -> int:
    """The least memory that holds so many bytes, in whole MiB."""
    return max(MIN_MEMORY, -(-size // MEMORY_UNIT) * MEMORY_UNIT)
