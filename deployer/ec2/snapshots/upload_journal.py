"""The journal of an upload, on disk: after a crash the upload resumes and sends nothing twice.

A text file: the heading (JSON), `snapshot ID` once AWS has given one, `block NUMBER SHA256` for each block that AWS has
acknowledged. Every line is synced before anything depends on it, many workers' lines together; a line that a crash
truncated is removed. One process has a journal at a time.
"""

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field

from deployer.ec2.errors import Ec2RecordsUnusable
from signer.documents import Document, canonical, parse
from signer.errors import DocumentError
from signer.runtime import files

MAX_HEADING = 4096
"""Bytes."""

_SNAPSHOT = re.compile(rb"snapshot (snap-[0-9a-f]{8,40})")
_BLOCK = re.compile(rb"block (0|[1-9][0-9]{0,8}) ([0-9a-f]{64})")


class JournalHeader(Document):
    """The heading of a journal.

    Attributes:
        content: the disk's content key.
        parent: the snapshot that it builds on, or empty.
        token: the client token of StartSnapshot: repeated requests with it start one snapshot.
    """

    content: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    parent: str = ""
    token: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class UploadJournal:
    """One open journal; for any number of threads, closed by `close` or at the end of a `with` block.

    Attributes:
        heading: of the upload under way; None if there is none.
        snapshot_id: AWS's name of the snapshot, or empty.
        blocks: the blocks that AWS has acknowledged: SHA-256 by number.
    """

    def __init__(self, path: Path) -> None:
        """Open or create a journal; waits while another process has it.

        Raises:
            Ec2RecordsUnusable: it cannot be read or written.
        """
        self.path = path
        self.heading: JournalHeader | None = None
        self.snapshot_id = ""
        self.blocks: dict[int, bytes] = {}
        self._writing, self._syncing = threading.Lock(), threading.Lock()
        self._written = self._synced = 0
        with self._kept():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._file = self._own()
            self._recall()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the journal for the next process."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def forget(self) -> None:
        """Empty the journal: its upload is abandoned."""
        with self._kept():
            os.ftruncate(self._file, 0)
            os.fsync(self._file)
        self.heading, self.snapshot_id, self.blocks = None, "", {}

    def begin(self, heading: JournalHeader) -> None:
        """Empty the journal and write the heading of a new upload."""
        self.forget()
        self.heading = heading
        self._append(canonical(heading))
        with self._kept():  # a file whose name is lost in a power cut is as good as none
            files.sync_path(self.path.parent)

    def started(self, snapshot_id: str) -> None:
        """Note the snapshot that AWS has started."""
        self.snapshot_id = snapshot_id
        self._append(b"snapshot " + snapshot_id.encode())

    def sent(self, index: int, digest: bytes) -> None:
        """Note a block that AWS has acknowledged. Returns once the note would survive a crash."""
        self._append(b"block %d %s" % (index, digest.hex().encode()))
        self.blocks[index] = digest

    def finish(self) -> None:
        """Remove and close the journal: its upload is recorded elsewhere."""
        with self._kept():
            self.path.unlink(missing_ok=True)
        self.close()

    def _own(self) -> int:
        """Open and lock the file; opened again if `finish` of another process has removed it meanwhile."""
        while True:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            files.lock_open(file, wait=True)
            try:
                if os.path.samestat(os.fstat(file), os.stat(self.path)):  # noqa: PTH116 - beside fstat
                    return file
            except FileNotFoundError:
                pass
            os.close(file)

    def _recall(self) -> None:
        data = self.path.read_bytes()
        whole = 0
        for number, line in enumerate(data.split(b"\n")[:-1]):  # the text after the last newline is incomplete
            if not self._take(number, line):
                break
            whole += len(line) + 1
        if whole < len(data):
            os.ftruncate(self._file, whole)
            os.fsync(self._file)

    def _take(self, number: int, line: bytes) -> bool:
        """Read a line; False if it is invalid at its place."""
        if number == 0:
            try:
                self.heading = parse(JournalHeader, line, str(self.path), limit=MAX_HEADING)
            except DocumentError:
                return False
            return True
        if number == 1:
            started = _SNAPSHOT.fullmatch(line)
            self.snapshot_id = started[1].decode() if started else ""
            return started is not None
        if block := _BLOCK.fullmatch(line):
            self.blocks[int(block[1])] = bytes.fromhex(block[2].decode())
        return block is not None

    def _append(self, line: bytes) -> None:
        with self._kept():
            with self._writing:
                os.write(self._file, line + b"\n")
                self._written += 1
                mine = self._written
            with self._syncing:  # the first thread here syncs the lines of all that have written meanwhile
                if self._synced < mine:
                    with self._writing:
                        upto = self._written
                    os.fdatasync(self._file)
                    self._synced = upto

    @contextmanager
    def _kept(self) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            raise Ec2RecordsUnusable(
                f"{self.path}: the upload's journal cannot be read or written: {exc.strerror}"
            ) from exc
