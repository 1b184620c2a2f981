"""The machines of a node as images: saved into a directory of its operator's, or offered to the catalog for a site."""

from collections.abc import Mapping
from pathlib import Path

from catalog.client.client import CatalogClient
from catalog.client.credential_file import read_credential
from catalog.client.transfer import offer_candidate
from catalog.image.address import Address
from catalog.image.bundle import Bundle
from catalog.image.manifest import Manifest
from deployer.errors import MachineConflict
from deployer.node.images.candidate_upload import CandidateUploader
from deployer.node.images.image_writer import WrittenImage, write_image
from deployer.node.machines.exposure import BootFacts
from deployer.node.machines.supervisor import MachineSupervisor
from deployer.node.schema.machines import SavedImage, SaveOrder
from signer.runtime.progress import Advance
from stager.cache.cache import Cache
from stager.settings import NodeSettings


class MachineSaver:
    """Safe to use from several threads.

    Args:
        settings: of the node; its credential is read at each offer.
        keeper: of the machines.
        cache: where the contents of their images are.
    """

    def __init__(self, settings: NodeSettings, keeper: MachineSupervisor, cache: Cache) -> None:
        self._settings, self._keeper, self._cache = settings, keeper, cache

    def save(self, uuid: str, order: SaveOrder) -> SavedImage:
        """A machine that rests as a new version of its image; see `saving.save`. Nothing changes it meanwhile.

        Raises:
            MachineConflict: what it was made of is not known any more.
        """
        saved, parent = self._save(uuid, order.directory, order.version, whole=True)
        return SavedImage(
            directory=str(order.directory),
            image_id=saved.bundle.manifest.image_id,
            title=saved.bundle.manifest.title,
            parent=parent,
            changed=saved.changed,
            written=saved.written,
        )

    def offering(self) -> CandidateUploader:
        """What sees to the saves that a site wants."""

        def read(uuid: str, target: Path, version: str) -> None:
            self._save(uuid, target, version, whole=False)

        place = self._settings.directory / "saves"
        return CandidateUploader(place, self._keeper, read, self._made_of, self._contents, self._offer)

    def _save(self, uuid: str, target: Path, version: str, *, whole: bool) -> tuple[WrittenImage, str]:
        with self._keeper.alone(uuid) as record:
            manifest = self._made_of(uuid)
            if manifest is None:
                raise MachineConflict(f"machine {record.name} no longer has the contents that it was made of")
            saved = write_image(record, manifest, self._contents(manifest), target, version, whole=whole)
            return saved, manifest.image_id

    def _made_of(self, uuid: str) -> Manifest | None:
        """The manifest of the image that a machine was made of."""
        facts = BootFacts.read(self._keeper.store.directory(uuid))
        return None if facts is None else facts.manifest

    def _contents(self, manifest: Manifest) -> Mapping[Address, Path]:
        return {address: self._cache.path(address) for address in manifest.contents()}

    def _offer(self, bundle: Bundle, advance: Advance) -> None:
        """Send what a machine was saved as to the catalog, by the credential that the node has there."""
        credential = read_credential(self._settings.credential)
        with CatalogClient(self._settings.catalog, credential=credential) as client:
            offer_candidate(client, bundle, advance)
