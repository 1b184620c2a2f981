"""The TUF targets of a catalog: their paths and their bytes. Shared by the repository and its clients.

images/ID/manifest.json           the canonical manifest; ID is the 64 hex digits of the image ID
images/ID/endorsements.json       its endorsements: statements and signatures
names/VO/NAME/VERSION.json        which image a name and version stands for; it never changes
names/VO/NAME.json                which version of a name is the newest
clusters/DIGEST/cluster.json      a canonical cluster document; DIGEST is its SHA-256
clusters/DIGEST/endorsements.json its endorsements
cluster-names/VO/NAME/VERSION.json, cluster-names/VO/NAME.json    as names, of cluster documents
revocations.json                  how many pages of revocations there are, even 0, so that no page can be withheld
revocations/N.json                the N-th hundred of revocations, in the order in which they arrived
"""

import hashlib
import re
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from catalog.access.rules import ImageScope
from catalog.image.manifest import ImageId, TitledDocument
from catalog.schema.images import EndorsementList, SignedStatement
from catalog.tuf.metadata import ListedTarget
from signer.documents import Document, canonical

REVOCATIONS = "revocations.json"

_IMAGE = re.compile(r"images/([0-9a-f]{64})/[^/]+")
_NAME = re.compile(r"names/([^/]+)/(?:([^/]+)/)?(?:[0-9a-f]{64}\.)?([^/]+)\.json")


REVOCATIONS_PAGE = 100
"""Revocations in one target: a site that has the earlier pages fetches only one more."""


class RevocationPages(Document):
    """How many targets revocations/N.json there are: `pages`."""

    pages: Annotated[int, Field(ge=0, le=1_000_000)]


class NameBinding(TitledDocument):
    """Which image a name and version stands for."""

    image_id: ImageId


class ClusterBinding(TitledDocument):
    """Which cluster document a name and version stands for, by its digest in the form of an image ID."""

    digest: ImageId


def manifest_path(image_id: str) -> str:
    """The target of an image's manifest."""
    return f"images/{image_id.removeprefix('sha256:')}/manifest.json"


def endorsements_path(digest: str, folder: Literal["images", "clusters"] = "images") -> str:
    """The target of the endorsements of an image or a cluster document."""
    return f"{folder}/{digest.removeprefix('sha256:')}/endorsements.json"


def name_path(
    vo: str, name: str, version: str | None = None, folder: Literal["names", "cluster-names"] = "names"
) -> str:
    """The target that says which image or cluster document a name and version, or a name's newest version, stands for."""
    return f"{folder}/{vo}/{name}.json" if version is None else f"{folder}/{vo}/{name}/{version}.json"


def cluster_path(digest: str) -> str:
    """The target of a cluster document."""
    return f"clusters/{digest.removeprefix('sha256:')}/cluster.json"


def revocation_page(number: int) -> str:
    """The target of a page of revocations."""
    return f"revocations/{number}.json"


def revocation_targets(pairs: Sequence[tuple[bytes, bytes]]) -> dict[str, bytes]:
    """All targets of these revocations: the number of pages, and the pages."""
    pages = [pairs[start : start + REVOCATIONS_PAGE] for start in range(0, len(pairs), REVOCATIONS_PAGE)]
    index = {REVOCATIONS: canonical(RevocationPages(pages=len(pages)))}
    return index | {revocation_page(number): encode_statements(list(page)) for number, page in enumerate(pages)}


def encode_statements(pairs: list[tuple[bytes, bytes]]) -> bytes:
    """A list of signed statements as the bytes of a target."""
    return canonical(EndorsementList(items=tuple(SignedStatement.of(*pair) for pair in pairs)))


def describe_target(path: str, data: bytes) -> ListedTarget:
    """How metadata lists a target with these bytes."""
    return ListedTarget(path, len(data), hashlib.sha256(data).hexdigest())


def image_of_path(path: str) -> ImageScope | str | None:
    """The image that a target path is about, as its ID or its name; None for other targets. A digest in it is ignored."""
    if match := _IMAGE.fullmatch(path):
        return f"sha256:{match[1]}"
    if match := _NAME.fullmatch(path):
        return ImageScope(match[1], match[2] or match[3], match[3] if match[2] else "")
    return None
