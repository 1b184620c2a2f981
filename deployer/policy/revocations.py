"""What has been withdrawn, as a node knows it: revocations that it has seen, and the site's own block list.

DIR/revocations.json   every revocation that ever counted here: a catalog that leaves one out brings nothing back.
The block list is a TOML file of the site's, read anew each time; it needs no network and no signature.
"""

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, Field

from catalog.image.manifest import Manifest
from catalog.schema.images import SignedStatement
from deployer.errors import PolicyUnusable
from deployer.policy.model import MAX_ENTRIES
from deployer.policy.patterns import ImagePattern, VoPattern, matches_image, matches_vo
from deployer.policy.policy_files import PolicyFile
from signer.documents import Document, canonical, parse
from signer.runtime import files
from signer.runtime.files import read_file
from signer.runtime.reloaded_files import FileReader
from signer.verification.revocations import MAX_REVOCATIONS
from signer.verification.trust import EndorsementCheck

FILE = "revocations.json"
MAX_FILE = 256 << 20
MAX_BLOCK_LIST = 4 << 20
"""Bytes. A block list is written by people in a hurry, and stays short."""

StatementPair = tuple[bytes, bytes]


def _key(text: str) -> str:
    scheme, _, name = text.partition(":")
    hexadecimal = len(name) == 40 and set(name) <= set("0123456789ABCDEF")
    if not (scheme == "openpgp" and hexadecimal) and not (scheme == "x509" and name.startswith("/")):
        raise ValueError(
            f"{text[:80]!r} is not a key; write openpgp:FINGERPRINT (40 hex digits in capitals) or x509:SUBJECT"
        )
    return text


class BlockList(PolicyFile):
    """What a site runs under no circumstances.

    Attributes:
        images: image IDs, VO/NAME or VO/NAME@VERSION; `*` stands for anything.
        vos: names of VOs.
        keys: `openpgp:FINGERPRINT` or `x509:SUBJECT`, whose word counts for nothing.
        endorsements: `sha256:` and the digest of a statement.
    """

    file_kind, max_bytes = "block list", MAX_BLOCK_LIST

    images: Annotated[tuple[ImagePattern, ...], Field(max_length=MAX_ENTRIES)] = ()
    vos: Annotated[tuple[VoPattern, ...], Field(max_length=MAX_ENTRIES)] = ()
    keys: Annotated[tuple[Annotated[str, AfterValidator(_key)], ...], Field(max_length=MAX_ENTRIES)] = ()
    endorsements: Annotated[
        tuple[Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")], ...], Field(max_length=MAX_ENTRIES)
    ] = ()

    @classmethod
    def load(cls, path: Path, read: FileReader = read_file) -> Self:
        """Read the site's file; one that is not there blocks nothing.

        Raises:
            PolicyUnusable: it cannot be read or understood, and then nothing is accepted.
        """
        try:
            return super().load(path, read)
        except PolicyUnusable as exc:
            raise PolicyUnusable(f"{exc}; until that is right nothing is accepted") from exc

    def blocks(self, manifest: Manifest) -> str:
        """The entry that blocks an image; empty if none does."""
        return matches_image(self.images, manifest) or matches_vo(self.vos, manifest.vo) or ""

    def void(self, checks: Iterable[EndorsementCheck]) -> list[EndorsementCheck]:
        """The endorsements, those by blocked keys and blocked ones not counting."""
        return [
            replace(check, counts=False, reason=f"{entry} is in the site's block list.")
            if check.counts and (entry := self._entry(check))
            else check
            for check in checks
        ]

    def _entry(self, check: EndorsementCheck) -> str:
        names = (f"{check.scheme}:{check.fingerprint}", f"sha256:{check.digest}")
        return next((name for name in names if name in self.keys or name in self.endorsements), "")


@dataclass(frozen=True)
class RevocationState:
    """All that has been withdrawn: signed revocations, not verified yet, and the block list."""

    pairs: Sequence[StatementPair] = ()
    blocks: BlockList = field(default_factory=BlockList)


class _Kept(Document):
    revocations: Annotated[tuple[SignedStatement, ...], Field(max_length=MAX_REVOCATIONS)] = ()


class RevocationStore:
    """The revocations that a node has seen. Safe to use from several threads; one process owns the directory."""

    def __init__(self, directory: Path) -> None:
        """Read what is there. DocumentError if it is not as it was written: then the node does not start."""
        self._path = directory / FILE
        self._lock = threading.Lock()
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            self._pairs: dict[StatementPair, None] = {}
        else:
            kept = parse(_Kept, data, str(self._path), limit=MAX_FILE)
            self._pairs = dict.fromkeys(one.pair() for one in kept.revocations)

    def pairs(self) -> tuple[StatementPair, ...]:
        """All of them, in the order in which they were first seen."""
        with self._lock:
            return tuple(self._pairs)

    def add(self, pairs: Iterable[StatementPair]) -> int:
        """Keep what is new, durably; returns how many that were. Beyond MAX_REVOCATIONS nothing more is taken."""
        with self._lock:
            fresh = [pair for pair in dict.fromkeys(pairs) if pair not in self._pairs]
            fresh = fresh[: MAX_REVOCATIONS - len(self._pairs)]
            if fresh:
                found = self._pairs | dict.fromkeys(fresh)
                kept = _Kept(revocations=tuple(SignedStatement.of(*pair) for pair in found))
                files.write(self._path, canonical(kept))
                self._pairs = found
            return len(fresh)
