"""Signing with a catalog's online keys: bins of targets, the snapshot of all bins, and the timestamp of the snapshot.

An empty bin is not stored: it is made on request, and is the same each time (Ed25519 is deterministic).
"""

import threading
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path

from catalog.db.engine import Transaction
from catalog.errors import Unavailable
from catalog.tuf.keys import key_files, load_key
from catalog.tuf.metadata import (
    BINS,
    LIFETIMES,
    ROOT,
    SNAPSHOT,
    TARGETS,
    TIMESTAMP,
    MetadataSigner,
    SignedMetadata,
    bin_document,
    bin_role,
    snapshot_document,
    timestamp_document,
)
from catalog.tuf_repository import store
from catalog.tuf_repository.store import BinEpoch, MetadataVersion

KEEP_METADATA = timedelta(minutes=10)
"""How long replaced metadata is still served: a site that has begun a refresh finishes it within that time."""


class OnlineSigner:
    """Signs for the online roles of the TUF repository in a directory; every method takes part in a transaction."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._signers: dict[str, MetadataSigner] = {}
        self._empty: dict[tuple[str, int], bytes] = {}
        self._lock = threading.Lock()

    @property
    def online(self) -> Path:
        """The directory of the online keys."""
        return self.directory / "keys"

    def sign_bins(self, connection: Transaction, numbers: Iterable[int], now: datetime) -> None:
        """Sign new versions of these bins from the present targets. The caller signs the snapshot afterwards."""
        epoch = self.epoch(connection)
        signer = self.signer_of(connection, BINS)
        expires = now + LIFETIMES[BINS]
        roles = []
        for number in sorted(set(numbers)):
            role = bin_role(number, epoch.bits)
            before = store.latest_metadata(connection, role)
            # While the bin was empty it was served as version `epoch`, or an earlier one in an earlier epoch.
            version = 1 + (epoch.epoch if before is None else before.version)
            data = bin_document(signer, version, store.targets_in_bin(connection, number), expires)
            store.add_metadata(connection, role, version, data, now, expires)
            roles.append(role)
        store.prune_metadata(connection, roles, now - KEEP_METADATA)

    def sign_snapshot(self, connection: Transaction, now: datetime) -> None:
        """Sign a new snapshot of all bins, and a timestamp for it."""
        epoch = self.epoch(connection)
        bins = {bin_role(number, epoch.bits): epoch.epoch for number in range(1 << epoch.bits)}
        bins.update(store.bin_versions(connection))
        version, expires = _next_version(connection, SNAPSHOT), now + LIFETIMES[SNAPSHOT]
        targets = self.latest(connection, TARGETS).version
        data = snapshot_document(self.signer_of(connection, SNAPSHOT), version, targets, bins, expires)
        store.add_metadata(connection, SNAPSHOT, version, data, now, expires)
        self.sign_timestamp(connection, data, now)

    def sign_timestamp(self, connection: Transaction, snapshot: bytes, now: datetime) -> None:
        """Sign a new timestamp for a snapshot."""
        version, expires = _next_version(connection, TIMESTAMP), now + LIFETIMES[TIMESTAMP]
        data = timestamp_document(self.signer_of(connection, TIMESTAMP), version, snapshot, now, expires)
        store.add_metadata(connection, TIMESTAMP, version, data, now, expires)
        store.prune_metadata(connection, (), now - KEEP_METADATA)

    def empty_bin(self, connection: Transaction, epoch: BinEpoch, role: str) -> bytes:
        """A bin without targets."""
        key = (role, epoch.epoch)
        with self._lock:
            if key not in self._empty:
                expires = epoch.begun + LIFETIMES[BINS]
                self._empty[key] = bin_document(self.signer_of(connection, BINS), epoch.epoch, (), expires)
            return self._empty[key]

    def signer_of(self, connection: Transaction, role: str) -> MetadataSigner:
        """The key that signs for an online role now; Unavailable if its file is missing."""
        root, targets = (SignedMetadata.of(self.latest(connection, name).data) for name in (ROOT, TARGETS))
        wanted = {**root.keys, **targets.keys}[role]
        if not any(key in self._signers for key in wanted):
            for path in key_files(self.online):
                signer = MetadataSigner(load_key(path))
                self._signers[signer.id] = signer
        for key in wanted:
            if key in self._signers:
                return self._signers[key]
        raise Unavailable(
            f"{self.online}: the key that signs {role} ({wanted[0][:12]}) is missing; put it back, or rotate it with "
            f"`partita catalog tuf rotate {role}`"
        )

    def epoch(self, connection: Transaction) -> BinEpoch:
        """The present epoch of the repository; Unavailable if there is no repository."""
        epoch = store.current_epoch(connection)
        if epoch is None:
            raise Unavailable(f"{self.directory}: no TUF repository; create it with `partita catalog tuf init`")
        return epoch

    def latest(self, connection: Transaction, role: str) -> MetadataVersion:
        """The newest metadata of a top-level role; Unavailable if there is none."""
        found = store.latest_metadata(connection, role)
        if found is None:
            raise Unavailable(f"{self.directory}: no {role} metadata; create it with `partita catalog tuf init`")
        return found


def _next_version(connection: Transaction, role: str) -> int:
    newest = store.latest_metadata(connection, role)
    return 1 if newest is None else newest.version + 1
