"""Key ceremonies: root and top-level targets are proposed here, signed wherever their keys are, and then put in force.

DIR/tuf/proposed-root.json, proposed-targets.json    carried to the offline keys and back; every signer adds a signature

A root is in force when as many of the present root's keys and of its own have signed as each demands, so that no single
key holder, and nobody at the catalog, can replace the keys (TUF specification, section 6.1).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from catalog.db.engine import Transaction
from catalog.errors import Malformed, Misused, NotFound
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
    add_signature,
    missing_root_signatures,
    missing_targets_signatures,
    next_root,
    next_targets,
)
from catalog.tuf_repository.repository import TufRepository, write_file
from catalog.tuf_repository.status import list_role_statuses

ROLES = (ROOT, TARGETS, SNAPSHOT, TIMESTAMP, BINS)
MAX_PROPOSAL = 512_000
"""Bytes: what clients read of a root."""


@dataclass(frozen=True)
class CeremonyResult:
    """What a ceremony came to.

    Attributes:
        adopted: the roles whose new metadata is in force.
        files: the proposals that wait for signatures.
        lacking: what is still missing, in sentences.
        made: files of keys that were made.
    """

    adopted: tuple[str, ...]
    files: tuple[str, ...]
    lacking: tuple[str, ...]
    made: tuple[str, ...] = ()


class KeyCeremony:
    """The proposals of one catalog."""

    def __init__(self, freshness: TufRepository) -> None:
        self._freshness = freshness

    def file(self, role: str) -> Path:
        """Where the proposal of root or targets is."""
        return self._freshness.directory / f"proposed-{role}.json"

    def rotate(
        self,
        connection: Transaction,
        role: str,
        signers: Sequence[MetadataSigner],
        passphrase: str | None,
        now: datetime,
    ) -> CeremonyResult:
        """Give a role fresh keys, as many as it has, and put them in force if the signers are enough.

        Args:
            role: root, targets, snapshot, timestamp or bins.
            signers: the offline keys that are at hand.
            passphrase: for offline keys that are made.

        Raises:
            Misused: there is no such role, or a proposal is waiting already.
        """
        if role not in ROLES:
            raise Misused(f"there is no role {role!r}; rotate one of {', '.join(ROLES)}")
        self._nothing_waits()
        number = 1
        for one in list_role_statuses(self._freshness, connection):
            if one.role == role:
                number = len(one.keys)
        place = self._freshness.online if role in ONLINE else self._freshness.offline
        keys = [tuf_keys.generate_key() for _ in range(number)]
        fresh = [MetadataSigner(key) for key in keys]
        made = [place / f"{role}-{signer.id[:12]}.pem" for signer in fresh]
        for path, key in zip(made, keys, strict=True):
            tuf_keys.save_key(path, key, None if role in ONLINE else passphrase)
        root, targets = (self._freshness.latest(connection, name) for name in (ROOT, TARGETS))
        if role != BINS:
            write_file(self.file(ROOT), next_root(root, {role: fresh}, now + LIFETIMES[ROOT]))
        if role in {BINS, TARGETS}:
            bins = fresh[0] if role == BINS else None
            write_file(self.file(TARGETS), next_targets(targets, bins, now + LIFETIMES[TARGETS]))
        found = self._settle(connection, [*signers, *(fresh if role not in ONLINE else ())], now)
        return CeremonyResult(found.adopted, found.files, found.lacking, tuple(str(path) for path in made))

    def sign(
        self, connection: Transaction, role: str, signers: Sequence[MetadataSigner], now: datetime
    ) -> CeremonyResult:
        """Sign what is proposed for root or targets; where nothing is, propose the same again with a new expiry.

        Put in force as soon as there are enough signatures, which may be at once.
        """
        if role not in {ROOT, TARGETS}:
            raise Misused(f"{role} is signed by the service itself; `sign` is for root and targets")
        if not self._proposed():
            data = self._freshness.latest(connection, role)
            expires = now + LIFETIMES[role]
            fresh = next_root(data, {}, expires) if role == ROOT else next_targets(data, None, expires)
            write_file(self.file(role), fresh)
        return self._settle(connection, signers, now)

    def drop(self) -> Sequence[str]:
        """Give up whatever is proposed; returns the files that were removed."""
        found = [self.file(role) for role in self._proposed()]
        for path in found:
            path.unlink()
        return [str(path) for path in found]

    def _settle(self, connection: Transaction, signers: Sequence[MetadataSigner], now: datetime) -> CeremonyResult:
        """Add the signatures of those who may sign, and put in force what is complete."""
        proposed = self._proposed()
        before = self._freshness.latest(connection, ROOT)
        for role, data in proposed.items():
            proposed[role] = sign_document(data, signers, self._signers_of(role, proposed, before))
            write_file(self.file(role), proposed[role])
        lacking: list[str] = []
        root = proposed.get(ROOT)
        if root is not None:
            lacking += [
                f"{number} signatures by {who}" for who, number in missing_root_signatures(root, before).items()
            ]
        if TARGETS in proposed and (number := missing_targets_signatures(proposed[TARGETS], root or before)):
            lacking.append(f"{number} signatures by the targets keys")
        if lacking or not proposed:
            return CeremonyResult((), tuple(str(self.file(role)) for role in proposed), tuple(lacking))
        self._freshness.adopt(connection, root, proposed.get(TARGETS), now)
        self.drop()
        return CeremonyResult(tuple(proposed), (), ())

    def _signers_of(self, role: str, proposed: Mapping[str, bytes], before: bytes) -> frozenset[str]:
        roots = [SignedMetadata.of(before), *([SignedMetadata.of(proposed[ROOT])] if ROOT in proposed else [])]
        return frozenset(key for root in roots for key in root.keys[role])

    def _proposed(self) -> dict[str, bytes]:
        found = {}
        for role in (ROOT, TARGETS):
            try:
                found[role] = read_proposal(self.file(role))
            except NotFound:
                continue
        return found

    def _nothing_waits(self) -> None:
        if waiting := self._proposed():
            raise Misused(
                f"{self.file(next(iter(waiting)))}: waits for signatures already; sign it with `partita catalog tuf sign`, "
                "or give it up with `partita catalog tuf drop`"
            )


def read_proposal(path: Path) -> bytes:
    """A proposal's bytes; NotFound."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_PROPOSAL + 1)
    except FileNotFoundError as exc:
        raise NotFound(f"{path}: there is no proposal") from exc
    if len(data) > MAX_PROPOSAL:
        raise Malformed(f"{path}: has more than {MAX_PROPOSAL} bytes; no root has")
    return data


def sign_document(data: bytes, signers: Sequence[MetadataSigner], entitled: frozenset[str] | None = None) -> bytes:
    """The metadata with the signatures of those signers who are entitled to sign it; of all if nobody says who is."""
    for signer in signers:
        if entitled is None or signer.id in entitled:
            data = add_signature(data, signer)
    return data
