"""Publication and listing of cluster documents."""

from typing import Annotated

from pydantic import Field, JsonValue

from catalog.image.manifest import ImageId, TitledDocument
from catalog.schema.images import ResponseModel, ResponsePage, SignedEndorsements
from signer.documents import Document, example
from signer.statements.endorsement import Instant

MAX_CLUSTER = 1 << 20
"""Bytes of a cluster document: user-data of 16 KiB for each of its roles, and keys."""

MAX_CLUSTERS_PAGE = 100
"""Documents on a page of a list, at most."""

_EXAMPLE: dict[str, JsonValue] = {
    "vo": "star",
    "name": "batch",
    "version": "1.0",
    "digest": "sha256:" + "2f" * 32,
    "published": "2026-11-22T12:00:00Z",
}


class ClusterPublication(Document):
    """A request to publish a cluster document: its canonical text, and at least one endorsement that names it."""

    model_config = example(
        document='{"name":"batch","roles":{...}}',
        endorsements=[{"statement": '{"_type": ...}', "signature": "iHUEABYKAB0WIQ=="}],
    )

    document: Annotated[str, Field(min_length=2, max_length=MAX_CLUSTER)]
    endorsements: SignedEndorsements


class ClusterEntry(TitledDocument, ResponseModel):
    """A published cluster document in a list."""

    model_config = example(**_EXAMPLE)

    digest: ImageId
    published: Instant


class ClusterEntries(ResponsePage[ClusterEntry]):
    """Cluster documents, last published first; `next` is the cursor of the following page, absent on the last."""

    model_config = example(items=[_EXAMPLE])
