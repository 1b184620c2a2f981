"""Freshness on the publishing side: whatever the registry holds is listed in signed metadata, in the same transaction.

DIR/tuf/keys         the online keys: snapshot, timestamp, bins; for the service's user alone
DIR/tuf/offline      the root's and the top-level targets' keys as first made: move them away
DIR/tuf/root.json    the root in force, for nodes to pin

One more image changes four targets, so at most four bins, the snapshot and the timestamp, whatever is there already.
A bin that holds nothing is not stored: it is made when asked for, and is the same each time (Ed25519 is deterministic).
"""

import logging
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import chain
from pathlib import Path

from catalog import registry, tuf_keys, tuf_store
from catalog.database import Database, Transaction
from catalog.errors import Conflict, Misused, NotFound, Unavailable
from catalog.tuf_metadata import (
    BINS,
    BITS,
    LIFETIMES,
    ONLINE,
    ROOT,
    SNAPSHOT,
    TARGETS,
    TIMESTAMP,
    Described,
    Listed,
    Signer,
    add_signature,
    bin_document,
    bin_number,
    bin_of_role,
    bin_role,
    root_document,
    snapshot_document,
    targets_document,
    timestamp_document,
)
from catalog.tuf_store import Content, Epoch, ImageRow, Made
from catalog.tuf_targets import (
    REVOCATIONS,
    Binding,
    endorsements_path,
    listed,
    manifest_path,
    name_path,
    revocation_targets,
    statements,
)
from signer.documents import canonical

ROOT_KEYS, ROOT_THRESHOLD = 3, 2
"""Unless said otherwise: one of three root keys may be lost, and one may be stolen."""

MIRRORED = 0
"""The epoch of a repository that is a mirror's copy: all its bins are stored, and none is made here."""

KEEP_METADATA = timedelta(minutes=10)
"""How long replaced metadata is still served: a site that has begun a refresh ends it within that."""

KEEP_TARGETS = timedelta(days=1)
"""How long a replaced target is still served: as long as a timestamp that leads to it can hold."""


log = logging.getLogger("partita.catalog")


@dataclass(frozen=True)
class RoleStatus:
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


class Freshness:
    """The TUF repository of a catalog. Every method takes part in the transaction that it is given."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._signers: dict[str, Signer] = {}
        self._empty: dict[tuple[str, int], bytes] = {}
        self._lock = threading.Lock()

    @property
    def online(self) -> Path:
        """Where the online keys are."""
        return self.directory / "keys"

    @property
    def offline(self) -> Path:
        """Where the offline keys are put when they are made, and looked for when nothing else is said."""
        return self.directory / "offline"

    @property
    def root_file(self) -> Path:
        """The root in force, for nodes to pin."""
        return self.directory / "root.json"

    def is_made(self, connection: Transaction) -> bool:
        """Whether there is a TUF repository."""
        return tuf_store.epoch(connection) is not None

    def make(
        self,
        connection: Transaction,
        now: datetime,
        *,
        root_keys: int = ROOT_KEYS,
        threshold: int = ROOT_THRESHOLD,
        bits: int = BITS,
        offline: Path | None = None,
        passphrase: str | None = None,
    ) -> None:
        """Make keys and the first metadata, and list what the registry holds.

        Args:
            root_keys, threshold: how many root keys are made, and how many must sign.
            bits: 2**bits hash bins.
            offline: where root and targets keys are written; `offline` in our directory if not given.
            passphrase: for those keys.

        Raises:
            Conflict: there is a repository already.
            Misused: numbers that do not go together, or a key file that is in the way.
        """
        if self.is_made(connection):
            raise Conflict(
                f"{self.directory}: there is a TUF repository already; `partita catalog tuf status` shows it"
            )
        plan = {ROOT: root_keys, TARGETS: 1, SNAPSHOT: 1, TIMESTAMP: 1, BINS: 1}
        made = {role: [tuf_keys.generate() for _ in range(number)] for role, number in plan.items()}
        keys = {role: [Signer(key) for key in found] for role, found in made.items()}
        root = root_document(keys, {ROOT: threshold}, 1, now + LIFETIMES[ROOT])
        targets = targets_document(keys[BINS][0], bits, 1, now + LIFETIMES[TARGETS])
        for role, found in made.items():
            place = self.online if role in ONLINE else (offline or self.offline)
            for key, signer in zip(found, keys[role], strict=True):
                tuf_keys.save(place / f"{role}-{signer.id[:12]}.pem", key, None if role in ONLINE else passphrase)
        for signer in keys[ROOT]:
            root = add_signature(root, signer)
        targets = add_signature(targets, keys[TARGETS][0])
        tuf_store.add(connection, ROOT, 1, root, now, now + LIFETIMES[ROOT])
        tuf_store.add(connection, TARGETS, 1, targets, now, now + LIFETIMES[TARGETS])
        tuf_store.add_epoch(connection, 1, bits, now)
        self.sync(connection, now, seal=True)
        write(self.root_file, root)

    def sync(self, connection: Transaction, now: datetime, *, seal: bool = False) -> int:
        """List whatever the registry holds and the metadata does not; returns how many targets changed.

        For a catalog that is older than its TUF repository, or whose database was restored. Takes time for each image.
        """
        there = tuf_store.paths(connection)
        rows = tuf_store.image_rows(connection)
        new = [row for row in rows if manifest_path(row.image_id) not in there]
        newest = {(row.vo, row.name): row for row in rows}
        epoch, endorsed = self._epoch(connection), tuf_store.endorsed(connection)
        touched: set[int] = set()

        def numbered() -> Iterator[tuple[Content, int]]:
            for row in new:
                for content in self._of_image(connection, row, endorsed=row.image_id in endorsed):
                    touched.add(number := bin_number(content.listed.path, epoch.bits))
                    yield content, number

        count = tuf_store.put_new(connection, numbered())
        fresh = {(row.vo, row.name) for row in new}
        names = (_binding(newest[name], name_path(*name)) for name in sorted(fresh))
        others: list[Content] = []
        if REVOCATIONS not in there:
            pairs = [pair for _, pair in registry.list_revocations(connection, 0, -1)]
            others += [_content(*one) for one in revocation_targets(pairs).items()]
        return count + self._revise(connection, chain(names, others), now, touched=touched, seal=seal)

    def image(self, connection: Transaction, image_id: str, now: datetime) -> None:
        """An image was published, or its endorsements changed. An image that is not published changes nothing."""
        for row in tuf_store.image_rows(connection, image_id):
            entry = registry.find(connection, row.vo, row.name, None)
            newest = row if entry is None else ImageRow(entry.image_id, row.vo, row.name, entry.version, 0)
            contents = [*self._of_image(connection, row), _binding(newest, name_path(row.vo, row.name))]
            self._revise(connection, contents, now)

    def revocations(self, connection: Transaction, pairs: Sequence[tuple[bytes, bytes]], now: datetime) -> None:
        """These are all revocations now: (statement, signature) of each."""
        self._revise(connection, [_content(*one) for one in revocation_targets(pairs).items()], now)

    def renew(self, connection: Transaction, now: datetime) -> Sequence[str]:
        """Make anew whatever has passed half of its lifetime and is signed online; returns which roles were."""
        epoch = self._epoch(connection)
        done: list[str] = []
        old = now - LIFETIMES[BINS] / 2
        stale = tuf_store.bins_made_before(connection, old)
        if stale:
            self._write_bins(connection, [_number(role, epoch.bits) for role in stale], now)
            done += stale
        if epoch.begun <= old:
            tuf_store.add_epoch(connection, epoch.epoch + 1, epoch.bits, now)
            done.append(BINS)
        snapshot, timestamp = self._latest(connection, SNAPSHOT), self._latest(connection, TIMESTAMP)
        if done or snapshot.made <= now - LIFETIMES[SNAPSHOT] / 2:
            self._seal(connection, now)
            done += [SNAPSHOT, TIMESTAMP]
        elif timestamp.made <= now - LIFETIMES[TIMESTAMP] / 2:
            self._stamp(connection, snapshot.data, now)
            done.append(TIMESTAMP)
        tuf_store.forget_targets(connection, now - KEEP_TARGETS)
        return done

    def adopt(self, connection: Transaction, root: bytes | None, targets: bytes | None, now: datetime) -> None:
        """Put new root or top-level targets metadata, signed enough, in force; what the new keys must sign is made anew.

        Raises:
            Unavailable: a key that signs online is not here.
        """
        if root is not None:
            found = Described.of(root)
            tuf_store.add(connection, ROOT, found.version, root, now, found.expires)
        if targets is not None:
            before = Described.of(self._latest(connection, TARGETS).data)
            found = Described.of(targets)
            tuf_store.add(connection, TARGETS, found.version, targets, now, found.expires)
            if found.keys != before.keys:  # every bin is signed by the new key
                epoch = self._epoch(connection)
                tuf_store.add_epoch(connection, epoch.epoch + 1, epoch.bits, now)
                numbers = [_number(role, epoch.bits) for role in tuf_store.bin_versions(connection)]
                self._write_bins(connection, numbers, now)
        self._seal(connection, now)
        write(self.root_file, self._latest(connection, ROOT).data)

    def metadata(self, connection: Transaction, role: str, version: int | None) -> bytes:
        """Metadata as it is served: a version of a role or, for the timestamp alone, the newest; NotFound."""
        if version is None:
            if role == TIMESTAMP:
                return self._latest(connection, TIMESTAMP).data
            raise NotFound(f"metadata of {role} is served by version only")
        data = tuf_store.version(connection, role, version)
        if data is None and (epoch := tuf_store.epoch(connection)) is not None and version == epoch.epoch:
            number = bin_of_role(role, epoch.bits)
            if number is not None:
                return self._empty_bin(connection, epoch, role)
        if data is None:
            raise NotFound(f"there is no metadata {version}.{role} here, or no more")
        return data

    def target(self, connection: Transaction, path: str, digest: str) -> bytes:
        """A target's content; NotFound."""
        found, data = tuf_store.target(connection, path, digest)
        if found and data is None:
            data = registry.manifest_of(connection, f"sha256:{digest}")
        if data is None:
            raise NotFound(f"there is no target {path} of that content here, or no more")
        return data

    def status(self, connection: Transaction) -> Sequence[RoleStatus]:
        """How all roles are doing."""
        epoch = self._epoch(connection)
        root, targets = (Described.of(self._latest(connection, role).data) for role in (ROOT, TARGETS))
        here = {Signer(tuf_keys.load(path)).id for path in tuf_keys.files(self.online)}
        here |= {
            key
            for path in tuf_keys.files(self.offline)
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
                newest = self._latest(connection, role)
                version, made, expires = newest.version, newest.made, newest.expires
            present = tuple(key for key in keys[role] if key in here)
            due = made + (expires - made) / 2
            found.append(RoleStatus(role, version, expires, due, keys[role], thresholds[role], present))
        return found

    def warnings(self, connection: Transaction, now: datetime) -> Sequence[str]:
        """What an operator should do something about, well before sites stop: sentences."""
        found = []
        for one in self.status(connection):
            if one.expires <= now:
                found.append(
                    f"{one.role} metadata has expired on {one.expires:%Y-%m-%d %H:%M}: no site starts machines"
                )
            elif one.due <= now and one.role in {ROOT, TARGETS}:
                found.append(
                    f"{one.role} metadata expires on {one.expires:%Y-%m-%d}: sign it afresh with `partita catalog tuf sign "
                    f"{one.role}`"
                )
            if one.role in ONLINE and len(one.present) < one.threshold:
                found.append(f"the key that signs {one.role} is not in {self.online}: nothing can be published")
        if any(one.role == ROOT and len(one.present) >= one.threshold for one in self.status(connection)):
            found.append(f"the root's keys are in {self.offline}: move them to media that are kept offline")
        return found

    def latest(self, connection: Transaction, role: str) -> bytes:
        """The newest metadata of a top-level role."""
        return self._latest(connection, role).data

    def _of_image(self, connection: Transaction, row: ImageRow, *, endorsed: bool = True) -> list[Content]:
        """The targets that say something of an image, and of no other."""
        digest = row.image_id.removeprefix("sha256:")
        found = registry.endorsements_of(connection, row.image_id) if endorsed else ()
        pairs = [(one.statement, one.signature) for one in found]
        return [
            Content(Listed(manifest_path(row.image_id), row.length, digest), None),
            _content(endorsements_path(row.image_id), statements(pairs)),
            _binding(row, name_path(row.vo, row.name, row.version)),
        ]

    def _revise(
        self,
        connection: Transaction,
        contents: Iterable[Content],
        now: datetime,
        *,
        touched: Collection[int] = (),
        seal: bool = False,
    ) -> int:
        """Let targets be this, and sign what that changes, with the bins that were touched before; how many changed."""
        epoch = self._epoch(connection)
        changed = [
            number
            for content in contents
            if tuf_store.put(connection, content, number := bin_number(content.listed.path, epoch.bits), now)
        ]
        if changed or touched:
            self._write_bins(connection, {*changed, *touched}, now)
        if changed or touched or seal:
            self._seal(connection, now)
        return len(changed)

    def _write_bins(self, connection: Transaction, numbers: Iterable[int], now: datetime) -> None:
        epoch = self._epoch(connection)
        signer = self._signer(connection, BINS)
        expires = now + LIFETIMES[BINS]
        roles = []
        for number in sorted(set(numbers)):
            role = bin_role(number, epoch.bits)
            before = tuf_store.latest(connection, role)
            # A bin that had nothing was served as version `epoch`, or an earlier one in an earlier epoch.
            version = 1 + (epoch.epoch if before is None else before.version)
            data = bin_document(signer, version, tuf_store.listed(connection, number), expires)
            tuf_store.add(connection, role, version, data, now, expires)
            roles.append(role)
        tuf_store.prune(connection, roles, now - KEEP_METADATA)

    def _seal(self, connection: Transaction, now: datetime) -> None:
        """A new snapshot of all bins, and a timestamp for it."""
        epoch = self._epoch(connection)
        bins = {bin_role(number, epoch.bits): epoch.epoch for number in range(1 << epoch.bits)}
        bins.update(tuf_store.bin_versions(connection))
        before = tuf_store.latest(connection, SNAPSHOT)
        version = 1 if before is None else before.version + 1
        expires = now + LIFETIMES[SNAPSHOT]
        targets = self._latest(connection, TARGETS).version
        data = snapshot_document(self._signer(connection, SNAPSHOT), version, targets, bins, expires)
        tuf_store.add(connection, SNAPSHOT, version, data, now, expires)
        self._stamp(connection, data, now)

    def _stamp(self, connection: Transaction, snapshot: bytes, now: datetime) -> None:
        before = tuf_store.latest(connection, TIMESTAMP)
        version = 1 if before is None else before.version + 1
        expires = now + LIFETIMES[TIMESTAMP]
        data = timestamp_document(self._signer(connection, TIMESTAMP), version, snapshot, now, expires)
        tuf_store.add(connection, TIMESTAMP, version, data, now, expires)
        tuf_store.prune(connection, (), now - KEEP_METADATA)

    def _empty_bin(self, connection: Transaction, epoch: Epoch, role: str) -> bytes:
        """A bin without targets."""
        key = (role, epoch.epoch)
        with self._lock:
            if key not in self._empty:
                expires = epoch.begun + LIFETIMES[BINS]
                self._empty[key] = bin_document(self._signer(connection, BINS), epoch.epoch, (), expires)
            return self._empty[key]

    def _signer(self, connection: Transaction, role: str) -> Signer:
        """The key that signs for an online role now."""
        wanted = self._keys(connection)[role]
        for key in wanted:
            if key in self._signers:
                return self._signers[key]
        for path in tuf_keys.files(self.online):
            signer = Signer(tuf_keys.load(path))
            self._signers[signer.id] = signer
        for key in wanted:
            if key in self._signers:
                return self._signers[key]
        raise Unavailable(
            f"{self.online}: the key that signs {role} ({wanted[0][:12]}) is not there; put it back, or rotate it with "
            f"`partita catalog tuf rotate {role}`"
        )

    def _keys(self, connection: Transaction) -> Mapping[str, Sequence[str]]:
        root, targets = self._latest(connection, ROOT).data, self._latest(connection, TARGETS).data
        return {**Described.of(root).keys, **Described.of(targets).keys}

    def _epoch(self, connection: Transaction) -> Epoch:
        epoch = tuf_store.epoch(connection)
        if epoch is None:
            raise Unavailable(f"{self.directory}: there is no TUF repository; make it with `partita catalog tuf init`")
        return epoch

    def _latest(self, connection: Transaction, role: str) -> Made:
        found = tuf_store.latest(connection, role)
        if found is None:
            raise Unavailable(f"{self.directory}: there is no {role} metadata; make it with `partita catalog tuf init`")
        return found


def write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = path.with_name(path.name + ".new")
    fresh.write_bytes(data)
    fresh.replace(path)


def _content(path: str, data: bytes) -> Content:
    return Content(listed(path, data), data)


def _binding(row: ImageRow, path: str) -> Content:
    return _content(path, canonical(Binding(vo=row.vo, name=row.name, version=row.version, image_id=row.image_id)))


def _number(role: str, bits: int) -> int:
    number = bin_of_role(role, bits)
    if number is None:
        raise Unavailable(f"{role} is no bin of this repository")
    return number


def prepare(freshness: Freshness, database: Database, bits: int, now: datetime) -> bool:
    """What a service does when it starts: make a repository if there is none, list what is not listed, renew what is due.

    Returns:
        Whether the repository was made now, with the offline keys still beside the service.
    """
    with database.writing() as connection:
        epoch = tuf_store.epoch(connection)
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
        for one in freshness.warnings(connection, now):
            log.warning("%s", one)
    return False
