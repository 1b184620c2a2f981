"""The machines of a node, on disk: one directory each, with a record that is written whole or not at all.

machines/<uuid>/machine.json     the record
machines/<uuid>/console.log      what the guest wrote to its serial console
machines/<uuid>/disk*, seed.iso  what it boots from; removed when it has ended
machines/<uuid>/memory           what its memory held when it was suspended
"""

import shutil
import threading
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from catalog.errors import Misused
from deployer.errors import MachineNotFound
from deployer.machine.properties import MachineProperties
from deployer.machine.spec import MachineSpec, Uuid
from deployer.machine.state import MachineState
from deployer.protocol.migration import OutgoingMigration
from deployer.protocol.save import SaveStatus
from deployer.records.formats import read_record, write_record
from signer.documents import Document, canonical, read_json, validate
from signer.errors import DocumentError
from signer.runtime import files

RECORD = "machine.json"
CONSOLE_FILE = "console.log"
MEMORY_FILE = "memory"
_REMOVED = ".removed-"
_HOLDER = "machine:"


class MachineOrigin(Document):
    """Where a machine was before it was brought here.

    Attributes:
        node: the site's UUID of the node.
        receipt: SHA-256 of the receipt that it had there, or empty.
    """

    node: Uuid
    receipt: str = ""


class MachineRecord(MachineProperties):
    """A node's record of one machine.

    Attributes:
        uuid, name, hostname: its identity, its name in lists, and what the guest is told it is called.
        image_id, title: what it runs.
        state, reason: where it is in its life, and why (a sentence or empty).
        created, changed, expires: instants, UTC, in whole seconds; when it expires, the node ends it.
        virt: the accelerator that it got.
        policy: digest of the policy that accepted it.
        from_network, from_cache, written: bytes that were transferred for it, found on the node, written to assemble it.
        spec: what the hypervisor was told; absent before the machine is put together.
        user_data: the kind of what its requester gave to its first boot, or empty.
        pause_reason: why the node itself paused it, or empty; it goes on only if the policy accepts it again.
        reboots: that were done on request.
        site, deployment, role: whose it is and what it belongs to there; empty for a local order.
        desired: how its site last wanted it, as far as that was acted upon.
        saved: what came of the last save that its site wanted.
        outgoing: the node that it is being given to; it rests until its site says otherwise.
        incoming: the migration by which it was brought here, while its site has not said that it is this node's.
        origin: where it was before, if it was brought here.
    """

    uuid: Uuid
    name: str
    hostname: str
    image_id: str
    title: str
    state: MachineState
    reason: str = ""
    created: datetime
    changed: datetime
    expires: datetime
    virt: str
    policy: str
    from_network: int = 0
    from_cache: int = 0
    written: int = 0
    spec: MachineSpec | None = None
    user_data: str = ""
    pause_reason: str = ""
    reboots: int = 0
    site: str = ""
    deployment: str = ""
    role: str = ""
    desired: str = ""
    saved: SaveStatus | None = None
    outgoing: OutgoingMigration | None = None
    incoming: int | None = None
    origin: MachineOrigin | None = None

    @property
    def locked(self) -> str:
        """Why it may neither run nor lose its memory, as the end of a sentence; empty if it may."""
        if self.outgoing is not None:
            return "is migrating to another node"
        return "was brought here, and its site has not said yet that it stays" if self.incoming is not None else ""

    @property
    def holder(self) -> str:
        """The holder of the leases on this machine's contents."""
        return holder_of(self.uuid)


def holder_of(uuid: str) -> str:
    """The holder of a machine's leases in the cache."""
    return _HOLDER + uuid


def is_holder(text: str) -> bool:
    """Whether a holder of leases is a machine."""
    return text.startswith(_HOLDER)


class MachineStore:
    """All records of a node. Safe to use from several threads; one process owns the directory."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = threading.RLock()
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._records: dict[str, MachineRecord] = {}
        self.broken: tuple[str, ...] = ()
        """Directories without a usable record, found at the start: a machine was being made or removed when all ended."""
        broken = []
        for entry in sorted(root.iterdir()):
            if entry.name.startswith(_REMOVED):
                shutil.rmtree(entry, ignore_errors=True)
                continue
            try:
                what, data = str(entry / RECORD), (entry / RECORD).read_bytes()
                record = validate(MachineRecord, read_record(read_json(data, what), what), what)
                self._records[record.uuid] = record
            except (OSError, DocumentError):
                broken.append(entry.name)
        self.broken = tuple(broken)

    def directory(self, uuid: str) -> Path:
        """Where a machine's files are."""
        return self._root / uuid

    def console(self, uuid: str) -> Path:
        """The file with the guest's console output."""
        return self._root / uuid / CONSOLE_FILE

    def memory(self, uuid: str) -> Path:
        """The file that holds a suspended machine's memory."""
        return self._root / uuid / MEMORY_FILE

    def untouched(self, uuid: str) -> bool:
        """Whether no disk was written since the machine's memory was saved; with another disk it would be ruinous."""
        try:
            saved = self.memory(uuid).stat().st_mtime_ns
            return all(path.stat().st_mtime_ns <= saved for path in self.directory(uuid).glob("disk*.qcow2"))
        except FileNotFoundError:
            return False

    def add(self, record: MachineRecord) -> Path:
        """Begin a machine: its directory and its record."""
        directory = self.directory(record.uuid)
        directory.mkdir(mode=0o700)
        self.save(record)
        return directory

    def save(self, record: MachineRecord) -> None:
        """Replace a record, durably."""
        with self._lock:
            files.write(self.directory(record.uuid) / RECORD, canonical(write_record(record)))
            self._records[record.uuid] = record

    def change(self, uuid: str, now: datetime, **values: object) -> MachineRecord | None:
        """Save a record with some values replaced; None if the machine was removed."""
        with self._lock:
            record = self._records.get(uuid)
            if record is None:
                return None
            record = record.model_copy(update={**values, "changed": now})
            self.save(record)
            return record

    def get(self, uuid: str) -> MachineRecord:
        """One record; MachineNotFound if it does not exist."""
        with self._lock:
            try:
                return self._records[uuid]
            except KeyError:
                raise MachineNotFound(f"no such machine on this node: {uuid}; see `partita machine list`") from None

    def find(self, text: str) -> MachineRecord:
        """The machine that a person means: its UUID, the unique beginning of one, or its name."""
        with self._lock:
            matches = [
                record
                for record in self._records.values()
                if record.name == text or record.hostname == text or (len(text) >= 4 and record.uuid.startswith(text))
            ]
        if len(matches) > 1:
            raise Misused(f"{text!r} means {len(matches)} machines; give more of the UUID")
        return matches[0] if matches else self.get(text)

    def all(self) -> list[MachineRecord]:
        """Every record, the oldest first."""
        with self._lock:
            return sorted(self._records.values(), key=lambda record: record.created)

    def strip(self, uuid: str) -> None:
        """Remove what a machine boots from; record and console stay."""
        for path in self._files(uuid):
            if path.name not in {RECORD, CONSOLE_FILE}:
                path.unlink(missing_ok=True)

    def remove(self, uuid: str) -> None:
        """Remove a machine's directory; one that is not there is removed already."""
        with self._lock:
            self._records.pop(uuid, None)
            gone = self._root / (_REMOVED + uuid)
            try:
                self.directory(uuid).rename(gone)
            except FileNotFoundError:
                return
        shutil.rmtree(gone, ignore_errors=True)

    def _files(self, uuid: str) -> Iterable[Path]:
        try:
            return list(self.directory(uuid).iterdir())
        except FileNotFoundError:
            return []
