"""What commands say to a node's service about machines that exist, and what it answers: one type per message."""

from typing import Annotated, Literal

from pydantic import Field

from catalog.image.manifest import ImageId, Version
from deployer.machine.shape import Cores, Memory
from deployer.machine.spec import HostPath
from signer.documents import Document

OperationName = Literal["pause", "resume", "suspend", "reactivate", "stop", "reboot"]
"""What needs no more said than to which machine."""

MAX_ASKED = 16 << 10
"""Bytes of each of these."""


class ResizeRequest(Document):
    """How large a machine should be; what is left out stays. Memory in bytes."""

    memory: Memory | None = None
    cores: Cores | None = None


class ExtendRequest(Document):
    """For how many seconds from now a machine should live."""

    lifetime: Annotated[int, Field(ge=1, le=10 * 365 * 86400)]


class SaveOrder(Document):
    """Where on this computer a machine should be saved, and as which version of its image."""

    directory: HostPath
    version: Version


class SavedImage(Document):
    """A machine as an image without endorsements.

    Attributes:
        directory: of the image.
        image_id, title: of the new image.
        parent: the image that the machine was made of.
        changed: labels of the partitions that hold other content than the parent's.
        written: bytes of them.
    """

    directory: str
    image_id: ImageId
    title: str
    parent: ImageId
    changed: tuple[str, ...]
    written: int
