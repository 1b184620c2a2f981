"""The TUF repository of a catalog: signed metadata lists all that the database holds, in the same transaction.

DIR/tuf/keys         the online keys: snapshot, timestamp, bins; readable by the service's user only
DIR/tuf/offline      the keys of root and top-level targets as first made: move them away
DIR/tuf/root.json    the root in force, for nodes to pin

One more image changes four targets, and so at most four bins, the snapshot and the timestamp, however many images there are.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from itertools import chain
from pathlib import Path

from catalog.db import clusters, images
from catalog.db.clusters import ClusterRow
from catalog.db.engine import Transaction
from catalog.errors import Conflict, NotFound, Unavailable
from catalog.tuf.keys import PrivateKey, save_key
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
    cluster_path,
    describe_target,
    encode_statements,
    endorsements_path,
    manifest_path,
    name_path,
    revocation_targets,
)
from catalog.tuf_repository import store
from catalog.tuf_repository.online_signing import OnlineSigner
from catalog.tuf_repository.store import ImageRow, TargetContent
from signer.documents import canonical
from signer.runtime import files

ROOT_KEYS, ROOT_THRESHOLD = 3, 2
"""The defaults: one of three root keys may be lost, and one may be stolen."""

MIRRORED = 0
"""The epoch of a mirror's copy of a repository: all its bins are stored, and none is made here."""

KEEP_TARGETS = timedelta(days=1)
"""How long a replaced target is still served: as long as a timestamp that leads to it can be valid."""


class TufRepository(OnlineSigner):
    """The TUF repository of a catalog. Every method takes part in the transaction that it is given."""

    @property
    def offline(self) -> Path:
        """The default directory of the offline keys."""
        return self.directory / "offline"

    @property
    def root_file(self) -> Path:
        """The root in force, for nodes to pin."""
        return self.directory / "root.json"

    def exists(self, connection: Transaction) -> bool:
        """Whether the repository has been created."""
        return store.current_epoch(connection) is not None

    def create(
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
        """Make keys and the first metadata, and list all images, clusters and revocations of the database.

        Args:
            root_keys, threshold: how many root keys are made, and how many of them must sign.
            bits: for 2**bits hash bins.
            offline: the directory for root and targets keys; `self.offline` if not given.
            passphrase: protects those keys.

        Raises:
            Conflict: the repository exists.
            Misused: the threshold exceeds the number of keys, or a key file exists.
        """
        if self.exists(connection):
            raise Conflict(f"{self.directory}: the TUF repository exists; `partita catalog tuf status` shows it")
        plan = {ROOT: root_keys, TARGETS: 1, SNAPSHOT: 1, TIMESTAMP: 1, BINS: 1}
        made = {role: [PrivateKey.generate() for _ in range(number)] for role, number in plan.items()}
        keys = {role: [MetadataSigner(key) for key in found] for role, found in made.items()}
        root = root_document(keys, {ROOT: threshold}, 1, now + LIFETIMES[ROOT])
        targets = targets_document(keys[BINS][0], bits, 1, now + LIFETIMES[TARGETS])
        for role, found in made.items():
            place = self.online if role in ONLINE else (offline or self.offline)
            for key, signer in zip(found, keys[role], strict=True):
                save_key(place / f"{role}-{signer.id[:12]}.pem", key, None if role in ONLINE else passphrase)
        for signer in keys[ROOT]:
            root = add_signature(root, signer)
        targets = add_signature(targets, keys[TARGETS][0])
        store.add_metadata(connection, ROOT, 1, root, now, now + LIFETIMES[ROOT])
        store.add_metadata(connection, TARGETS, 1, targets, now, now + LIFETIMES[TARGETS])
        store.add_epoch(connection, 1, bits, now)
        self.sync(connection, now, seal=True)
        write_file(self.root_file, root)

    def sync(self, connection: Transaction, now: datetime, *, seal: bool = False) -> int:
        """List all that the database holds and the metadata does not; returns how many targets changed.

        For a catalog that is older than its TUF repository, or whose database was restored. Its time grows with the images.
        """
        listed = store.target_paths(connection)
        rows = store.list_image_rows(connection)
        new = [row for row in rows if manifest_path(row.image_id) not in listed]
        newest = {(row.vo, row.name): row for row in rows}
        epoch, endorsed = self.epoch(connection), store.endorsed_images(connection)
        touched: set[int] = set()

        def numbered() -> Iterator[tuple[TargetContent, int]]:
            for row in new:
                for content in self._image_targets(connection, row, endorsed=row.image_id in endorsed):
                    touched.add(number := bin_number(content.listed.path, epoch.bits))
                    yield content, number

        count = store.put_new_targets(connection, numbered())
        fresh = {(row.vo, row.name) for row in new}
        names = (_binding(NameBinding, newest[name], name_path(*name)) for name in sorted(fresh))
        others: list[TargetContent] = []
        for row in clusters.all_clusters(connection):
            if cluster_path(row.digest) not in listed:
                others += self._cluster_targets(connection, row)
        if REVOCATIONS not in listed:
            pairs = [pair for _, pair in images.list_revocations(connection, 0, -1)]
            others += [_content(*one) for one in revocation_targets(pairs).items()]
        return count + self._revise(connection, chain(names, others), now, touched=touched, seal=seal)

    def list_image(self, connection: Transaction, image_id: str, now: datetime) -> None:
        """List an image that was published, or whose endorsements changed; an unpublished image changes nothing."""
        for row in store.list_image_rows(connection, image_id):
            entry = images.find_image(connection, row.vo, row.name, None)
            newest = row if entry is None else ImageRow(entry.image_id, row.vo, row.name, entry.version, 0)
            contents = [
                *self._image_targets(connection, row),
                _binding(NameBinding, newest, name_path(row.vo, row.name)),
            ]
            self._revise(connection, contents, now)

    def list_cluster(self, connection: Transaction, row: ClusterRow, now: datetime) -> None:
        """List a cluster document that was published, or whose endorsements changed."""
        self._revise(connection, self._cluster_targets(connection, row), now)

    def list_revocations(self, connection: Transaction, pairs: Sequence[tuple[bytes, bytes]], now: datetime) -> None:
        """List all revocations, as (statement, signature) of each."""
        self._revise(connection, [_content(*one) for one in revocation_targets(pairs).items()], now)

    def renew(self, connection: Transaction, now: datetime) -> Sequence[str]:
        """Sign new versions of the online metadata that has passed half of its lifetime; returns its roles."""
        epoch = self.epoch(connection)
        done: list[str] = []
        old = now - LIFETIMES[BINS] / 2
        stale = store.bins_made_before(connection, old)
        if stale:
            self.sign_bins(connection, [_number(role, epoch.bits) for role in stale], now)
            done += stale
        if epoch.begun <= old:
            store.add_epoch(connection, epoch.epoch + 1, epoch.bits, now)
            done.append(BINS)
        snapshot, timestamp = self.latest(connection, SNAPSHOT), self.latest(connection, TIMESTAMP)
        if done or snapshot.made <= now - LIFETIMES[SNAPSHOT] / 2:
            self.sign_snapshot(connection, now)
            done += [SNAPSHOT, TIMESTAMP]
        elif timestamp.made <= now - LIFETIMES[TIMESTAMP] / 2:
            self.sign_timestamp(connection, snapshot.data, now)
            done.append(TIMESTAMP)
        store.forget_targets(connection, now - KEEP_TARGETS)
        return done

    def adopt(self, connection: Transaction, root: bytes | None, targets: bytes | None, now: datetime) -> None:
        """Put new root or top-level targets metadata, sufficiently signed, in force, and sign anew with the new keys.

        Raises:
            Unavailable: an online key is missing.
        """
        if root is not None:
            found = SignedMetadata.of(root)
            store.add_metadata(connection, ROOT, found.version, root, now, found.expires)
        if targets is not None:
            before = SignedMetadata.of(self.latest(connection, TARGETS).data)
            found = SignedMetadata.of(targets)
            store.add_metadata(connection, TARGETS, found.version, targets, now, found.expires)
            if found.keys != before.keys:  # every bin is signed by the new key
                epoch = self.epoch(connection)
                store.add_epoch(connection, epoch.epoch + 1, epoch.bits, now)
                numbers = [_number(role, epoch.bits) for role in store.bin_versions(connection)]
                self.sign_bins(connection, numbers, now)
        self.sign_snapshot(connection, now)
        write_file(self.root_file, self.latest(connection, ROOT).data)

    def metadata(self, connection: Transaction, role: str, version: int | None) -> bytes:
        """Metadata as it is served: a version of a role or, for the timestamp only, the newest; NotFound otherwise."""
        if version is None:
            if role == TIMESTAMP:
                return self.latest(connection, TIMESTAMP).data
            raise NotFound(f"metadata of {role} is served by version only")
        data = store.metadata_bytes(connection, role, version)
        if data is None and (epoch := store.current_epoch(connection)) is not None and version == epoch.epoch:
            number = bin_of_role(role, epoch.bits)
            if number is not None:
                return self.empty_bin(connection, epoch, role)
        if data is None:
            raise NotFound(f"no metadata {version}.{role} here; it may have been replaced")
        return data

    def target(self, connection: Transaction, path: str, digest: str) -> bytes:
        """The bytes of a target with that SHA-256; NotFound."""
        found, data = store.find_target(connection, path, digest)
        if found and data is None:
            data = images.get_manifest(connection, f"sha256:{digest}")
        if data is None:
            raise NotFound(f"no target {path} with that SHA-256 here; it may have been replaced")
        return data

    def _image_targets(self, connection: Transaction, row: ImageRow, *, endorsed: bool = True) -> list[TargetContent]:
        """The targets that are about this image only."""
        digest = row.image_id.removeprefix("sha256:")
        found = images.list_endorsements(connection, row.image_id) if endorsed else ()
        pairs = [(one.statement, one.signature) for one in found]
        return [
            TargetContent(ListedTarget(manifest_path(row.image_id), row.length, digest), None),
            _content(endorsements_path(row.image_id), encode_statements(pairs)),
            _binding(NameBinding, row, name_path(row.vo, row.name, row.version)),
        ]

    def _cluster_targets(self, connection: Transaction, row: ClusterRow) -> list[TargetContent]:
        """The targets of a cluster document, and that of the newest version of its name."""
        pairs = [(one.statement, one.signature) for one in images.list_endorsements(connection, row.digest)]
        newest = clusters.find_cluster(connection, row.vo, row.name, None) or row
        return [
            _content(cluster_path(row.digest), row.data),
            _content(endorsements_path(row.digest, "clusters"), encode_statements(pairs)),
            _binding(ClusterBinding, row, name_path(row.vo, row.name, row.version, "cluster-names")),
            _binding(ClusterBinding, newest, name_path(row.vo, row.name, folder="cluster-names")),
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
        """Set targets, and sign the bins that change or are `touched`, and the snapshot; returns how many changed.

        Does nothing where the repository has not been created; a service always has one.
        """
        if not self.exists(connection):
            return 0
        epoch = self.epoch(connection)
        changed = [
            number
            for content in contents
            if store.put_target(connection, content, number := bin_number(content.listed.path, epoch.bits), now)
        ]
        if changed or touched:
            self.sign_bins(connection, {*changed, *touched}, now)
        if changed or touched or seal:
            self.sign_snapshot(connection, now)
        return len(changed)


def write_file(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    files.write(path, data)


def _content(path: str, data: bytes) -> TargetContent:
    return TargetContent(describe_target(path, data), data)


def _binding(kind: type[NameBinding | ClusterBinding], row: ImageRow | ClusterRow, path: str) -> TargetContent:
    return _content(path, canonical(kind.model_validate(row, from_attributes=True)))


def _number(role: str, bits: int) -> int:
    number = bin_of_role(role, bits)
    if number is None:
        raise Unavailable(f"{role} is not a bin of this repository")
    return number
