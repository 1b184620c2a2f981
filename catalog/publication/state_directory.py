"""A catalog's state on disk: the database and the contents in one directory, recovered when a service opens it.

The service may die at any moment. Everything acknowledged is in the database, and the files that it names exist; any other
file is a known leftover and deleted, is adopted after it was hashed again, or is put into quarantine.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from catalog.content import indexing
from catalog.content.content_store import ACCELERATORS, ContentStore
from catalog.db import publications
from catalog.db.engine import CatalogDatabase
from catalog.errors import CatalogError, ContentMismatch, Malformed, Misused, NotFound, Unavailable
from catalog.image.address import Address
from catalog.publication.history import History
from catalog.publication.images import PublicationService
from catalog.settings import CatalogSettings
from catalog.tuf_repository.status import prepare_repository
from signer.runtime import files
from signer.runtime.progress import Advance, ignore_progress


@dataclass
class RecoveryReport:
    """What a recovery, or a check, found.

    Attributes:
        adopted: contents that were whole on disk and not yet in the database.
        repaired: contents whose accelerators were made again.
        lost: contents that the database names and that are missing from the disk, or altered.
        quarantined: unexplained files.
        removed: leftovers of uploads that were never acknowledged, or are no longer needed.
        checked: contents that were read again and found intact (a check only).
    """

    adopted: list[str] = field(default_factory=list)
    repaired: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    quarantined: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    checked: list[str] = field(default_factory=list)


def open_database(directory: Path) -> CatalogDatabase:
    """Open the catalog's database in that directory, which is made if absent; several processes may have it open."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise Misused(f"{directory}: cannot be made ({exc.strerror}); name another directory") from exc
    return CatalogDatabase(directory / "catalog.db")


@contextmanager
def own_directory(
    directory: Path, settings: CatalogSettings, now: datetime, *, mirror: bool = False
) -> Iterator[tuple[PublicationService, RecoveryReport]]:
    """Lock the directory for one service, and recover it. A mirror does not sign its TUF metadata, and so makes none.

    Raises:
        Unavailable: another service has locked it.
    """
    with ExitStack() as undo:
        database = undo.enter_context(open_database(directory))
        try:
            undo.enter_context(files.locked(directory / "lock"))
        except files.LockHeld as exc:
            raise Unavailable(
                f"{directory}: another catalog serves it ({exc.strerror}); stop that one, or name another directory"
            ) from exc
        history = undo.enter_context(History(directory, now))
        publishing = PublicationService(database, ContentStore(directory), settings, history)
        recovery = recover_catalog(publishing, now)
        if not mirror:
            prepare_repository(publishing.repository, database, settings.tuf_bits, now)
        yield publishing, recovery


def recover_catalog(publishing: PublicationService, now: datetime) -> RecoveryReport:
    """Make files and database agree after any death of the service."""
    database, contents = publishing.database, publishing.contents
    report = RecoveryReport()
    with database.reading() as connection:
        known = set(publications.all_contents(connection))
    for address in sorted(known):
        if not contents.is_whole(address):
            _mend(publishing, address, report)
    for found, path in list(contents.files()):
        if found is None:
            _tidy(contents, path, report)
        elif found not in known:
            _adopt(publishing, found, now, report)
    _recover_uploads(publishing, report)
    publishing.expire(now)
    return report


def check_contents(directory: Path, advance: Advance = ignore_progress) -> RecoveryReport:
    """Read every content again and compare; changes nothing, and may run while the service runs."""
    contents, report = ContentStore(directory), RecoveryReport()
    with open_database(directory) as database:
        with database.reading() as connection:
            known = set(publications.all_contents(connection))
            missing = {
                address
                for image_id in publications.list_published(connection)
                for address in publications.missing_contents(connection, image_id)
            }
        report.lost += [str(address) for address in sorted(missing)]
        for address in sorted(known):
            try:
                measured = indexing.verify_content(contents.path(address), address, advance)
            except CatalogError:  # missing, altered, or not a file
                report.lost.append(str(address))
                continue
            expected = zip(ACCELERATORS, (measured.data_map, measured.layer, measured.hints), strict=True)
            intact = contents.is_whole(address) and all(
                contents.accelerator(address, kind) == data for kind, data in expected
            )
            (report.checked if intact else report.lost).append(str(address))
        for found, path in contents.files():
            if found not in known:
                with database.reading() as connection:  # the service may just have completed it
                    if found is None or not publications.has_content(connection, found):
                        report.quarantined.append(str(path))
    return report


def _mend(publishing: PublicationService, address: Address, report: RecoveryReport) -> None:
    path = publishing.contents.path(address)
    try:
        publishing.contents.enter(path, address)
    except (ContentMismatch, Malformed, NotFound, FileNotFoundError):
        if path.is_file():
            report.quarantined.append(str(publishing.contents.quarantine(path)))
        publishing.contents.remove(address)
        with publishing.database.writing() as connection:
            publications.drop_content(connection, address)
        report.lost.append(str(address))
    else:
        report.repaired.append(str(address))


def _tidy(contents: ContentStore, path: Path, report: RecoveryReport) -> None:
    ours = path.suffix == ".new" or path.suffix.removeprefix(".") in ACCELERATORS
    if ours and path.is_file():
        path.unlink()
        report.removed.append(str(path))
    else:
        report.quarantined.append(str(contents.quarantine(path)))


def _adopt(publishing: PublicationService, address: Address, now: datetime, report: RecoveryReport) -> None:
    """The service died between the rename and the database: keep the content if an image needs it and it is intact."""
    with publishing.database.reading() as connection:
        wanted = publications.is_referenced(connection, address)
    if not wanted:
        publishing.contents.remove(address)
        report.removed.append(str(address))
        return
    path = publishing.contents.path(address)
    try:
        measured = publishing.contents.enter(path, address)
    except (ContentMismatch, Malformed):
        report.quarantined.append(str(publishing.contents.quarantine(path)))
        publishing.contents.remove(address)
        return
    with publishing.database.writing() as connection:
        publications.add_content(connection, address, measured.data_bytes, now)
    report.adopted.append(str(address))


def _recover_uploads(publishing: PublicationService, report: RecoveryReport) -> None:
    with publishing.database.writing() as connection:
        wanted = {
            publishing.uploads.path(image_id, address)
            for image_id in publications.list_pending(connection)
            for address in publications.missing_contents(connection, image_id)
        }
        for _, path in list(publishing.uploads.files()):
            if path not in wanted:
                path.unlink()
                report.removed.append(str(path))
        for image_id, address in publications.list_uploads(connection):
            if not publishing.uploads.path(image_id, address).is_file():
                publications.drop_ranges(connection, image_id, address)
                report.lost.append(f"{address} of {image_id}, still arriving")
    publishing.uploads.tidy()
