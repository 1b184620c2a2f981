"""TUF metadata as values: make, sign, read and verify it, without files, clocks or databases.

The Update Framework, specification 1.0.34: https://theupdateframework.github.io/specification/latest/ . Targets are in
hash bins (TAP 15, succinct roles): adding one rewrites its bin, the snapshot and the timestamp, however many there are.
The only door to tuf.api and securesystemslib.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Self, TypeVar

from securesystemslib.exceptions import Error as SecureSystemsError
from securesystemslib.signer import CryptoSigner, Key, SSlibKey
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import (
    TOP_LEVEL_ROLE_NAMES,
    Delegations,
    Metadata,
    MetaFile,
    Role,
    Root,
    Snapshot,
    SuccinctRoles,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.api.serialization import DeserializationError
from tuf.api.serialization.json import JSONSerializer

from catalog.errors import Malformed, Misused
from catalog.tuf.keys import PrivateKey
from signer.statements.endorsement import write_instant

ROOT, TARGETS, SNAPSHOT, TIMESTAMP = "root", "targets", "snapshot", "timestamp"
BINS = "bins"
"""Our name for the one key that signs all hash bins."""

BIN = "bin"
"""The prefix of the bins' role names."""

ROLES = (ROOT, TARGETS, SNAPSHOT, TIMESTAMP, BINS)
"""The roles that have keys."""

ONLINE = (SNAPSHOT, TIMESTAMP, BINS)
"""The roles whose keys the service needs while it runs. A thief of them can hide, freeze and list targets, not endorse."""

DEFAULT_BITS = 12
"""4096 bins. The snapshot lists each, 40 bytes apiece; with 100 000 images a bin has about 100 targets, 20 KB. With fewer
bins the cost of publishing grows with the number of images; with more, every refresh of every site costs more."""

LIFETIMES: Mapping[str, timedelta] = {
    ROOT: timedelta(days=365),
    TARGETS: timedelta(days=365),
    BINS: timedelta(days=365),
    SNAPSHOT: timedelta(days=7),
    TIMESTAMP: timedelta(days=1),
}
"""How long each kind of metadata is valid. The timestamp's bounds how long a site can be shown an old catalog."""

ISSUED = "x-partita-issued"
"""Member of a timestamp: when it was made. A node whose clock is behind that knows that its clock is wrong."""

_COMPACT = JSONSerializer(compact=True)

S = TypeVar("S", Root, Targets, Snapshot, Timestamp)


class MetadataSigner:
    """A private key that signs metadata, its public half, and its key ID in metadata."""

    def __init__(self, key: PrivateKey) -> None:
        self.signer = CryptoSigner(key)
        self.public: SSlibKey = self.signer.public_key
        self.id: str = self.public.keyid


@dataclass(frozen=True, slots=True)
class ListedTarget:
    """A target as metadata lists it: path, length in bytes, SHA-256 in hex."""

    path: str
    length: int
    digest: str


@dataclass(frozen=True)
class SignedMetadata:
    """What signed metadata says: its role, version and expiry, and which keys may sign for which roles.

    Attributes:
        role: root, targets, snapshot or timestamp; a bin's type is targets too.
        keys: for root and targets, the key IDs of each role that they appoint (targets appoints `bins`).
        thresholds: how many of them must sign.
        bits: for targets, the binary logarithm of the number of bins.
    """

    role: str
    version: int
    expires: datetime
    keys: Mapping[str, tuple[str, ...]]
    thresholds: Mapping[str, int]
    bits: int = 0

    @classmethod
    def of(cls, data: bytes) -> Self:
        """Parse metadata; its signatures are not verified here."""
        signed = _read(data).signed
        keys: dict[str, tuple[str, ...]] = {}
        thresholds: dict[str, int] = {}
        bits = 0
        if isinstance(signed, Root):
            keys = {name: tuple(role.keyids) for name, role in signed.roles.items()}
            thresholds = {name: role.threshold for name, role in signed.roles.items()}
        elif isinstance(signed, Targets) and signed.delegations and signed.delegations.succinct_roles:
            roles = signed.delegations.succinct_roles
            keys, thresholds, bits = {BINS: tuple(roles.keyids)}, {BINS: roles.threshold}, roles.bit_length
        return cls(signed.type, signed.version, signed.expires, keys, thresholds, bits)


def bin_number(path: str, bits: int) -> int:
    """The bin that a target belongs to: the first `bits` bits of its path's SHA-256 (TAP 15)."""
    return int.from_bytes(hashlib.sha256(path.encode()).digest()[:4], "big") >> (32 - bits)


def bin_role(number: int, bits: int) -> str:
    """A bin's role name, such as `bin-0f3`."""
    digits = len(f"{(1 << bits) - 1:x}")
    return f"{BIN}-{number:0{digits}x}"


def bin_of_role(role: str, bits: int) -> int | None:
    """The number in a bin's role name; None for the name of another role."""
    head, _, digits = role.partition("-")
    if head != BIN or not digits or any(digit not in "0123456789abcdef" for digit in digits):
        return None
    number = int(digits, 16)
    return number if number < 1 << bits and role == bin_role(number, bits) else None


def root_document(
    keys: Mapping[str, Sequence[MetadataSigner]], thresholds: Mapping[str, int], version: int, expires: datetime
) -> bytes:
    """An unsigned root that appoints these keys; Misused where a role has fewer keys than its threshold."""
    roles = {name: _role([one.id for one in keys[name]], thresholds.get(name, 1), name) for name in _TOP}
    public: dict[str, Key] = {one.id: one.public for name in _TOP for one in keys[name]}
    return _write(Metadata(Root(version, None, expires, public, roles, consistent_snapshot=True)))


def next_root(previous: bytes, changes: Mapping[str, Sequence[MetadataSigner]], expires: datetime) -> bytes:
    """The next version of a root, unsigned, with other keys for some roles; thresholds stay."""
    root = _signed(previous, Root)
    for name, signers in changes.items():
        role = root.roles[name]
        root.roles[name] = _role([one.id for one in signers], role.threshold, name)
        root.keys.update({one.id: one.public for one in signers})
    used = {key for role in root.roles.values() for key in role.keyids}
    root.keys = {key: value for key, value in root.keys.items() if key in used}
    root.version, root.expires = root.version + 1, expires
    return _write(Metadata(root))


def targets_document(key: MetadataSigner, bits: int, version: int, expires: datetime) -> bytes:
    """The top-level targets, unsigned: it lists no target itself and appoints one key for all bins."""
    roles = SuccinctRoles([key.id], 1, bits, BIN)
    delegations = Delegations({key.id: key.public}, succinct_roles=roles)
    return _write(Metadata(Targets(version, None, expires, delegations=delegations)))


def next_targets(previous: bytes, key: MetadataSigner | None, expires: datetime) -> bytes:
    """The next version of the top-level targets, unsigned; with a new key for the bins if one is given."""
    targets = _signed(previous, Targets)
    if key is not None and targets.delegations is not None and targets.delegations.succinct_roles is not None:
        bits = targets.delegations.succinct_roles.bit_length
        return targets_document(key, bits, targets.version + 1, expires)
    targets.version, targets.expires = targets.version + 1, expires
    return _write(Metadata(targets))


def bin_document(signer: MetadataSigner, version: int, targets: Iterable[ListedTarget], expires: datetime) -> bytes:
    """A signed bin."""
    listed = {one.path: TargetFile(one.length, {"sha256": one.digest}, one.path) for one in targets}
    return _sealed(Metadata(Targets(version, None, expires, listed)), signer)


def snapshot_document(
    signer: MetadataSigner, version: int, targets: int, bins: Mapping[str, int], expires: datetime
) -> bytes:
    """A signed snapshot: the version of the top-level targets, and of every bin by role name."""
    meta = {f"{role}.json": MetaFile(number) for role, number in bins.items()}
    return _sealed(Metadata(Snapshot(version, None, expires, meta | {"targets.json": MetaFile(targets)})), signer)


def timestamp_document(
    signer: MetadataSigner, version: int, snapshot: bytes, issued: datetime, expires: datetime
) -> bytes:
    """A signed timestamp, for a snapshot."""
    number = SignedMetadata.of(snapshot).version
    meta = MetaFile(number, len(snapshot), {"sha256": hashlib.sha256(snapshot).hexdigest()})
    fields = {ISSUED: write_instant(issued)}
    return _sealed(Metadata(Timestamp(version, None, expires, meta, fields)), signer)


def issued_at(timestamp: bytes) -> datetime | None:
    """When a timestamp says that it was made; None if it does not say."""
    issued = _read(timestamp).signed.unrecognized_fields.get(ISSUED)
    try:
        found = datetime.fromisoformat(issued) if isinstance(issued, str) else None
    except ValueError:
        return None
    return found if found is not None and found.utcoffset() is not None else None


def read_targets(data: bytes) -> list[ListedTarget]:
    """The targets that a bin lists; Malformed where one has no SHA-256."""
    targets = _signed(data, Targets).targets
    if any("sha256" not in one.hashes for one in targets.values()):
        raise Malformed("the metadata lists a target without its SHA-256")
    return [ListedTarget(path, one.length, one.hashes["sha256"]) for path, one in targets.items()]


def named_snapshot(timestamp: bytes) -> tuple[int, str]:
    """The snapshot that a timestamp names: version, and SHA-256 in hex."""
    meta = _signed(timestamp, Timestamp).snapshot_meta
    return meta.version, (meta.hashes or {}).get("sha256", "")


def role_versions(snapshot: bytes) -> dict[str, int]:
    """The version of each role that a snapshot names."""
    return {name.removesuffix(".json"): meta.version for name, meta in _signed(snapshot, Snapshot).meta.items()}


def add_signature(data: bytes, signer: MetadataSigner) -> bytes:
    """The metadata with one more signature; a second one by the same key changes nothing."""
    return _sealed(_read(data), signer)


def missing_root_signatures(data: bytes, previous: bytes | None) -> Mapping[str, int]:
    """How many signatures a root still lacks: by its own keys, and by those of the version before."""
    metadata, before = _read(data), None if previous is None else _signed(previous, Root)
    if not isinstance(metadata.signed, Root):
        raise Malformed("not TUF root metadata")
    try:
        found = metadata.signed.get_root_verification_result(before, metadata.signed_bytes, metadata.signatures)
    except ValueError as exc:
        raise Malformed(f"this root does not follow the one in force: {exc}") from exc
    lacking = {"the present root keys": found.first.missing, "the new root keys": found.second.missing}
    return {who: number for who, number in lacking.items() if number}


def missing_targets_signatures(data: bytes, root: bytes) -> int:
    """How many signatures the top-level targets still lacks under a root."""
    metadata = _read(data)
    if not isinstance(metadata.signed, Targets):
        raise Malformed("not TUF targets metadata")
    result = _signed(root, Root).get_verification_result(TARGETS, metadata.signed_bytes, metadata.signatures)
    return result.missing


_TOP = sorted(TOP_LEVEL_ROLE_NAMES)


def _role(keys: Sequence[str], threshold: int, name: str) -> Role:
    if not 1 <= threshold <= len(set(keys)):
        raise Misused(f"{name}: a threshold of {threshold} does not suit {len(set(keys))} keys")
    return Role(list(keys), threshold)


def _read(data: bytes) -> "Metadata[Any]":
    try:
        return Metadata.from_bytes(data)
    except (DeserializationError, RepositoryError, SecureSystemsError, ValueError) as exc:
        raise Malformed(f"not valid TUF metadata ({exc})") from exc


def _signed(data: bytes, kind: type[S]) -> S:
    signed = _read(data).signed
    if not isinstance(signed, kind):
        raise Malformed(f"found {signed.type} metadata where {kind.type} metadata was expected")
    return signed


def _sealed(metadata: "Metadata[Any]", signer: MetadataSigner) -> bytes:
    metadata.sign(signer.signer, append=True)
    return _write(metadata)


def _write(metadata: "Metadata[Any]") -> bytes:
    return metadata.to_bytes(_COMPACT)
