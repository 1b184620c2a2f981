"""A site's admission over a catalog of images that exists in memory."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from catalog.errors import NotFound
from catalog.image.address import Address
from catalog.image.manifest import Manifest
from catalog.image.reference import Reference
from deployer.policy.revocations import BlockList
from deployer.policy.store import RuleSet
from deployer.site.model.quota import UNLIMITED, Quota
from deployer.site.operations.admission import (
    AdmissionService,
)
from tests.support.factories import manifest
from tests.support.site.values import MIB, World

PARTS = [Address.parse(f"{number:064x}-{size}") for number, size in ((1, MIB), (2, 4 * MIB), (3, 8 * MIB))]


WORKER = manifest(PARTS)


FOREIGN = manifest(PARTS, vo="rogue", name="worker")


EVERYTHING = sum(address.size for address in PARTS)


@dataclass
class Shelf:
    """The port to the catalog: images with their endorsements, in memory."""

    held: dict[str, tuple[Manifest, list[tuple[bytes, bytes]]]] = field(default_factory=dict)

    def add(self, image: Manifest, *pairs: tuple[bytes, bytes]) -> None:
        """Publish an image."""
        self.held[image.image_id] = (image, list(pairs))

    def resolve(self, reference: Reference) -> str:
        """The image ID, of a name the last published one's."""
        for image_id, (image, _) in reversed(self.held.items()):
            named = (reference.vo, reference.name) == (image.vo, image.name)
            if image_id == reference.image_id or (named and reference.version in {None, image.version}):
                return image_id
        raise NotFound(f"there is no image {reference}")

    def manifest(self, image_id: str) -> Manifest:
        """The manifest."""
        return self.held[image_id][0]

    def endorsements(self, image_id: str) -> Sequence[tuple[bytes, bytes]]:
        """The endorsements."""
        return self.held[image_id][1]


@dataclass(frozen=True)
class Signed:
    """A policy that trusts star, and endorsements by star and by rogue."""

    rules: RuleSet
    worker: tuple[bytes, bytes]
    foreign: tuple[bytes, bytes]


@dataclass
class Desk:
    """An `AdmissionService` over a store with two nodes; `blocks` and `quota` are what the site says now."""

    site: World
    shelf: Shelf
    admitting: AdmissionService
    nodes: tuple[str, str]
    quota: Quota = UNLIMITED
    blocks: BlockList = field(default_factory=BlockList)
