"""Freshness on the publishing side: whatever the registry holds is listed in signed metadata, in the same transaction.

DIR/tuf/keys         the online keys: snapshot, timestamp, bins; for the service's user alone
DIR/tuf/offline      the root's and the top-level targets' keys as first made: move them away
DIR/tuf/root.json    the root in force, for nodes to pin

One more image changes four targets, so at most four bins, the snapshot and the timestamp, whatever is there already.
"""

import logging
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from itertools import chain
from pathlib import Path

from catalog.db import clusters as cluster_registry
from catalog.db import images as registry
from catalog.db.clusters import ClusterRow
from catalog.db.engine import Transaction
from catalog.errors import Conflict, NotFound, Unavailable
from catalog.tuf import keys as tuf_keys
from catalog.tuf.metadata import (
    BINS,
    DEFAULT_BITS,
    LIFETIMES,
    ONLINE,
    ROOT,
    SNAPSHOT,
    TARGETS,
    TIMESTAMP,
    ListedTarget,
    MetadataSigner,
    SignedMetadata,
    add_signature,
    bin_number,
    bin_of_role,
    root_document,
    targets_document,
)
from catalog.tuf.targets import (
    REVOCATIONS,
    ClusterBinding,
    NameBinding,
    cluster_endorsements_path,
    cluster_name_path,
    cluster_path,
    describe_target,
    encode_statements,
    endorsements_path,
    manifest_path,
    name_path,
    revocation_targets,
)
from catalog.tuf_repository import store as tuf_store
from catalog.tuf_repository.online_signing import OnlineSigner
from catalog.tuf_repository.store import ImageRow, TargetContent
from signer.documents import canonical
from signer.runtime import files

ROOT_KEYS, ROOT_THRESHOLD = 3, 2
"""Unless said otherwise: one of three root keys may be lost, and one may be stolen."""

MIRRORED = 0
"""The epoch of a repository that is a mirror's copy: all its bins are stored, and none is made here."""

KEEP_TARGETS = timedelta(days=1)
"""How long a replaced target is still served: as long as a timestamp that leads to it can hold."""


log = logging.getLogger("partita.catalog")


class TufRepository:
    """The TUF repository of a catalog. Every method takes part in the transaction that it is given."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.sealing = OnlineSigner(directory)

    @property
    def online(self) -> Path:
        """Where the online keys are."""
        return self.sealing.online

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
        return tuf_store.current_epoch(connection) is not None

    def make(
        self,
        connection: Transaction,
        now: datetime,
        *,
        root_keys: int = ROOT_KEYS,
        threshold: int = ROOT_THRESHOLD,
        bits: int = DEFAULT_BITS,
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
        made = {role: [tuf_keys.generate_key() for _ in range(number)] for role, number in plan.items()}
        keys = {role: [MetadataSigner(key) for key in found] for role, found in made.items()}
        root = root_document(keys, {ROOT: threshold}, 1, now + LIFETIMES[ROOT])
        targets = targets_document(keys[BINS][0], bits, 1, now + LIFETIMES[TARGETS])
        for role, found in made.items():
            place = self.online if role in ONLINE else (offline or self.offline)
            for key, signer in zip(found, keys[role], strict=True):
                tuf_keys.save_key(place / f"{role}-{signer.id[:12]}.pem", key, None if role in ONLINE else passphrase)
        for signer in keys[ROOT]:
            root = add_signature(root, signer)
        targets = add_signature(targets, keys[TARGETS][0])
        tuf_store.add_metadata(connection, ROOT, 1, root, now, now + LIFETIMES[ROOT])
        tuf_store.add_metadata(connection, TARGETS, 1, targets, now, now + LIFETIMES[TARGETS])
        tuf_store.add_epoch(connection, 1, bits, now)
        self.sync(connection, now, seal=True)
        write_file(self.root_file, root)

    def sync(self, connection: Transaction, now: datetime, *, seal: bool = False) -> int:
        """List whatever the registry holds and the metadata does not; returns how many targets changed.

        For a catalog that is older than its TUF repository, or whose database was restored. Takes time for each image.
        """
        there = tuf_store.target_paths(connection)
        rows = tuf_store.list_image_rows(connection)
        new = [row for row in rows if manifest_path(row.image_id) not in there]
        newest = {(row.vo, row.name): row for row in rows}
        epoch, endorsed = self.sealing.epoch(connection), tuf_store.endorsed_images(connection)
        touched: set[int] = set()

        def numbered() -> Iterator[tuple[TargetContent, int]]:
            for row in new:
                for content in self._of_image(connection, row, endorsed=row.image_id in endorsed):
                    touched.add(number := bin_number(content.listed.path, epoch.bits))
                    yield content, number

        count = tuf_store.put_new_targets(connection, numbered())
        fresh = {(row.vo, row.name) for row in new}
        names = (_binding(newest[name], name_path(*name)) for name in sorted(fresh))
        others: list[TargetContent] = []
        for row in cluster_registry.all_clusters(connection):
            if cluster_path(row.digest) not in there:
                newest_cluster = cluster_registry.find_cluster(connection, row.vo, row.name, None) or row
                others += self._of_cluster(connection, row)
                others.append(_cluster_binding(newest_cluster, cluster_name_path(row.vo, row.name)))
        if REVOCATIONS not in there:
            pairs = [pair for _, pair in registry.list_revocations(connection, 0, -1)]
            others += [_content(*one) for one in revocation_targets(pairs).items()]
        return count + self._revise(connection, chain(names, others), now, touched=touched, seal=seal)

    def image(self, connection: Transaction, image_id: str, now: datetime) -> None:
        """An image was published, or its endorsements changed. An image that is not published changes nothing."""
        for row in tuf_store.list_image_rows(connection, image_id):
            entry = registry.find_image(connection, row.vo, row.name, None)
            newest = row if entry is None else ImageRow(entry.image_id, row.vo, row.name, entry.version, 0)
            contents = [*self._of_image(connection, row), _binding(newest, name_path(row.vo, row.name))]
            self._revise(connection, contents, now)

    def cluster(self, connection: Transaction, row: ClusterRow, now: datetime) -> None:
        """A cluster document was published, or its endorsements changed."""
        newest = cluster_registry.find_cluster(connection, row.vo, row.name, None) or row
        contents = [*self._of_cluster(connection, row), _cluster_binding(newest, cluster_name_path(row.vo, row.name))]
        self._revise(connection, contents, now)

    def revocations(self, connection: Transaction, pairs: Sequence[tuple[bytes, bytes]], now: datetime) -> None:
        """These are all revocations now: (statement, signature) of each."""
        self._revise(connection, [_content(*one) for one in revocation_targets(pairs).items()], now)

    def renew(self, connection: Transaction, now: datetime) -> Sequence[str]:
        """Make anew whatever has passed half of its lifetime and is signed online; returns which roles were."""
        epoch = self.sealing.epoch(connection)
        done: list[str] = []
        old = now - LIFETIMES[BINS] / 2
        stale = tuf_store.bins_made_before(connection, old)
        if stale:
            self.sealing.write_bins(connection, [_number(role, epoch.bits) for role in stale], now)
            done += stale
        if epoch.begun <= old:
            tuf_store.add_epoch(connection, epoch.epoch + 1, epoch.bits, now)
            done.append(BINS)
        snapshot, timestamp = self.sealing.latest(connection, SNAPSHOT), self.sealing.latest(connection, TIMESTAMP)
        if done or snapshot.made <= now - LIFETIMES[SNAPSHOT] / 2:
            self.sealing.seal(connection, now)
            done += [SNAPSHOT, TIMESTAMP]
        elif timestamp.made <= now - LIFETIMES[TIMESTAMP] / 2:
            self.sealing.stamp(connection, snapshot.data, now)
            done.append(TIMESTAMP)
        tuf_store.forget_targets(connection, now - KEEP_TARGETS)
        return done

    def adopt(self, connection: Transaction, root: bytes | None, targets: bytes | None, now: datetime) -> None:
        """Put new root or top-level targets metadata, signed enough, in force; what the new keys must sign is made anew.

        Raises:
            Unavailable: a key that signs online is not here.
        """
        if root is not None:
            found = SignedMetadata.of(root)
            tuf_store.add_metadata(connection, ROOT, found.version, root, now, found.expires)
        if targets is not None:
            before = SignedMetadata.of(self.sealing.latest(connection, TARGETS).data)
            found = SignedMetadata.of(targets)
            tuf_store.add_metadata(connection, TARGETS, found.version, targets, now, found.expires)
            if found.keys != before.keys:  # every bin is signed by the new key
                epoch = self.sealing.epoch(connection)
                tuf_store.add_epoch(connection, epoch.epoch + 1, epoch.bits, now)
                numbers = [_number(role, epoch.bits) for role in tuf_store.bin_versions(connection)]
                self.sealing.write_bins(connection, numbers, now)
        self.sealing.seal(connection, now)
        write_file(self.root_file, self.sealing.latest(connection, ROOT).data)

    def metadata(self, connection: Transaction, role: str, version: int | None) -> bytes:
        """Metadata as it is served: a version of a role or, for the timestamp alone, the newest; NotFound."""
        if version is None:
            if role == TIMESTAMP:
                return self.sealing.latest(connection, TIMESTAMP).data
            raise NotFound(f"metadata of {role} is served by version only")
        data = tuf_store.metadata_bytes(connection, role, version)
        if data is None and (epoch := tuf_store.current_epoch(connection)) is not None and version == epoch.epoch:
            number = bin_of_role(role, epoch.bits)
            if number is not None:
                return self.sealing.empty_bin(connection, epoch, role)
        if data is None:
            raise NotFound(f"there is no metadata {version}.{role} here, or no more")
        return data

    def target(self, connection: Transaction, path: str, digest: str) -> bytes:
        """A target's content; NotFound."""
        found, data = tuf_store.find_target(connection, path, digest)
        if found and data is None:
            data = registry.get_manifest(connection, f"sha256:{digest}")
        if data is None:
            raise NotFound(f"there is no target {path} of that content here, or no more")
        return data

    def latest(self, connection: Transaction, role: str) -> bytes:
        """The newest metadata of a top-level role."""
        return self.sealing.latest(connection, role).data

    def _of_image(self, connection: Transaction, row: ImageRow, *, endorsed: bool = True) -> list[TargetContent]:
        """The targets that say something of an image, and of no other."""
        digest = row.image_id.removeprefix("sha256:")
        found = registry.list_endorsements(connection, row.image_id) if endorsed else ()
        pairs = [(one.statement, one.signature) for one in found]
        return [
            TargetContent(ListedTarget(manifest_path(row.image_id), row.length, digest), None),
            _content(endorsements_path(row.image_id), encode_statements(pairs)),
            _binding(row, name_path(row.vo, row.name, row.version)),
        ]

    def _of_cluster(self, connection: Transaction, row: ClusterRow) -> list[TargetContent]:
        """The targets that say something of a cluster document, and of no other."""
        found = registry.list_endorsements(connection, row.digest)
        return [
            _content(cluster_path(row.digest), row.data),
            _content(
                cluster_endorsements_path(row.digest),
                encode_statements([(one.statement, one.signature) for one in found]),
            ),
            _cluster_binding(row, cluster_name_path(row.vo, row.name, row.version)),
        ]

    def _revise(
        self,
        connection: Transaction,
        contents: Iterable[TargetContent],
        now: datetime,
        *,
        touched: Collection[int] = (),
        seal: bool = False,
    ) -> int:
        """Let targets be this, and sign what that changes, with the bins that were touched before; how many changed."""
        epoch = self.sealing.epoch(connection)
        changed = [
            number
            for content in contents
            if tuf_store.put_target(connection, content, number := bin_number(content.listed.path, epoch.bits), now)
        ]
        if changed or touched:
            self.sealing.write_bins(connection, {*changed, *touched}, now)
        if changed or touched or seal:
            self.sealing.seal(connection, now)
        return len(changed)


def write_file(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    files.write(path, data)


def _content(path: str, data: bytes) -> TargetContent:
    return TargetContent(describe_target(path, data), data)


def _binding(row: ImageRow, path: str) -> TargetContent:
    return _content(path, canonical(NameBinding(vo=row.vo, name=row.name, version=row.version, image_id=row.image_id)))


def _cluster_binding(row: ClusterRow, path: str) -> TargetContent:
    bound = ClusterBinding(vo=row.vo, name=row.name, version=row.version, digest=row.digest)
    return _content(path, canonical(bound))


def _number(role: str, bits: int) -> int:
    number = bin_of_role(role, bits)
    if number is None:
        raise Unavailable(f"{role} is no bin of this repository")
    return number
