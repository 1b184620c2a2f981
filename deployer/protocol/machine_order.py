"""An order for machines of an image: the members of every order, at a node or at a site."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from deployer.machine.properties import RequestedProperties

MAX_COUNT = 1000
"""Machines in one order. A policy's own limit is far below; this one keeps a slip of the finger from being planned."""


class MachineOrder(RequestedProperties):
    """What a requester asks for. What is left out is what the image needs, or the default.

    Attributes:
        image: an image ID, VO/NAME@VERSION or VO/NAME.
        count: machines.
        lifetime: seconds.
        hostname: what the guest is told it is called; with several machines a number is put after it.
    """

    image: Annotated[str, Field(min_length=1, max_length=300)]
    count: Annotated[int, Field(ge=1, le=MAX_COUNT)] = 1
    lifetime: Annotated[int, Field(ge=1, le=10 * 365 * 86400)] | None = None
    hostname: Annotated[str, Field(max_length=64)] | None = None

    def names(self) -> tuple[str, ...]:
        """The host names that it gives; of numbered ones the longest."""
        return () if self.hostname is None else (numbered(self.hostname, self.count, self.count),)


@dataclass(frozen=True)
class RequestDefaults:
    """What an order that is silent gets: network as in `Network.parse`, lifetime as people write it."""

    network: str
    lifetime: str


def numbered(hostname: str, number: int, count: int) -> str:
    """The host name of one of so many machines that share a name."""
    return hostname if count == 1 else f"{hostname}-{number}"
