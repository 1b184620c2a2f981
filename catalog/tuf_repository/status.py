"""The status of a catalog's TUF repository: keys and dates of each role, warnings for operators, and checks at start."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from catalog.db.engine import CatalogDatabase, Transaction
from catalog.errors import Misused
from catalog.tuf.keys import key_files, load_key
from catalog.tuf.metadata import BINS, LIFETIMES, ONLINE, ROLES, ROOT, TARGETS, MetadataSigner, SignedMetadata
from catalog.tuf_repository import store
from catalog.tuf_repository.repository import MIRRORED, TufRepository

log = logging.getLogger("partita.catalog")


@dataclass(frozen=True)
class TufRoleStatus:
    """The status of a role's metadata.

    Attributes:
        role: its name; `bins` stands for all bins.
        version, expires: of its newest metadata; for bins, of the oldest in force.
        due: when half of its lifetime has passed, and it should be renewed. The service renews online roles.
        keys, threshold: the keys that may sign, and how many must.
        present: those of the keys that are in the catalog's own directories.
    """

    role: str
    version: int
    expires: datetime
    due: datetime
    keys: tuple[str, ...]
    threshold: int
    present: tuple[str, ...]


def list_role_statuses(repository: TufRepository, connection: Transaction) -> Sequence[TufRoleStatus]:
    """The status of every role."""
    epoch = repository.epoch(connection)
    root, targets = (SignedMetadata.of(repository.latest(connection, role).data) for role in (ROOT, TARGETS))
    here = {MetadataSigner(load_key(path)).id for path in key_files(repository.online)}
    here |= {
        key
        for path in key_files(repository.offline)
        for key in root.keys[ROOT] + root.keys[TARGETS]
        if key[:12] in path.name
    }
    keys = {**root.keys, **targets.keys}
    thresholds = {**root.thresholds, **targets.thresholds}
    found = []
    for role in ROLES:
        if role == BINS:
            version, made, expires = epoch.epoch, epoch.begun, epoch.begun + LIFETIMES[BINS]
        else:
            newest = repository.latest(connection, role)
            version, made, expires = newest.version, newest.made, newest.expires
        present = tuple(key for key in keys[role] if key in here)
        due = made + (expires - made) / 2
        found.append(TufRoleStatus(role, version, expires, due, keys[role], thresholds[role], present))
    return found


def list_warnings(repository: TufRepository, connection: Transaction, now: datetime) -> Sequence[str]:
    """What an operator should act on, in sentences, well before sites stop starting machines."""
    found, roles = [], list_role_statuses(repository, connection)
    for one in roles:
        if one.expires <= now:
            found.append(f"{one.role} metadata expired on {one.expires:%Y-%m-%d %H:%M}: no site starts machines")
        elif one.due <= now and one.role in {ROOT, TARGETS}:
            found.append(
                f"{one.role} metadata expires on {one.expires:%Y-%m-%d}: renew it with `partita catalog tuf sign {one.role}`"
            )
        if one.role in ONLINE and len(one.present) < one.threshold:
            found.append(f"the key that signs {one.role} is missing from {repository.online}: publishing is impossible")
    if any(one.role == ROOT and len(one.present) >= one.threshold for one in roles):
        found.append(f"the root keys are in {repository.offline}: move them to media that are kept offline")
    return found


def prepare_repository(repository: TufRepository, database: CatalogDatabase, bits: int, now: datetime) -> bool:
    """Create the repository if there is none; otherwise list what is missing and renew what is due. For a service's start.

    Returns:
        Whether the repository was created, with the offline keys still beside the service.
    """
    with database.writing() as connection:
        epoch = store.current_epoch(connection)
        if epoch is not None and epoch.epoch == MIRRORED:
            raise Misused(
                f"{repository.directory.parent}: the directory of a mirror; use it with `partita catalog mirror`"
            )
        if epoch is None:
            repository.create(connection, now, bits=bits)
            log.warning(
                "TUF repository created. Move the keys in %s to media that are kept offline, one root key on each; "
                "sites pin %s",
                repository.offline,
                repository.root_file,
            )
            return True
        repository.sync(connection, now)
        repository.renew(connection, now)
        for one in list_warnings(repository, connection, now):
            log.warning("%s", one)
    return False
