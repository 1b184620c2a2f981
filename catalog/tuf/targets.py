"""What the catalog vouches to be current, as TUF targets: their paths, and their contents. Shared by both sides.

images/ID/manifest.json           the canonical manifest; ID is the 64 hex digits of the image ID
images/ID/endorsements.json       its endorsements: statements and signatures
names/VO/NAME/VERSION.json        which image a name and version stands for, for ever
names/VO/NAME.json                which version of a name is the newest
clusters/DIGEST/cluster.json      a canonical cluster document; DIGEST is its SHA-256
clusters/DIGEST/endorsements.json its endorsements
cluster-names/VO/NAME/VERSION.json, cluster-names/VO/NAME.json    as names, of cluster documents
revocations.json                  how many pages of revocations there are; none is said too, so that none can be left out
revocations/N.json                the N-th hundred of revocations, in the order in which they came
"""

import hashlib
import re
from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from catalog.access.rules import ImageScope
from catalog.image.manifest import ImageId, Name, Version, Vo
from catalog.schema.images import EndorsementList, SignedStatement
from catalog.tuf.metadata import ListedTarget
from signer.documents import Document, canonical

REVOCATIONS = "revocations.json"

_IMAGE = re.compile(r"images/([0-9a-f]{64})/[^/]+")
_NAME = re.compile(r"names/([^/]+)/(?:([^/]+)/)?(?:[0-9a-f]{64}\.)?([^/]+)\.json")


REVOCATIONS_PAGE = 100
"""Revocations in one target: a site that has the earlier pages fetches one more."""


class RevocationPages(Document):
    """How many targets revocations/0.json and so on there are.

    Attributes:
        pages: their number.
    """

    pages: Annotated[int, Field(ge=0, le=1_000_000)]


class NameBinding(Document):
    """Which image a name and version stands for.

    Attributes:
        vo, name, version: the name.
        image_id: the image.
    """

    vo: Vo
    name: Name
    version: Version
    image_id: ImageId


def manifest_path(image_id: str) -> str:
    """Where an image's manifest is."""
    return f"images/{image_id.removeprefix('sha256:')}/manifest.json"


def endorsements_path(image_id: str) -> str:
    """Where an image's endorsements are."""
    return f"images/{image_id.removeprefix('sha256:')}/endorsements.json"


def name_path(vo: str, name: str, version: str | None = None) -> str:
    """Where the meaning of a name and version, or of a name's newest version, is."""
    return f"names/{vo}/{name}.json" if version is None else f"names/{vo}/{name}/{version}.json"


class ClusterBinding(Document):
    """Which cluster document a name and version stands for.

    Attributes:
        vo, name, version: the name.
        digest: of the document, in the form of an image ID.
    """

    vo: Vo
    name: Name
    version: Version
    digest: ImageId


def cluster_path(digest: str) -> str:
    """Where a cluster document is."""
    return f"clusters/{digest.removeprefix('sha256:')}/cluster.json"


def cluster_endorsements_path(digest: str) -> str:
    """Where a cluster document's endorsements are."""
    return f"clusters/{digest.removeprefix('sha256:')}/endorsements.json"


def cluster_name_path(vo: str, name: str, version: str | None = None) -> str:
    """Where the meaning of a cluster's name and version, or of a name's newest version, is."""
    return f"cluster-names/{vo}/{name}.json" if version is None else f"cluster-names/{vo}/{name}/{version}.json"


def revocation_page(number: int) -> str:
    """Where a page of revocations is."""
    return f"revocations/{number}.json"


def revocation_targets(pairs: Sequence[tuple[bytes, bytes]]) -> dict[str, bytes]:
    """All targets of these revocations: their number, and the pages."""
    pages = [pairs[start : start + REVOCATIONS_PAGE] for start in range(0, len(pairs), REVOCATIONS_PAGE)]
    index = {REVOCATIONS: canonical(RevocationPages(pages=len(pages)))}
    return index | {revocation_page(number): encode_statements(list(page)) for number, page in enumerate(pages)}


def encode_statements(pairs: list[tuple[bytes, bytes]]) -> bytes:
    """A list of signed statements as a target's content."""
    return canonical(EndorsementList(items=tuple(SignedStatement.of(*pair) for pair in pairs)))


def describe_target(path: str, data: bytes) -> ListedTarget:
    """A target of this content."""
    return ListedTarget(path, len(data), hashlib.sha256(data).hexdigest())


def image_of_path(path: str) -> ImageScope | str | None:
    """What a target says something of: an image's ID or name, as asked for with a digest or without; None: no image."""
    if match := _IMAGE.fullmatch(path):
        return f"sha256:{match[1]}"
    if match := _NAME.fullmatch(path):
        return ImageScope(match[1], match[2] or match[3], match[3] if match[2] else "")
    return None
