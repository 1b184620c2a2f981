"""The site's own books of the images that it registered and the machines that it started at EC2.

Tags at EC2 can be changed by anyone with access to the account. So an AMI is used only if it is listed here, and EC2
describes it as it was registered (`snapshots.record_store` does the same for snapshots). And the books know which machines
were started: one that EC2 has forgotten is not started again. An entry is written before its resource is made, and completed
afterwards. One SQLite file for a site's pools.
"""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import AliasChoices, Field

from catalog.image.manifest import ImageId
from deployer.ec2.errors import Ec2RecordsUnusable
from deployer.machine.spec import Uuid
from signer.documents import Document, canonical, parse
from signer.errors import DocumentError
from signer.statements.endorsement import Instant

WAIT = 30.0
"""Seconds that a writer waits for another process."""

D = TypeVar("D", bound=Document)


class AmiEntry(Document):
    """An AMI.

    Attributes:
        key: identifies its content; see `ami_registrar.image_key`.
        name: under which it is registered.
        image_id, title: of the image.
        ami: its ID, once it is registered.
        contents: the content key of each volume that begins with bytes, by device.
        addresses: of the image's contents.
        used: when a machine was last begun with it.
    """

    key: str
    name: str
    image_id: ImageId
    title: str
    ami: str = ""
    contents: dict[str, str]
    addresses: tuple[str, ...] = ()
    at: Instant
    used: Instant


class MachineEntry(Document):
    """A machine that was started, and the basis of its cost.

    Attributes:
        ami: the AMI that it starts from; empty until right before its start.
        instance: its ID at EC2, once that is known.
        expires: when it expires; of a machine that has ended, when it ended. Books of 0.1 call it `until`.
        ended: whether it has ended.
        receipt: SHA-256 of the receipt that it was started with.
    """

    machine: Uuid
    deployment: Uuid
    image_id: ImageId
    ami: str = ""
    instance: str = ""
    instance_type: str
    gib: int
    began: Instant
    expires: Annotated[Instant, Field(validation_alias=AliasChoices("expires", "until"))]
    ended: bool = False
    reason: str = ""
    receipt: str = ""


class Bookkeeping:
    """The books of one account. Safe to use from several threads and processes.

    Args:
        path: the SQLite file; made if it does not exist.
        account: whose books; those of other accounts in the same file stay separate.
    """

    def __init__(self, path: Path, account: str) -> None:
        self._account = account
        self._lock = threading.RLock()
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.touch(mode=0o600)
            self._connection = sqlite3.connect(path, timeout=WAIT, isolation_level=None, check_same_thread=False)
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=FULL")
            self._connection.execute(
                "CREATE TABLE IF NOT EXISTS entries (account TEXT, kind TEXT, key TEXT, document BLOB NOT NULL, "
                "PRIMARY KEY (account, kind, key)) WITHOUT ROWID"
            )
        except (OSError, sqlite3.Error) as exc:
            raise Ec2RecordsUnusable(f"{path}: the books of machines at EC2 cannot be opened: {exc}") from exc
        self._path = path

    def close(self) -> None:
        """Close the file."""
        with self._lock, suppress(sqlite3.Error):
            self._connection.close()

    def put_image(self, entry: AmiEntry) -> None:
        """Store the entry of an AMI, registered or about to be."""
        self._put("image", entry.key, entry)

    def image(self, key: str) -> AmiEntry | None:
        """The entry of an AMI by its key."""
        return self._get("image", key, AmiEntry)

    def images(self) -> list[AmiEntry]:
        """All AMIs."""
        return self._all("image", AmiEntry)

    def put_machine(self, entry: MachineEntry) -> None:
        """Store the entry of a machine."""
        self._put("machine", entry.machine, entry)

    def update_machine(self, uuid: str, **values: object) -> None:
        """Change fields of a machine's entry; a machine without an entry stays without one."""
        with self.booking():
            entry = self.machine(uuid)
            if entry is not None:
                self.put_machine(entry.model_copy(update=values))

    def machine(self, uuid: str) -> MachineEntry | None:
        """One machine."""
        return self._get("machine", uuid, MachineEntry)

    def machines(self) -> list[MachineEntry]:
        """The machines that were ever started and are not forgotten."""
        return self._all("machine", MachineEntry)

    def forget(self, kind: str, key: str) -> None:
        """Remove an entry, if there is one."""
        with self.booking():
            self._connection.execute(
                "DELETE FROM entries WHERE account = ? AND kind = ? AND key = ?", (self._account, kind, key)
            )

    def tidy(self, before: datetime) -> None:
        """Forget machines that ended before that instant."""
        for entry in self.machines():
            if entry.ended and entry.expires < before:
                self.forget("machine", entry.machine)

    @contextmanager
    def booking(self) -> Iterator[None]:
        """Read and write in one transaction, so that two requests never both spend the same rest of a budget."""
        with self._lock:
            if self._connection.in_transaction:
                yield
                return
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                try:
                    yield
                except BaseException:
                    self._connection.execute("ROLLBACK")
                    raise
                self._connection.execute("COMMIT")
            except sqlite3.Error as exc:
                raise Ec2RecordsUnusable(
                    f"{self._path}: the books of machines at EC2 cannot be written: {exc}"
                ) from exc

    def _put(self, kind: str, key: str, document: Document) -> None:
        with self.booking():
            self._connection.execute(
                "INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?)", (self._account, kind, key, canonical(document))
            )

    def _get(self, kind: str, key: str, model: type[D]) -> D | None:
        found = self._rows(
            "SELECT document FROM entries WHERE account = ? AND kind = ? AND key = ?", (self._account, kind, key)
        )
        return self._read(model, found[0]) if found else None

    def _all(self, kind: str, model: type[D]) -> list[D]:
        found = self._rows(
            "SELECT document FROM entries WHERE account = ? AND kind = ? ORDER BY key", (self._account, kind)
        )
        return [self._read(model, row) for row in found]

    def _rows(self, query: str, values: tuple[str, ...]) -> list[bytes]:
        with self._lock:
            try:
                return [row[0] for row in self._connection.execute(query, values)]
            except sqlite3.Error as exc:
                raise Ec2RecordsUnusable(f"{self._path}: the books of machines at EC2 cannot be read: {exc}") from exc

    def _read(self, model: type[D], data: bytes) -> D:
        try:
            return parse(model, data, f"an entry of {self._path}")
        except DocumentError as exc:
            raise Ec2RecordsUnusable(str(exc)) from exc
