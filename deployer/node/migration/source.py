"""The use case: giving a machine that rests to another node. It is locked, described, and read by that node alone.

What is here stays as it is until the site says that it is the other node's; then the site no longer wants it here, and it is
ended like anything that it does not want. A machine is locked in its record before anything is offered, so that whatever dies,
it does not run here while another node may have it.
"""

import base64
import hashlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

from catalog.image.manifest import Blank, Manifest
from deployer.errors import MachineConflict, MachineNotFound, MigrationFailed
from deployer.machine.spec import Overlay, UefiBoot
from deployer.machine.state import MachineEvent, MachineState
from deployer.node.machines.exposure import BootFacts
from deployer.node.machines.supervisor import MachineSupervisor
from deployer.node.migration.manifest import (
    MANIFEST_NAME,
    MAX_MIGRATION_MANIFEST,
    MigrationManifest,
    describe_file,
    read_runs,
)
from deployer.protocol.migration import OutgoingMigration, Platform
from deployer.records.machine_store import CONSOLE_FILE, MEMORY_FILE, MachineRecord
from signer.documents import canonical, parse
from signer.errors import DocumentError
from signer.runtime import files
from stager.cache.cache import Cache
from stager.staging import required_items

MIGRATABLE = frozenset({MachineState.SUSPENDED, MachineState.STOPPED})

log = logging.getLogger("partita.node")


class MigrationSource:
    """Gives machines of one node away. Safe to use from several threads.

    Args:
        keeper: of the machines.
        blanks: the node's cache.
        manifest: of an image, by its ID.
        platform: what memory is saved by here.
        receipt: statement and signature of a machine's last boot, if there is a receipt.
    """

    def __init__(
        self,
        keeper: MachineSupervisor,
        blanks: Cache,
        manifest: Callable[[str], Manifest],
        platform: Callable[[], Platform],
        receipt: Callable[[str], tuple[bytes, bytes] | None],
    ) -> None:
        self._keeper, self._blanks, self._manifest = keeper, blanks, manifest
        self._platform, self._receipt = platform, receipt

    def give(self, uuid: str, giving: OutgoingMigration) -> None:
        """Lock a machine for a node, and write down what that gets.

        Raises:
            MachineConflict: it is neither suspended nor stopped, or is only a copy here.
            OSError: its files cannot be read.
        """
        keeper = self._keeper
        with keeper.alone(uuid) as record:
            if record.state not in MIGRATABLE or record.spec is None or record.incoming is not None:
                raise MachineConflict(f"machine {record.name} is {record.state.value} and cannot be given away")
            if record.state is MachineState.SUSPENDED and not keeper.store.untouched(uuid):
                keeper.happened(uuid, MachineEvent.POWERED_OFF, "its memory is not of its disks any more")
                raise MachineConflict(f"the memory of machine {record.name} was lost; it is stopped now")
            self._place(uuid).unlink(missing_ok=True)
            record = keeper.change(uuid, outgoing=giving)
            offer = self._describe(record, giving.number)
            files.write(self._place(uuid), canonical(offer))
            log.info("machine %s is offered to node %s (migration %d)", uuid, giving.to, giving.number)

    def retain(self, uuid: str) -> None:
        """Let a machine that was to be given away be this node's own again."""
        with self._keeper.alone(uuid):
            self._place(uuid).unlink(missing_ok=True)
            self._keeper.change(uuid, outgoing=None)

    def offer(self, uuid: str, number: int, to: str) -> MigrationManifest:
        """Read the offer to a node; MigrationFailed if it is for another node, or not ready yet."""
        try:
            giving = self._keeper.store.get(uuid).outgoing
            offer = parse(
                MigrationManifest, self._place(uuid).read_bytes(), MANIFEST_NAME, limit=MAX_MIGRATION_MANIFEST
            )
        except (MachineNotFound, OSError, DocumentError):
            giving = None
        if giving is None or giving.to != to or giving.number != number or offer.number != number:
            raise MigrationFailed(f"machine {uuid} is not offered to this node now", again=True)
        return offer

    def runs(self, uuid: str, number: int, name: str, to: str, start: int) -> Iterator[bytes]:
        """A file of what is offered, as it travels; MigrationFailed as in `offer`, or if it has no such file."""
        offer = self.offer(uuid, number, to)
        if name in {piece.name for piece in offer.pieces}:
            return read_runs(self._keeper.store.directory(uuid) / name, start)
        record = self._keeper.store.get(uuid)
        for blank, there in self._beneath(record):
            if there == name:
                return read_runs(self._blank(record, blank), start)
        raise MigrationFailed(f"machine {uuid} has no file {name!r} that is offered")

    def _describe(self, record: MachineRecord, number: int) -> MigrationManifest:
        spec, directory = record.spec, self._keeper.store.directory(record.uuid)
        assert spec is not None  # noqa: S101 - `give`
        files = [disk.source.path for disk in spec.disks if isinstance(disk.source, Overlay)]
        files += [spec.boot.variables] if isinstance(spec.boot, UefiBoot) else []
        files += [spec.seed] if spec.seed is not None else []
        files += [place for place in (directory / CONSOLE_FILE,) if place.exists()]
        suspended = record.state is MachineState.SUSPENDED
        files += [directory / MEMORY_FILE] if suspended else []
        receipt = self._receipt(record.uuid)
        return MigrationManifest(
            number=number,
            machine=record.uuid,
            state="suspended" if suspended else "stopped",
            image_id=record.image_id,
            name=record.name,
            created=record.created,
            memory=record.memory,
            cores=record.cores,
            virt=spec.virt,
            platform=self._platform(),
            firmware=firmware_digest(spec.boot.loader) if isinstance(spec.boot, UefiBoot) else "",
            pieces=tuple(map(describe_file, files)),
            blanks=tuple(describe_file(self._blank(record, blank), name) for blank, name in self._beneath(record)),
            receipt=base64.b64encode(receipt[0]).decode() if receipt else None,
            signature=base64.b64encode(receipt[1]).decode() if receipt else None,
        )

    def _beneath(self, record: MachineRecord) -> Iterator[tuple[Blank, str]]:
        """The blanks beneath a machine's overlays, and their names."""
        facts = BootFacts.read(self._keeper.store.directory(record.uuid))
        manifest = facts.manifest if facts is not None else self._manifest(record.image_id)
        for thing in required_items(manifest, record.blanks):
            if isinstance(thing, Blank):
                yield thing, blank_name(thing)

    def _blank(self, record: MachineRecord, blank: Blank) -> Path:
        """Where a blank lies: one that came with the machine, else that of this node."""
        own = self._keeper.store.directory(record.uuid) / blank_name(blank)
        return own if own.exists() else self._blanks.path(blank)

    def _place(self, uuid: str) -> Path:
        return self._keeper.store.directory(uuid) / MANIFEST_NAME


def blank_name(blank: Blank) -> str:
    """What the file of a blank is called where it travels: it follows from the recipe."""
    return f"blank-{hashlib.sha256(canonical(blank)).hexdigest()[:32]}.raw"


def firmware_digest(loader: Path) -> str:
    """SHA-256 of a UEFI firmware's code, hex; it is in a saved memory."""
    return hashlib.sha256(loader.read_bytes()).hexdigest()
