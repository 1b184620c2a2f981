"""How a catalog's freshness is doing: each role's keys and dates, what an operator should do, and what a start puts right."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from catalog.db.engine import CatalogDatabase, Transaction
from catalog.errors import Misused
from catalog.tuf import keys as tuf_keys
from catalog.tuf.metadata import (
    BINS,
    LIFETIMES,
    ONLINE,
    ROOT,
    SNAPSHOT,
    TARGETS,
    TIMESTAMP,
    MetadataSigner,
    SignedMetadata,
)
from catalog.tuf_repository import store as tuf_store
from catalog.tuf_repository.repository import MIRRORED, TufRepository

log = logging.getLogger("partita.catalog")


@dataclass(frozen=True)
class TufRoleStatus:
    """How a role's metadata is doing.

    Attributes:
        role: its name; `bins` stands for all of them.
        version, expires: of its newest metadata; for bins, of the oldest that is in force.
        due: from when on it should be renewed: half of its lifetime has passed. Online roles are renewed by the service.
        keys, threshold: who may sign, and how many must.
        present: the keys of these that lie in the catalog's own directories.
    """

    role: str
    version: int
    expires: datetime
    due: datetime
    keys: tuple[str, ...]
    threshold: int
    present: tuple[str, ...]


def list_role_statuses(freshness: TufRepository, connection: Transaction) -> Sequence[TufRoleStatus]:
    """How all roles are doing."""
    epoch = freshness.sealing.epoch(connection)
    root, targets = (SignedMetadata.of(freshness.sealing.latest(connection, role).data) for role in (ROOT, TARGETS))
    here = {MetadataSigner(tuf_keys.load_key(path)).id for path in tuf_keys.key_files(freshness.online)}
    here |= {
        key
        for path in tuf_keys.key_files(freshness.offline)
        for key in root.keys[ROOT] + root.keys[TARGETS]
        if key[:12] in path.name
    }
    keys = {**root.keys, **targets.keys}
    thresholds = {**root.thresholds, **targets.thresholds}
    found = []
    for role in (ROOT, TARGETS, SNAPSHOT, TIMESTAMP, BINS):
        if role == BINS:
            version, made, expires = epoch.epoch, epoch.begun, epoch.begun + LIFETIMES[BINS]
        else:
            newest = freshness.sealing.latest(connection, role)
            version, made, expires = newest.version, newest.made, newest.expires
        present = tuple(key for key in keys[role] if key in here)
        due = made + (expires - made) / 2
        found.append(TufRoleStatus(role, version, expires, due, keys[role], thresholds[role], present))
    return found


def list_warnings(freshness: TufRepository, connection: Transaction, now: datetime) -> Sequence[str]:
    """What an operator should do something about, well before sites stop: sentences."""
    found = []
    for one in list_role_statuses(freshness, connection):
        if one.expires <= now:
            found.append(f"{one.role} metadata has expired on {one.expires:%Y-%m-%d %H:%M}: no site starts machines")
        elif one.due <= now and one.role in {ROOT, TARGETS}:
            found.append(
                f"{one.role} metadata expires on {one.expires:%Y-%m-%d}: sign it afresh with `partita catalog tuf sign "
                f"{one.role}`"
            )
        if one.role in ONLINE and len(one.present) < one.threshold:
            found.append(f"the key that signs {one.role} is not in {freshness.online}: nothing can be published")
    if any(one.role == ROOT and len(one.present) >= one.threshold for one in list_role_statuses(freshness, connection)):
        found.append(f"the root's keys are in {freshness.offline}: move them to media that are kept offline")
    return found


def prepare_repository(freshness: TufRepository, database: CatalogDatabase, bits: int, now: datetime) -> bool:
    """What a service does when it starts: make a repository if there is none, list what is not listed, renew what is due.

    Returns:
        Whether the repository was made now, with the offline keys still beside the service.
    """
    with database.writing() as connection:
        epoch = tuf_store.current_epoch(connection)
        if epoch is not None and epoch.epoch == MIRRORED:
            raise Misused(f"{freshness.directory.parent}: holds a mirror; run `partita catalog mirror` on it")
        if epoch is None:
            freshness.make(connection, now, bits=bits)
            log.warning(
                "the catalog's TUF repository was made. Move %s to media that are kept offline, one root key each; "
                "sites pin %s",
                freshness.offline,
                freshness.root_file,
            )
            return True
        freshness.sync(connection, now)
        freshness.renew(connection, now)
        for one in list_warnings(freshness, connection, now):
            log.warning("%s", one)
    return False
