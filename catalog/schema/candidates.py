"""Candidates: images that a site offered and that have no endorsement yet."""

from datetime import datetime
from typing import Annotated

from pydantic import Field

from catalog.image.manifest import MAX_MANIFEST, ImageId, TitledDocument
from catalog.schema.images import ResponseModel
from signer.documents import Document, example


class CandidateRequest(Document):
    """A request to accept a candidate: the canonical text of a manifest that names a published image as its parent."""

    model_config = example(manifest='{"architecture":"x86_64", ...}')

    manifest: Annotated[str, Field(max_length=MAX_MANIFEST)]


class CandidateEntry(TitledDocument, ResponseModel):
    """An image that waits for its first endorsement.

    Attributes:
        size: bytes of all contents.
        complete: whether the catalog has all of them.
        expires: when the candidate is deleted, unless it is endorsed.
    """

    image_id: ImageId
    size: int
    complete: bool
    expires: datetime


class CandidateList(ResponseModel):
    """The candidates that a site may read, sorted by expiry."""

    items: tuple[CandidateEntry, ...]
