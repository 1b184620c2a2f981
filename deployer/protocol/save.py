"""The save of a machine: the site's request and the node's status of it."""

from typing import Annotated, Literal

from pydantic import Field

from catalog.image.manifest import ImageId, Version
from signer.documents import Document


class DesiredSave(Document):
    """A machine should be saved.

    Attributes:
        number: grows with each save of the machine; the node does each once.
        version: of the new image.
    """

    number: Annotated[int, Field(ge=1)]
    version: Version


class SaveDetails(Document):
    """How far a save is, whatever its state is called.

    Attributes:
        number: which one.
        reason: why it failed, or has not got on.
        image_id, title: of the candidate in the catalog, once there is one.
        changed: labels of the partitions that hold other content than its parent's.
        done, total: bytes of content that the catalog has, and of all.
    """

    number: int
    reason: Annotated[str, Field(max_length=500)] = ""
    image_id: ImageId | None = None
    title: str = ""
    changed: tuple[str, ...] = ()
    done: int = 0
    total: int = 0


class SaveStatus(SaveDetails):
    """How far a save is on its node.

    Attributes:
        state: its disks are being read, or sent; it is a candidate in the catalog; or it could not be made one.
    """

    state: Literal["reading", "sending", "saved", "failed"]

    @property
    def finished(self) -> bool:
        """Whether nothing more comes of it."""
        return self.state in {"saved", "failed"}
