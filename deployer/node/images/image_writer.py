"""Saving a machine's changed partitions as a new version of its image: an image directory without endorsements.

What the guest wrote lies in the overlays. A partition of which an overlay holds nothing has kept its content, and its
address; of one that was written to, the whole is read through the overlay, measured, and becomes content. Blanks that were
written to become content too, but for swap, which means nothing to another machine. Tables are written anew from a
manifest when a disk is assembled: a guest that changed its own cannot be saved.

The disks are read by qemu-img in confinement: it sees the machine's own files and nothing else of the node.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from catalog.builder.bundle_writer import BundleDraft, draft_bundle
from catalog.client.client import CatalogClient
from catalog.client.credential_file import read_credential
from catalog.client.transfer import offer_candidate
from catalog.disk.gpt import write_gpt
from catalog.disk.sandbox import ResourceLimits, run_confined
from catalog.image.address import Address
from catalog.image.bundle import Bundle
from catalog.image.manifest import BareDisk, Blank, GptDisk, Manifest, MbrDisk, Partition
from deployer.errors import AssemblyFailed, MachineConflict
from deployer.machine.spec import Descriptor, Overlay, RawFile
from deployer.machine.state import MachineState
from deployer.node.images.candidate_upload import CandidateUploader
from deployer.node.machines.exposure import BootFacts
from deployer.node.machines.supervisor import MachineSupervisor
from deployer.node.schema.machines import SavedImage, SaveOrder
from deployer.records.machine_store import MachineRecord
from signer.documents import validate
from signer.runtime.progress import Advance
from stager.cache.cache import Cache
from stager.settings import NodeSettings

AT_REST: Final = frozenset({MachineState.STOPPED, MachineState.PAUSED, MachineState.SUSPENDED})
"""States in which nothing is written. QEMU writes out all that it holds back when it pauses a machine."""

MIN_SPEED: Final = 5e6
"""Bytes per second that reading a disk has at least: what is slower than that is taken for hung."""

_EXTENT = re.compile(rb'^RW [0-9]+ FLAT "([^"]+)" 0$', re.MULTILINE)


@dataclass(frozen=True)
class WrittenImage:
    """A saved machine.

    Attributes:
        bundle: the image directory.
        changed: labels of the partitions that are other content now.
        written: bytes of them.
    """

    bundle: Bundle
    changed: tuple[str, ...]
    written: int


def write_image(
    record: MachineRecord,
    manifest: Manifest,
    contents: Mapping[Address, Path],
    target: Path,
    version: str,
    *,
    whole: bool = True,
) -> WrittenImage:
    """Make an image directory of a machine that is at rest.

    Args:
        record: of the machine.
        manifest: of the image that it was made of.
        contents: where the contents of that image are.
        target: the directory to make; absent or empty.
        version: of the new image; it must be another.
        whole: put the contents that did not change into the directory, too.

    Raises:
        MachineConflict: the machine is not at rest, was never put together, or has changed a partition table.
        AssemblyFailed: its disks cannot be read.
        Conflict, NotFound, Unavailable: the directory cannot be made.
        signer.errors.DocumentError: the version is not valid.
    """
    if record.state not in AT_REST or record.spec is None:
        raise MachineConflict(f"machine {record.name} is {record.state.value}; stop, pause or suspend it to save it")
    if version == manifest.version:
        raise MachineConflict(f"{manifest.title} is what machine {record.name} was made of; give another version")
    with draft_bundle(target) as draft:
        job = _Saving(manifest, contents, draft)
        disks = [
            job.disk(disk, spec.source)
            for disk, spec in zip(manifest.disks, record.spec.disks[: len(manifest.disks)], strict=True)
        ]
        document = json.loads(manifest.canonical()) | {"version": version, "disks": disks}
        document["provenance"] = [*document.get("provenance", ()), {"rel": "parent", "href": manifest.image_id}]
        fresh = validate(Manifest, document, "saved image")
        for address in fresh.contents():
            if whole and not draft.content(address).exists():
                draft.add_file(contents[address])
        return WrittenImage(draft.finish(fresh), tuple(job.changed), job.written)


class _Saving:
    """The saving of one machine into a draft."""

    def __init__(self, manifest: Manifest, contents: Mapping[Address, Path], draft: BundleDraft) -> None:
        self.changed: list[str] = []
        self.written = 0
        self._manifest, self._contents, self._draft = manifest, contents, draft

    def disk(self, disk: GptDisk | MbrDisk | BareDisk, source: RawFile | Overlay) -> dict[str, Any]:
        """A disk as the new manifest says it."""
        described: dict[str, Any] = disk.model_dump(mode="json", exclude_none=True)
        if isinstance(source, RawFile):
            return described
        written = _written(source)
        if isinstance(disk, BareDisk):
            self._partition(described["partition"], disk.partition, source, 0, written)
            return described
        for part, placed in zip(described["partitions"], disk.partitions, strict=True):
            self._partition(part, placed, source, placed.offset, written)
        for gap, known in zip(described.get("gaps", ()), disk.gaps, strict=True):
            if _touches(written, known.offset, known.content.size):
                gap["content"] = str(self._content(source, known.offset, known.content.size))
        if isinstance(disk, GptDisk):
            self._demand_table(disk, source, written)
        return described

    def _partition(
        self,
        described: dict[str, Any],
        part: Partition,
        source: Overlay,
        offset: int,
        written: Sequence[tuple[int, int]],
    ) -> None:
        if not _touches(written, offset, part.size):
            return
        if isinstance(part.blank, Blank) and part.blank.filesystem == "swap":
            return
        address = self._content(source, offset, part.size)
        if address != part.content:
            described.pop("blank", None)
            described["content"] = str(address)
            self.changed.append(part.label)
            self.written += address.size

    def _content(self, source: Overlay, offset: int, size: int) -> Address:
        place = self._draft.scratch / "part"
        _read(source, offset, size, place)
        return self._draft.adopt(place).address

    def _demand_table(self, disk: GptDisk, source: Overlay, written: Sequence[tuple[int, int]]) -> None:
        """A table that the guest changed is not what the manifest would have written."""
        head, tail = write_gpt(disk)
        for data, offset in ((head, 0), (tail, disk.size - len(tail))):
            if _touches(written, offset, len(data)):
                place = self._draft.scratch / "table"
                _read(source, offset, len(data), place)
                same = place.read_bytes() == data
                place.unlink()
                if not same:
                    raise MachineConflict(
                        "the guest has changed its partition table, and an image's comes from its manifest; "
                        "save the data that matters from inside the guest"
                    )


def _written(source: Overlay) -> list[tuple[int, int]]:
    """(offset, length) of what an overlay itself holds, in bytes."""
    asked = ["qemu-img", "map", "--force-share", "--output=json", "--image-opts", "--", _options(source.path)]
    found = json.loads(_run(asked, source, {}, ResourceLimits(), "the machine's overlay cannot be found").decode())
    return [(entry["start"], entry["length"]) for entry in found if entry["depth"] == 0 and entry.get("present", True)]


def _touches(written: Sequence[tuple[int, int]], offset: int, size: int) -> bool:
    return any(start < offset + size and offset < start + length for start, length in written)


def _read(source: Overlay, offset: int, size: int, place: Path) -> None:
    """Bytes of a disk as the guest sees it, into a new sparse file in a directory of ours."""
    options = f"driver=raw,offset={offset},size={size},{_options(source.path, 'file.')}"
    seconds = 60 + size / MIN_SPEED
    limits = ResourceLimits(cpu=int(seconds), wall=seconds, file_size=size)
    asked = ["qemu-img", "convert", "--force-share", "--image-opts", "-t", "writeback", "-O", "raw", "--"]
    out = f"/out/{place.name}"
    _run([*asked, options, out], source, {"/out": place.parent}, limits, "the machine's overlay cannot be read")
    if not place.is_file() or place.stat().st_size != size:
        raise AssemblyFailed(f"{source.path}: reading {size} bytes at {offset} of the disk gave something else")


def _options(path: Path, prefix: str = "") -> str:
    """An overlay as qemu-img's --image-opts; a comma in a path is written twice."""
    name = str(path).replace(",", ",,")
    return f"{prefix}driver=qcow2,{prefix}file.driver=file,{prefix}file.filename={name}"


def _run(
    command: Sequence[str], source: Overlay, writes: Mapping[str, Path], limits: ResourceLimits, failing: str
) -> bytes:
    reads = {str(path): path for path in _files(source)}
    done = run_confined(command, reads=reads, writes=writes, limits=limits)
    if done.code:
        raise AssemblyFailed(f"{source.path}: {failing}: {done.errors[-500:] or f'qemu-img ended with {done.code}'}")
    return done.output


def _files(source: Overlay) -> Iterator[Path]:
    """All files that a disk consists of: what its own descriptor names, and we wrote that."""
    yield source.path
    yield source.base.path
    if isinstance(source.base, Descriptor):
        for name in dict.fromkeys(_EXTENT.findall(source.base.path.read_bytes())):
            yield Path(name.decode())


class MachineSaver:
    """Saves the machines of one node. Safe to use from several threads.

    Args:
        settings: of the node; its credential is read at each offer.
        keeper: of the machines.
        cache: where the contents of their images are.
    """

    def __init__(self, settings: NodeSettings, keeper: MachineSupervisor, cache: Cache) -> None:
        self._settings, self._keeper, self._cache = settings, keeper, cache

    def save(self, uuid: str, order: SaveOrder) -> SavedImage:
        """A machine that rests as a new version of its image; see `write_image`. Nothing changes it meanwhile.

        Raises:
            MachineConflict: the image that it was made from is no longer known.
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
        """Make the uploader that saves machines as a site desires."""

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
        """Send a saved machine to the catalog, with the node's credential there."""
        credential = read_credential(self._settings.credential)
        with CatalogClient(self._settings.catalog, credential=credential) as client:
            offer_candidate(client, bundle, advance)
