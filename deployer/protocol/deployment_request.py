"""What a requester asks a site for: an image on N machines, for how long, and what is wished of their place."""

import base64
import binascii
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from catalog.image.manifest import Blank
from deployer.machine.spec import MEMORY_UNIT
from signer.documents import Document

MAX_COUNT = 1000
"""Machines in one request. A policy's own limit is far below; this one keeps a slip of the finger from being planned."""

MAX_REQUEST = 128 << 10
"""Bytes of one request: user-data of 16 KiB in base64, keys, and some names."""

MAX_BLANKS = 8
"""Extra disks of one machine."""

NodeLabel = Annotated[str, Field(max_length=63, pattern=r"^[A-Za-z0-9]([A-Za-z0-9._/-]*[A-Za-z0-9])?$")]
PlacementLocation = Literal["local", "ec2", "local-then-ec2"]


def check_base64(text: str) -> str:
    """A text that is base64; ValueError if it is none."""
    try:
        base64.b64decode(text, validate=True)
    except binascii.Error as exc:
        raise ValueError("is not base64") from exc
    return text


class PlacementOptions(Document):
    """Where machines should run.

    Attributes:
        strategy: "pack" fills nodes one after the other, "spread" takes the emptiest.
        whole: all machines or none; else as many as there is room for, at least one.
        labels: what a node must carry.
        where: on the site's own nodes, on EC2, or there when the site has no room.
    """

    strategy: Literal["pack", "spread"] = "pack"
    whole: bool = True
    labels: Annotated[dict[NodeLabel, NodeLabel], Field(max_length=16)] = Field(default_factory=dict)
    where: PlacementLocation = "local"


class DeploymentRequest(Document):
    """An order to a site. What is left out is what the image needs, or the site's default.

    Attributes:
        image: an image ID, VO/NAME@VERSION or VO/NAME.
        count: machines.
        memory: bytes per machine, whole MiB.
        cores: per machine.
        max_memory, max_cores: how far each machine may grow while it runs; what it starts with if not given. This is what
            quotas, policy and room on nodes are counted by.
        lifetime: seconds.
        hostname: what the guest is told it is called; with several machines a number is put after it.
        hostnames: or a name for each machine; with a request that takes what there is, the first ones are used.
        network: none, user, network:NAME or bridge:NAME.
        user_data: base64.
        public_keys: OpenSSH public keys for the guest's default user.
        blanks: extra disks, made on the node.
        verify: right before boot, look at a sample of the cached contents, or hash them in full again.
        wishes: about its place.
    """

    image: Annotated[str, Field(min_length=1, max_length=300)]
    count: Annotated[int, Field(ge=1, le=MAX_COUNT)] = 1
    memory: Annotated[int, Field(ge=16 << 20, le=1 << 46, multiple_of=MEMORY_UNIT)] | None = None
    cores: Annotated[int, Field(ge=1, le=1024)] | None = None
    max_memory: Annotated[int, Field(ge=16 << 20, le=1 << 46, multiple_of=MEMORY_UNIT)] | None = None
    max_cores: Annotated[int, Field(ge=1, le=1024)] | None = None
    lifetime: Annotated[int, Field(ge=1, le=10 * 365 * 86400)] | None = None
    hostname: Annotated[str, Field(max_length=64)] | None = None
    hostnames: Annotated[tuple[Annotated[str, Field(max_length=64)], ...], Field(max_length=MAX_COUNT)] = ()
    network: Annotated[str, Field(max_length=80)] | None = None
    user_data: Annotated[str, Field(max_length=64 << 10), AfterValidator(check_base64)] | None = None
    public_keys: Annotated[tuple[str, ...], Field(max_length=16)] = ()
    blanks: Annotated[tuple[Blank, ...], Field(max_length=MAX_BLANKS)] = ()
    verify: Literal["sample", "full"] = "sample"
    wishes: PlacementOptions = PlacementOptions()

    @model_validator(mode="after")
    def _named(self) -> Self:
        if self.hostnames and (self.hostname is not None or len(set(self.hostnames)) != self.count):
            raise ValueError("`hostnames` are one different name for each machine, and stand without `hostname`")
        return self
