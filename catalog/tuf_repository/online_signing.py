"""What a catalog's online keys sign: bins of targets, the snapshot of all bins, the timestamp of that.

A bin that holds nothing is not stored: it is made when asked for, and is the same each time (Ed25519 is deterministic).
"""

import threading
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from catalog.db.engine import Transaction
from catalog.errors import Unavailable
from catalog.tuf import keys as tuf_keys
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
from catalog.tuf_repository import store as tuf_store
from catalog.tuf_repository.store import BinEpoch, MetadataVersion

KEEP_METADATA = timedelta(minutes=10)
"""How long replaced metadata is still served: a site that has begun a refresh ends it within that."""


class OnlineSigner:
    """Signs for the online roles of the TUF repository in a directory; every method takes part in a transaction."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._signers: dict[str, MetadataSigner] = {}
        self._empty: dict[tuple[str, int], bytes] = {}
        self._lock = threading.Lock()

    @property
    def online(self) -> Path:
        """Where the online keys are."""
        return self.directory / "keys"

    def write_bins(self, connection: Transaction, numbers: Iterable[int], now: datetime) -> None:
        """Sign these bins anew, as the targets are now. The snapshot of them is still to be made."""
        epoch = self.epoch(connection)
        signer = self.signer(connection, BINS)
        expires = now + LIFETIMES[BINS]
        roles = []
        for number in sorted(set(numbers)):
            role = bin_role(number, epoch.bits)
            before = tuf_store.latest_metadata(connection, role)
            # A bin that had nothing was served as version `epoch`, or an earlier one in an earlier epoch.
            version = 1 + (epoch.epoch if before is None else before.version)
            data = bin_document(signer, version, tuf_store.targets_in_bin(connection, number), expires)
            tuf_store.add_metadata(connection, role, version, data, now, expires)
            roles.append(role)
        tuf_store.prune_metadata(connection, roles, now - KEEP_METADATA)

    def seal(self, connection: Transaction, now: datetime) -> None:
        """A new snapshot of all bins, and a timestamp for it."""
        epoch = self.epoch(connection)
        bins = {bin_role(number, epoch.bits): epoch.epoch for number in range(1 << epoch.bits)}
        bins.update(tuf_store.bin_versions(connection))
        before = tuf_store.latest_metadata(connection, SNAPSHOT)
        version = 1 if before is None else before.version + 1
        expires = now + LIFETIMES[SNAPSHOT]
        targets = self.latest(connection, TARGETS).version
        data = snapshot_document(self.signer(connection, SNAPSHOT), version, targets, bins, expires)
        tuf_store.add_metadata(connection, SNAPSHOT, version, data, now, expires)
        self.stamp(connection, data, now)

    def stamp(self, connection: Transaction, snapshot: bytes, now: datetime) -> None:
        """A timestamp for a snapshot."""
        before = tuf_store.latest_metadata(connection, TIMESTAMP)
        version = 1 if before is None else before.version + 1
        expires = now + LIFETIMES[TIMESTAMP]
        data = timestamp_document(self.signer(connection, TIMESTAMP), version, snapshot, now, expires)
        tuf_store.add_metadata(connection, TIMESTAMP, version, data, now, expires)
        tuf_store.prune_metadata(connection, (), now - KEEP_METADATA)

    def empty_bin(self, connection: Transaction, epoch: BinEpoch, role: str) -> bytes:
        """A bin without targets."""
        key = (role, epoch.epoch)
        with self._lock:
            if key not in self._empty:
                expires = epoch.begun + LIFETIMES[BINS]
                self._empty[key] = bin_document(self.signer(connection, BINS), epoch.epoch, (), expires)
            return self._empty[key]

    def signer(self, connection: Transaction, role: str) -> MetadataSigner:
        """The key that signs for an online role now; Unavailable if it is not here."""
        wanted = self._keys(connection)[role]
        for key in wanted:
            if key in self._signers:
                return self._signers[key]
        for path in tuf_keys.key_files(self.online):
            signer = MetadataSigner(tuf_keys.load_key(path))
            self._signers[signer.id] = signer
        for key in wanted:
            if key in self._signers:
                return self._signers[key]
        raise Unavailable(
            f"{self.online}: the key that signs {role} ({wanted[0][:12]}) is not there; put it back, or rotate it with "
            f"`partita catalog tuf rotate {role}`"
        )

    def _keys(self, connection: Transaction) -> Mapping[str, Sequence[str]]:
        root, targets = self.latest(connection, ROOT).data, self.latest(connection, TARGETS).data
        return {**SignedMetadata.of(root).keys, **SignedMetadata.of(targets).keys}

    def epoch(self, connection: Transaction) -> BinEpoch:
        """The time of the repository that is in force; Unavailable if there is no repository."""
        epoch = tuf_store.current_epoch(connection)
        if epoch is None:
            raise Unavailable(f"{self.directory}: there is no TUF repository; make it with `partita catalog tuf init`")
        return epoch

    def latest(self, connection: Transaction, role: str) -> MetadataVersion:
        """The newest metadata of a top-level role; Unavailable if there is none."""
        found = tuf_store.latest_metadata(connection, role)
        if found is None:
            raise Unavailable(f"{self.directory}: there is no {role} metadata; make it with `partita catalog tuf init`")
        return found
