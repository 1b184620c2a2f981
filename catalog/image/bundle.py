"""A bundle: an image in a directory on the publisher's machine. Import makes it, endorse signs it, publish sends it.

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
from signer.openpgp.packets import MAX_SIGNATURE
from signer.runtime import files
from signer.statements.endorsement import MAX_STATEMENT


@dataclass(frozen=True)
class Bundle:
    """An image directory whose manifest has been read."""

    root: Path
    manifest: Manifest

    @classmethod
    def open(cls, root: Path) -> Self:
        """Read the manifest; NotFound if the directory has no manifest, DocumentError if it is malformed."""
        file = root / "manifest.json"
        try:
            data = _read(file, MAX_MANIFEST)
        except (FileNotFoundError, NotADirectoryError) as exc:
            raise NotFound(
                f"{root}: contains no manifest.json; name a directory that `partita image import` or `build` made"
            ) from exc
        return cls(root, Manifest.parse(data))

    @classmethod
    def create(cls, root: Path, manifest: Manifest) -> Self:
        """Write the manifest of a directory that already has all contents."""
        (root / "endorsements").mkdir(parents=True, exist_ok=True)
        (root / "manifest.json").write_bytes(manifest.canonical())
        return cls(root, manifest)

    def content(self, address: Address) -> Path:
        """The file of a content; NotFound if it is missing."""
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
                raise Malformed(f"{statement}: its signature file is missing; endorse the image again") from exc
        return found

    def add_endorsement(self, statement: bytes, signature: bytes) -> Path:
        """Store an endorsement; returns the path of the statement; the signature is stored in the same directory as .sig."""
        path = self.root / "endorsements" / (hashlib.sha256(statement).hexdigest()[:16] + ".json")
        path.parent.mkdir(exist_ok=True)
        files.write(path.with_suffix(".sig"), signature)
        files.write(path, statement)  # last: a pair is read by its statement
        return path


def _read(path: Path, limit: int) -> bytes:
    data = files.read_file(path, limit)
    if len(data) > limit:
        raise Malformed(f"{path}: larger than the {limit} bytes allowed")
    return data
