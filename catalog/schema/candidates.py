"""What is said about candidates: images that a site offers and nobody has endorsed yet."""

from datetime import datetime
from typing import Annotated

from pydantic import ConfigDict, Field

from catalog.image.manifest import MAX_MANIFEST, ImageId
from catalog.schema.images import ResponseModel
from signer.documents import Document


class CandidateRequest(Document):
    """Offers an image: the manifest's canonical text, which names a published image as its parent."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"manifest": '{"architecture":"x86_64", ...}'}]})

    manifest: Annotated[str, Field(max_length=MAX_MANIFEST)]


class CandidateEntry(ResponseModel):
    """An image that waits for its first endorsement.

    Attributes:
        size: bytes of all contents.
        complete: whether all of them are here.
        expires: when it is forgotten if nobody endorses it.
    """

    image_id: ImageId
    vo: str
    name: str
    version: str
    size: int
    complete: bool
    expires: datetime


class CandidateList(ResponseModel):
    """Those that a site may see, the next to be forgotten first."""

    items: tuple[CandidateEntry, ...]
