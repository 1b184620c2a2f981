"""An order to a site: an image on N machines, for how long, and options for their placement."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from deployer.protocol.machine_order import MAX_COUNT, MachineOrder, numbered
from signer.documents import Document

MAX_REQUEST = 128 << 10
"""Bytes of one request: user-data of 16 KiB in base64, keys, and some names."""

NodeLabel = Annotated[str, Field(max_length=63, pattern=r"^[A-Za-z0-9]([A-Za-z0-9._/-]*[A-Za-z0-9])?$")]
PlacementLocation = Literal["local", "ec2", "local-then-ec2"]


class PlacementOptions(Document):
    """Where machines should run.

    Attributes:
        strategy: "pack" fills nodes one after the other, "spread" takes the emptiest.
        whole: all machines or none; else as many as there is capacity for, at least one.
        labels: what a node must carry.
        where: on the site's own nodes, on EC2, or there when the site has no capacity.
    """

    strategy: Literal["pack", "spread"] = "pack"
    whole: bool = True
    labels: Annotated[dict[NodeLabel, NodeLabel], Field(max_length=16)] = Field(default_factory=dict)
    where: PlacementLocation = "local"


class DeploymentRequest(MachineOrder):
    """An order to a site.

    Attributes:
        hostnames: instead of `hostname`, a name for each machine; with a request that takes what there is, the first ones
            are used.
        placement_options: about its place.
    """

    hostnames: Annotated[tuple[Annotated[str, Field(max_length=64)], ...], Field(max_length=MAX_COUNT)] = ()
    placement_options: PlacementOptions = PlacementOptions()

    @model_validator(mode="after")
    def _named(self) -> Self:
        if self.hostnames and (self.hostname is not None or len(set(self.hostnames)) != self.count):
            raise ValueError("`hostnames` are one different name for each machine, and stand without `hostname`")
        return self

    def names(self) -> tuple[str, ...]:
        """The host names that it gives; of numbered ones the longest."""
        return self.hostnames or super().names()

    def name_of(self, number: int) -> str | None:
        """The host name of one of its machines, from 1; None where it gives none."""
        if self.hostnames:
            return self.hostnames[number - 1]
        return None if self.hostname is None else numbered(self.hostname, number, self.count)
