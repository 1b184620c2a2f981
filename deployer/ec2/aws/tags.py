"""The tags of all resources that Partita makes at EC2: they name the owner and the purpose. Pure.

Tags say where to look; they prove nothing. Whether a tagged resource is used is decided by the site's records
(`snapshots.record_store`, `account.bookkeeping`) and by EC2's own description of it (`account.ami_registrar`).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from signer.statements.endorsement import write_instant

SITE_TAG: Final = "partita:site"
POOL_TAG: Final = "partita:pool"
MACHINE_TAG: Final = "partita:machine"
DEPLOYMENT_TAG: Final = "partita:deployment"
CATALOG_TAG: Final = "partita:catalog"
IMAGE_TAG: Final = "partita:image"
END_TAG: Final = "partita:ends"
SIZE_TAG: Final = "partita:size"
REBOOTS_TAG: Final = "partita:reboots"
RECEIPT_TAG: Final = "partita:receipt"
KEY_TAG: Final = "partita:key"
PARENT_TAG: Final = "partita:parent"

Tags = dict[str, str]


@dataclass(frozen=True)
class Owner:
    """The owner of a resource: the site, and its pool of machines in one account."""

    site: str
    pool: str

    @property
    def tags(self) -> Tags:
        """The tags that name the owner."""
        return {SITE_TAG: self.site, POOL_TAG: self.pool}

    def owns(self, tags: Mapping[str, str]) -> bool:
        """Whether tags name this owner."""
        return tags.get(SITE_TAG) == self.site and tags.get(POOL_TAG) == self.pool


def read_tags(described: Iterable[Mapping[str, Any]] | None) -> Tags:
    """Read tags as EC2 lists them."""
    return {str(tag.get("Key", "")): str(tag.get("Value", "")) for tag in described or ()}


def write_tags(tags: Mapping[str, str]) -> list[dict[str, str]]:
    """Write tags as EC2 takes them."""
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def tag_specifications(kinds: Sequence[str], tags: Mapping[str, str]) -> list[dict[str, Any]]:
    """The tag specifications of a request, for each kind of resource that it makes."""
    return [{"ResourceType": kind, "Tags": write_tags(tags)} for kind in kinds]


def size_tag_value(cores: int, memory: int) -> str:
    """The size that a type was chosen for, `CORESxMIB`: the type changes only when another size is wanted."""
    return f"{cores}x{memory >> 20}"


def read_instant(text: str) -> datetime | None:
    """The instant in a tag's value; None if the tag is missing or malformed."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo is not None else None


def end_tag_value(ends: datetime) -> str:
    """The end of a machine's time as its tag's value; the guest's own timer reads it too."""
    return write_instant(ends.astimezone(UTC))
