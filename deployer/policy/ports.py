"""What decisions need of a catalog."""

from collections.abc import Sequence
from typing import Protocol

from catalog.image.manifest import Manifest
from catalog.image.reference import Reference
from deployer.policy.revocations import StatementPair


class ImageSource(Protocol):
    """Where images are looked up; `catalog.client.client.CatalogClient` is one."""

    def resolve(self, reference: Reference) -> str:
        """The image ID that a reference means now."""

    def manifest(self, image_id: str) -> Manifest:
        """The manifest, its bytes checked against the ID."""

    def endorsements(self, image_id: str) -> Sequence[tuple[bytes, bytes]]:
        """(statement, signature) of each endorsement."""


class RevocationSource(Protocol):
    """Where revocations come from; `catalog.client.trusted.TrustedCatalog` is one."""

    def revocations(self) -> Sequence[StatementPair]:
        """(statement, signature) of every revocation that is listed now."""
