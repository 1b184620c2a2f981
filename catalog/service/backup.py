"""Backups of a service: a consistent copy of its database and the files that cannot be made again, in one private tar.

The tar holds `backup.json` (the kind of service, and the SHA-256 of every other member), the database, and the files below
`files/`. It holds private keys: only its owner may read it, and it must be stored as safely as keys. A service may run while
it is backed up. Restoring is all or nothing, and overwrites nothing.
"""

import hashlib
import io
import os
import shutil
import sqlite3
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import Field

from catalog.errors import Conflict, Malformed, NotFound, Unavailable
from signer.documents import Document, canonical, parse
from signer.errors import DocumentError
from signer.runtime.files import writing
from signer.statements.endorsement import Instant

CONTENTS = "backup.json"
DATABASE = "database"
FILES = "files/"
MAX_CONTENTS = 1 << 20
MAX_FILE = 64 << 20
"""Bytes of one file beside the database: keys, certificates, metadata, an audit log."""

CHUNK = 1 << 20

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class BackupContents(Document):
    """The description of a backup.

    Attributes:
        kind: of the service.
        made: when it was made.
        engine: of the service's database.
        members: the SHA-256 of every other member, by name.
    """

    version: Literal[1] = 1
    kind: Literal["catalog", "site"]
    made: Instant
    engine: Literal["sqlite", "postgresql"]
    members: dict[str, Sha256]


def write_backup(
    path: Path, kind: Literal["catalog", "site"], engine: Literal["sqlite", "postgresql"],
    dump: Callable[[Path], None], files: Iterable[Path], root: Path, now: datetime,
) -> BackupContents:  # fmt: skip
    """Write a backup; a failure leaves no file.

    Args:
        path: of the tar; must not exist.
        kind, engine: of the service and its database.
        dump: writes the database to a file.
        files: below `root`; missing ones are left out.
        root: the service's directory.
        now: the time.

    Raises:
        Conflict: the tar exists.
        Unavailable: it cannot be written, or the database cannot be read.
    """
    if path.exists():
        raise Conflict(f"{path}: exists; name another file")
    try:
        with tempfile.TemporaryDirectory(prefix=".backup-", dir=path.parent) as scratch:
            database = Path(scratch) / DATABASE
            dump(database)
            found = {DATABASE: database}
            found |= {f"{FILES}{file.relative_to(root)}": file for file in sorted(files) if file.is_file()}
            backup = BackupContents(
                kind=kind, made=now, engine=engine, members={name: _digest(file) for name, file in found.items()}
            )
            with writing(path, mode=0o600) as out, tarfile.open(fileobj=out, mode="w|gz") as tar:
                text = canonical(backup)
                tar.addfile(_member(CONTENTS, len(text), now), io.BytesIO(text))
                for name, file in found.items():
                    with file.open("rb") as source:
                        tar.addfile(_member(name, os.fstat(source.fileno()).st_size, now), source)
    except OSError as exc:
        raise Unavailable(f"{path}: the backup cannot be written: {exc.strerror or exc}") from exc
    return backup


@contextmanager
def restore_backup(path: Path, kind: Literal["catalog", "site"], root: Path) -> Iterator[tuple[BackupContents, Path]]:
    """Unpack and verify a backup, and move its files into the service's directory when the block ends well.

    Yields:
        Its description, and the file of its database, which the block moves into place itself.

    Raises:
        NotFound: there is no such file.
        Malformed: it is not a backup of that kind, or is damaged.
        Conflict: a file that would be restored exists.
        Unavailable: it cannot be read or written.
    """
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".restore-", dir=root) as name:
            scratch = Path(name)
            backup = _unpack(path, scratch)
            if backup.kind != kind:
                raise Malformed(f"{path}: the backup of a {backup.kind}, not of a {kind}")
            targets = {
                scratch / member: root / member.removeprefix(FILES)
                for member in backup.members
                if member.startswith(FILES)
            }
            for target in targets.values():
                if target.exists():
                    raise Conflict(f"{target}: exists; restore into a directory that no service has used")
            yield backup, scratch / DATABASE
            for source, target in targets.items():
                target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                source.replace(target)
    except FileNotFoundError as exc:
        raise NotFound(f"{path}: backup not found") from exc
    except OSError as exc:
        raise Unavailable(f"{path}: cannot be restored: {exc.strerror or exc}") from exc


def dump_sqlite(source: Path) -> Callable[[Path], None]:
    """A dump function of a SQLite database: a consistent copy, even while a service writes (SQLite's online backup API)."""

    def dump(target: Path) -> None:
        try:
            with (
                closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True)) as there,
                closing(sqlite3.connect(target)) as here,
            ):
                there.backup(here)
        except sqlite3.Error as exc:
            raise Unavailable(f"{source}: the database cannot be read: {exc}") from exc

    return dump


def restore_sqlite(dumped: Path, target: Path) -> None:
    """Move a dumped SQLite database to where its service expects it; Conflict if one exists."""
    if target.exists():
        raise Conflict(f"{target}: exists; restore into a directory that no service has used")
    dumped.chmod(0o600)
    dumped.replace(target)


def _unpack(path: Path, scratch: Path) -> BackupContents:
    """Unpack the members that the description lists, and no others, and verify each."""
    try:
        with tarfile.open(path, mode="r|gz") as tar:
            backup: BackupContents | None = None
            missing: set[str] = set()
            for member in tar:
                source = tar.extractfile(member) if member.isreg() else None
                if source is None:
                    raise Malformed(f"{path}: not a backup: {member.name[:200]!r} is not a regular file")
                if backup is None:
                    if member.name != CONTENTS or member.size > MAX_CONTENTS:
                        raise Malformed(f"{path}: not a backup: it does not begin with {CONTENTS}")
                    backup = parse(BackupContents, source.read(), str(path), limit=MAX_CONTENTS)
                    missing = set(backup.members)
                    continue
                if member.name not in missing or not _sound(member):
                    raise Malformed(
                        f"{path}: {CONTENTS} does not list {member.name[:200]!r}, or its path or size is not allowed"
                    )
                missing.remove(member.name)
                target = scratch / member.name
                target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
                    shutil.copyfileobj(source, out, CHUNK)
                if _digest(target) != backup.members[member.name]:
                    raise Malformed(f"{path}: {member.name} is damaged; use another backup")
    except (tarfile.TarError, EOFError, DocumentError) as exc:
        raise Malformed(f"{path}: not a backup, or a damaged one: {exc}") from exc
    if backup is None or missing:
        raise Malformed(f"{path}: incomplete backup: {', '.join(sorted(missing)) or 'every member'} is missing")
    return backup


def _sound(member: tarfile.TarInfo) -> bool:
    parts = PurePosixPath(member.name).parts
    if member.name == DATABASE:
        return True
    return member.name.startswith(FILES) and ".." not in parts and len(parts) > 1 and member.size <= MAX_FILE


def _member(name: str, size: int, now: datetime) -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    found.size, found.mode, found.mtime = size, 0o600, int(now.timestamp())
    return found


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
