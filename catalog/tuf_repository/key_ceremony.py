"""Key ceremonies: root and top-level targets are proposed here, signed where their keys are, and then put in force.

DIR/tuf/proposed-root.json, proposed-targets.json    carried to the offline keys and back; every signer adds a signature

A root comes into force when enough keys of the present root and enough of its own keys have signed it, so that no single
key holder, and no operator of the catalog, can replace the keys (TUF specification, section 6.1).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from catalog.db.engine import Transaction
from catalog.errors import Malformed, Misused, NotFound
from catalog.tuf.keys import PrivateKey, save_key
from catalog.tuf.metadata import (
    BINS,
    LIFETIMES,
    ONLINE,
    ROLES,
    ROOT,
    TARGETS,
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
from signer.runtime import files

MAX_PROPOSAL = 512_000
"""Bytes; clients accept no larger root."""


@dataclass(frozen=True)
class CeremonyResult:
    """The result of a step of a ceremony.

    Attributes:
        adopted: the roles whose new metadata is in force.
        files: the proposals that wait for signatures.
        lacking: the signatures that are still missing, in words.
        made: the files of new keys.
    """

    adopted: tuple[str, ...]
    files: tuple[str, ...]
    lacking: tuple[str, ...]
    made: tuple[str, ...] = ()


class KeyCeremony:
    """The ceremonies of one catalog's repository."""

    def __init__(self, repository: TufRepository) -> None:
        self._repository = repository

    def file(self, role: str) -> Path:
        """The file of a proposed root or targets."""
        return self._repository.directory / f"proposed-{role}.json"

    def rotate(
        self,
        connection: Transaction,
        role: str,
        signers: Sequence[MetadataSigner],
        passphrase: str | None,
        now: datetime,
    ) -> CeremonyResult:
        """Make new keys for a role, as many as it has, and put them in force if the signers are enough.

        Args:
            role: root, targets, snapshot, timestamp or bins.
            signers: the available offline keys.
            passphrase: protects new offline keys.

        Raises:
            Misused: unknown role, or another proposal waits for signatures.
        """
        if role not in ROLES:
            raise Misused(f"no role {role!r}; rotate one of {', '.join(ROLES)}")
        if waiting := self._proposed():
            raise Misused(
                f"{self.file(next(iter(waiting)))}: waits for signatures; sign it with `partita catalog tuf sign`, or "
                "delete it with `partita catalog tuf drop`"
            )
        number = next(len(one.keys) for one in list_role_statuses(self._repository, connection) if one.role == role)
        directory = self._repository.online if role in ONLINE else self._repository.offline
        keys = [PrivateKey.generate() for _ in range(number)]
        fresh = [MetadataSigner(key) for key in keys]
        made = [directory / f"{role}-{signer.id[:12]}.pem" for signer in fresh]
        for path, key in zip(made, keys, strict=True):
            save_key(path, key, None if role in ONLINE else passphrase)
        root, targets = (self._repository.latest(connection, name).data for name in (ROOT, TARGETS))
        if role != BINS:
            write_file(self.file(ROOT), next_root(root, {role: fresh}, now + LIFETIMES[ROOT]))
        if role in {BINS, TARGETS}:
            bins = fresh[0] if role == BINS else None
            write_file(self.file(TARGETS), next_targets(targets, bins, now + LIFETIMES[TARGETS]))
        result = self._settle(connection, [*signers, *(fresh if role not in ONLINE else ())], now)
        return replace(result, made=tuple(str(path) for path in made))

    def sign(
        self, connection: Transaction, role: str, signers: Sequence[MetadataSigner], now: datetime
    ) -> CeremonyResult:
        """Sign the proposals of root and targets; without any, propose the role's present metadata with a new expiry.

        A proposal comes into force with its last missing signature, which may be at once.
        """
        if role not in {ROOT, TARGETS}:
            raise Misused(f"the service signs {role} itself; `sign` is for root and targets")
        if not self._proposed():
            data = self._repository.latest(connection, role).data
            expires = now + LIFETIMES[role]
            fresh = next_root(data, {}, expires) if role == ROOT else next_targets(data, None, expires)
            write_file(self.file(role), fresh)
        return self._settle(connection, signers, now)

    def drop(self) -> Sequence[str]:
        """Delete the proposals; returns their files."""
        found = [self.file(role) for role in self._proposed()]
        for path in found:
            path.unlink()
        return [str(path) for path in found]

    def _settle(self, connection: Transaction, signers: Sequence[MetadataSigner], now: datetime) -> CeremonyResult:
        """Add the signatures of keys that may sign, and put the proposals in force when they are complete."""
        proposed = self._proposed()
        before = self._repository.latest(connection, ROOT).data
        roots = [SignedMetadata.of(data) for data in (before, *([proposed[ROOT]] if ROOT in proposed else []))]
        for role, data in proposed.items():
            entitled = frozenset(key for root in roots for key in root.keys[role])
            proposed[role] = sign_document(data, signers, entitled)
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
        self._repository.adopt(connection, root, proposed.get(TARGETS), now)
        self.drop()
        return CeremonyResult(tuple(proposed), (), ())

    def _proposed(self) -> dict[str, bytes]:
        found = {}
        for role in (ROOT, TARGETS):
            try:
                found[role] = read_proposal(self.file(role))
            except NotFound:
                continue
        return found


def read_proposal(path: Path) -> bytes:
    """A proposal's bytes; NotFound if there is none, Malformed if it is too large."""
    try:
        data = files.read_file(path, MAX_PROPOSAL)
    except FileNotFoundError as exc:
        raise NotFound(f"{path}: proposal not found") from exc
    if len(data) > MAX_PROPOSAL:
        raise Malformed(f"{path}: larger than {MAX_PROPOSAL} bytes, the limit of a root")
    return data


def sign_document(data: bytes, signers: Sequence[MetadataSigner], entitled: frozenset[str] | None = None) -> bytes:
    """The metadata with the signatures of the entitled signers added; `entitled` None admits all signers."""
    for signer in signers:
        if entitled is None or signer.id in entitled:
            data = add_signature(data, signer)
    return data
