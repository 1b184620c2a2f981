"""The use case: bringing a machine from another node, up to where it could go on here. It goes on when the site says so.

1. The policy of this node judges it as if it were new, and its image is staged.
2. The offer is fetched, and compared with what the site says and with what this node can go on with.
3. Its own files are fetched beside the machines; each is verified before it gets its name. What was fetched is kept over a crash.
4. Its disks are put together here as for a new machine, its overlays go where fresh ones were made, and its saved memory is told
   where everything lies. Only then is there a record that says that it rests here, and a word to the site.
Nothing of it runs before the site has written that it is this node's. A file from another node is never probed, and an
overlay that names anything outside itself is refused.
"""

import base64
import logging
import os
import shutil
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from catalog.client.trusted import TrustedCatalog
from catalog.image.address import Address
from catalog.image.manifest import Blank, Manifest
from deployer.errors import Cancelled, MigrationFailed
from deployer.hypervisor.accelerator import Accelerator
from deployer.hypervisor.disks import ImageContents, assemble_disks, find_firmware, rebase_overlay
from deployer.machine.spec import MachineSpec, Overlay, UefiBoot
from deployer.machine.state import MachineState
from deployer.machine.user_data import check_user_data
from deployer.node.machines.construction import assignment_of, machine_spec, new_record
from deployer.node.machines.restart_admission import RestartAdmission
from deployer.node.machines.supervisor import LEASE_MARGIN, MachineSupervisor
from deployer.node.migration.client import MigrationClient
from deployer.node.migration.manifest import MigrationFile, MigrationManifest, describe_file, verify_file, write_runs
from deployer.node.migration.qcow2_check import check_overlay, overlay_size
from deployer.node.migration.source import blank_name, firmware_digest
from deployer.protocol.desired_state import IncomingMigration
from deployer.protocol.migration import Platform
from deployer.records.machine_store import MEMORY_FILE, MachineOrigin, MachineRecord
from deployer.records.receipt import read_receipt
from deployer.records.receipt_store import ReceiptStore
from signer.errors import PartitaError, SignerError
from signer.runtime import files
from signer.runtime.progress import ignore_progress
from stager.staging import Stager, required_items

SMALL: Final = 64 << 20
"""Bytes of a seed, and of a firmware's variables, at most."""

LOOSE: Final = 1 << 30
"""Bytes that a saved memory may have beyond the machine's maximum: its devices' memory, and what is said of them."""

LEAST_FREE: Final = 256 << 20
"""Bytes that are left free on the node's storage."""

LOOK_EVERY: Final = 64 << 20
"""Bytes between two looks at what is free."""

log = logging.getLogger("partita.node")


@dataclass(frozen=True)
class TargetNode:
    """What a node is, for a machine that is to go on there.

    Attributes:
        owner: what the tags of its machines say.
        site: identity of the site.
        platform: what memory is saved by here.
        accelerator: what machines run on, for an architecture.
        policy: digest of the policy in force.
    """

    owner: str
    site: str
    platform: Callable[[], Platform]
    accelerator: Callable[[str], Accelerator]
    policy: Callable[[], str]


class MigrationTarget:
    """Brings machines to one node. Safe to use from several threads.

    Args:
        keeper, images, stages, admits, receipts: of the node.
        here: the properties of the node.
        root: a directory on the same file system as the machines, for what has been fetched so far.
    """

    def __init__(
        self,
        keeper: MachineSupervisor,
        images: TrustedCatalog,
        stages: Stager,
        admits: RestartAdmission,
        receipts: ReceiptStore,
        here: TargetNode,
        root: Path,
    ) -> None:
        self._keeper, self._images, self._stages, self._admits = keeper, images, stages, admits
        self._receipts, self._here, self._root = receipts, here, root

    def take(
        self,
        incoming: IncomingMigration,
        client: MigrationClient,
        cancelled: threading.Event,
        advance: Callable[[int, int], None],
    ) -> MachineRecord:
        """Bring a machine; returns its record, which says that it rests here and waits for the site's word.

        Args:
            incoming: what the site wants.
            client: of the node that has it.
            cancelled: set when the site does not want that any more.
            advance: called with bytes so far, and in all.

        Raises:
            Refused: by this node's policy.
            MigrationFailed: it cannot go on here, or cannot be fetched; `again` says whether a retry may help.
            Cancelled: see above.
            Errors of catalog and stager: its image is not available.
        """
        wanted = incoming.machine
        offer = client.offer(wanted.uuid, incoming.number)
        manifest = self._images.manifest(wanted.image_id)
        self._compare(offer, incoming, manifest)
        record = self._record(offer, incoming, manifest)
        with self._admits(record, boots=True):
            place = self._place(incoming)
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            contents = self._contents(record, manifest, offer)
            self._fetch(client, offer, contents.missing, place, _Progress(offer, self._root, cancelled, advance))
            record = self._with_receipt(record, offer)
            self._keeper.begin(record)
            try:
                made = self._assemble(record, manifest, offer, contents, place)
                state = MachineState(offer.state)
                # From here on it is a machine of this node that waits; before, a crash leaves what is removed at the start.
                record = self._keeper.change(record.uuid, spec=made, state=state, reason="brought from another node")
            except BaseException:
                with suppress(PartitaError):
                    self._keeper.undo(record.uuid)
                raise
        shutil.rmtree(place, ignore_errors=True)
        return record

    def tidy(self, wanted: Collection[tuple[str, int]], busy: Collection[str]) -> None:
        """Remove what was fetched of machines that are not wanted here, or not by that migration (UUID, number) any more."""
        keep = {f"{uuid}.{number}" for uuid, number in wanted}
        if not self._root.is_dir():
            return
        for entry in list(self._root.iterdir()):
            if entry.name not in keep and entry.name.partition(".")[0] not in busy:
                shutil.rmtree(entry, ignore_errors=True)

    def _place(self, incoming: IncomingMigration) -> Path:
        return self._root / f"{incoming.machine.uuid}.{incoming.number}"

    def _compare(self, offer: MigrationManifest, incoming: IncomingMigration, manifest: Manifest) -> None:
        """The offer is of the machine that the site speaks of, and this node can go on with it."""
        wanted, here = incoming.machine, self._here
        said = (offer.machine, offer.number, offer.image_id)
        if said != (wanted.uuid, incoming.number, wanted.image_id):
            raise MigrationFailed("the other node offers another machine than the site speaks of")
        if offer.memory > wanted.max_memory or offer.cores > wanted.max_cores:
            raise MigrationFailed("the machine has more memory or cores than its maximum")
        if offer.state == "stopped":
            return
        virt = here.accelerator(manifest.architecture).virt
        if offer.virt != virt:
            raise MigrationFailed(f"its memory was saved on {offer.virt}, and this node runs machines on {virt}")
        if lacks := here.platform().lacks(offer.platform):
            raise MigrationFailed(f"its memory cannot go on here: {lacks}")
        if offer.firmware and offer.firmware != firmware_digest(find_firmware(manifest.architecture)[0]):
            raise MigrationFailed("its memory cannot go on here: this node's UEFI firmware is another")

    def _record(self, offer: MigrationManifest, incoming: IncomingMigration, manifest: Manifest) -> MachineRecord:
        wanted = incoming.machine
        user_data = wanted.user_data_bytes()
        return new_record(
            wanted.model_copy(update={"memory": offer.memory, "cores": offer.cores}),
            assignment_of(wanted, self._here.site),
            self._keeper.now(),
            name=offer.name,
            hostname=wanted.hostname,
            image_id=wanted.image_id,
            title=manifest.title,
            state=MachineState.STAGING,
            created=offer.created,
            user_data=(check_user_data(user_data) if user_data else None) or "",
            virt=self._here.accelerator(manifest.architecture).virt,
            policy=self._here.policy(),
            desired=wanted.desired.value,
            incoming=incoming.number,
            origin=MachineOrigin(node=incoming.source),
        )

    def _contents(self, record: MachineRecord, manifest: Manifest, offer: MigrationManifest) -> "_Contents":
        """The image on this node, and which of the blanks have to come along since they are made differently here."""
        ttl = max(0.0, (record.expires - self._keeper.now()).total_seconds()) + LEASE_MARGIN
        staged = self._stages.stage(manifest, record.holder, ttl, ignore_progress, extra=record.blanks)
        offered = {piece.name: piece for piece in offer.blanks}
        missing = []
        for thing in required_items(manifest, record.blanks):
            if isinstance(thing, Blank):
                name = blank_name(thing)
                if name not in offered or offered[name].size != thing.size:
                    raise MigrationFailed("the other node does not offer a blank that lies beneath the machine's disks")
                if describe_file(staged.blank(thing), name) != offered[name]:
                    missing.append(offered[name])
        return _Contents(staged, self._keeper.store.directory(record.uuid), tuple(missing))

    def _fetch(
        self,
        client: MigrationClient,
        offer: MigrationManifest,
        blanks: tuple[MigrationFile, ...],
        place: Path,
        progress: "_Progress",
    ) -> None:
        for piece in (*offer.pieces, *blanks):
            final, part = place / piece.name, place / f"{piece.name}.part"
            if final.exists():  # it was verified before it got that name
                progress.add(0)
                continue
            with files.opened(part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW) as descriptor:
                start = min(os.fstat(descriptor).st_size, piece.size)
                with client.runs(offer.machine, offer.number, piece, start) as stream:
                    write_runs(descriptor, piece, stream, progress.add)
                os.ftruncate(descriptor, piece.size)
                os.fsync(descriptor)
            try:
                verify_file(part, piece)
            except MigrationFailed:
                part.unlink()
                raise
            part.rename(final)

    def _with_receipt(self, record: MachineRecord, offer: MigrationManifest) -> MachineRecord:
        """The receipt of its earlier node is kept, and named by the one that it gets here."""
        if offer.receipt is None or offer.signature is None or record.origin is None:
            return record
        statement, signature = base64.b64decode(offer.receipt), base64.b64decode(offer.signature)
        try:
            found = read_receipt(statement, "the receipt of the machine's earlier node")
        except SignerError as exc:
            raise MigrationFailed(str(exc)) from exc
        if found.deployment.machine != record.uuid or found.image_id != record.image_id:
            raise MigrationFailed("the receipt of the machine's earlier node is of another machine")
        digest = self._receipts.keep_origin(record.uuid, statement, signature)
        return record.model_copy(update={"origin": record.origin.model_copy(update={"receipt": digest})})

    def _assemble(
        self, record: MachineRecord, manifest: Manifest, offer: MigrationManifest, contents: "_Contents", place: Path
    ) -> MachineSpec:
        directory = self._keeper.store.directory(record.uuid)
        for piece in contents.missing:
            (place / piece.name).replace(directory / piece.name)
        assembled = assemble_disks(manifest, contents, directory, record.blanks)
        spec = machine_spec(record, manifest, assembled, directory, self._here.owner)
        pieces = {piece.name: piece for piece in offer.pieces}
        for path, limit, size in list(self._expected(spec, record, suspended=offer.state == "suspended")):
            found = pieces.pop(path.name, None)
            if found is None and path != spec.console:
                raise MigrationFailed(f"the other node does not offer {path.name}, and the machine needs it")
            if found is not None:
                if found.size > limit:
                    raise MigrationFailed(f"{path.name}: has {found.size} bytes, and may have {limit}")
                (place / found.name).replace(path)
                if size is not None:
                    check_overlay(path, size)
        if pieces:
            raise MigrationFailed(
                f"the other node offers {', '.join(sorted(pieces))}, and this machine has no such file"
            )
        for disk in spec.disks:
            if isinstance(disk.source, Overlay):
                rebase_overlay(disk.source.path, disk.source.base)
        if offer.state == "suspended":
            memory = directory / MEMORY_FILE
            self._keeper.hypervisor.adopt(memory, spec)
            os.utime(memory)  # it is of these disks, as they are now
        for path in (*directory.iterdir(), directory):
            files.sync_path(path)
        return spec

    def _expected(
        self, spec: MachineSpec, record: MachineRecord, *, suspended: bool
    ) -> Iterator[tuple[Path, int, int | None]]:
        """The files that are the machine's own, how large each may be, and of overlays the size of the disk."""
        for disk in spec.disks:
            if isinstance(disk.source, Overlay):
                size = overlay_size(disk.source.path)
                yield disk.source.path, size + size // 8 + SMALL, size
        if isinstance(spec.boot, UefiBoot):
            yield spec.boot.variables, SMALL, None
        if spec.seed is not None:
            yield spec.seed, SMALL, None
        yield spec.console, 1 << 50, None
        if suspended:
            yield self._keeper.store.memory(record.uuid), record.max_memory + LOOSE, None


@dataclass(frozen=True)
class _Contents:
    """An image on this node, with blanks that came along where this node makes other bytes of a recipe."""

    staged: ImageContents
    directory: Path
    missing: tuple[MigrationFile, ...]

    def path(self, address: Address) -> Path:
        return self.staged.path(address)

    def blank(self, blank: Blank) -> Path:
        name = blank_name(blank)
        return self.directory / name if name in {piece.name for piece in self.missing} else self.staged.blank(blank)


class _Progress:
    """Progress of a fetch; gives up when it is cancelled or the storage gets full."""

    def __init__(
        self, offer: MigrationManifest, place: Path, cancelled: threading.Event, advance: Callable[[int, int], None]
    ) -> None:
        self._place, self._cancelled, self._advance = place, cancelled, advance
        self._total = sum(piece.size for piece in offer.pieces)
        self._done = self._looked = 0
        self._look()

    def add(self, count: int) -> None:
        self._done += count
        if self._cancelled.is_set():
            raise Cancelled("the site does not want this machine here any more")
        if self._done - self._looked >= LOOK_EVERY:
            self._look()
        self._advance(self._done, self._total)

    def _look(self) -> None:
        self._looked = self._done
        if shutil.disk_usage(self._place).free < LEAST_FREE:
            raise MigrationFailed(
                "this node's storage is full; make room on it, or migrate the machine to another node"
            )
