"""An image in a directory, on the publisher's machine: what import makes, endorse signs and publish sends.

manifest.json                      canonical bytes
blobs/<address>                    content, sparse where it is zero
endorsements/<digest>.json, .sig   statement and detached signature; <digest> is the first 16 hex digits of the
                                   statement's SHA-256
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from catalog.errors import Malformed, NotFound
from catalog.image.address import Address
from catalog.image.manifest import MAX_MANIFEST, Manifest
from signer.runtime import files

MAX_STATEMENT = 64 << 10
MAX_SIGNATURE = 64 << 10
"""Bytes. A detached signature has some hundred; key material never comes inside it."""


@dataclass(frozen=True)
class Bundle:
    """An image directory whose manifest has been read."""

    root: Path
    manifest: Manifest

    @classmethod
    def open(cls, root: Path) -> Self:
        """Read the manifest; NotFound if the directory holds none, DocumentError if it is malformed."""
        file = root / "manifest.json"
        try:
            data = _read(file, MAX_MANIFEST)
        except (FileNotFoundError, NotADirectoryError) as exc:
            raise NotFound(
                f"{root}: holds no manifest.json; name a directory that `partita image import` or `build` made"
            ) from exc
        return cls(root, Manifest.parse(data))

    @classmethod
    def create(cls, root: Path, manifest: Manifest) -> Self:
        """Write the manifest of a directory whose blobs are all in place."""
        (root / "endorsements").mkdir(parents=True, exist_ok=True)
        (root / "manifest.json").write_bytes(manifest.canonical())
        return cls(root, manifest)

    def content(self, address: Address) -> Path:
        """Where that content is; NotFound if it is not there."""
        path = self.root / "blobs" / str(address)
        if not path.is_file():
            raise NotFound(f"{self.root}: the content {address} is missing; import or build the image again")
        return path

    def endorsements(self) -> list[tuple[bytes, bytes]]:
        """(statement, signature) of each endorsement."""
        found = []
        for statement in sorted((self.root / "endorsements").glob("*.json")):
            try:
                found.append((_read(statement, MAX_STATEMENT), _read(statement.with_suffix(".sig"), MAX_SIGNATURE)))
            except FileNotFoundError as exc:
                raise Malformed(f"{statement}: has no signature beside it; endorse the image again") from exc
        return found

    def add_endorsement(self, statement: bytes, signature: bytes) -> Path:
        """Keep an endorsement; returns the statement's path, the signature lies beside it as .sig."""
        path = self.root / "endorsements" / (hashlib.sha256(statement).hexdigest()[:16] + ".json")
        path.parent.mkdir(exist_ok=True)
        files.write(path.with_suffix(".sig"), signature)
        files.write(path, statement)  # last, as a statement is what makes the pair count
        return path


def _read(path: Path, limit: int) -> bytes:
    with path.open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise Malformed(f"{path}: has more than the {limit} bytes allowed")
    return data
