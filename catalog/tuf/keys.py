"""Key files of the TUF metadata: Ed25519 private keys as PEM (PKCS#8), which stock `openssl pkey` reads.

The catalog's service has the online keys in a directory of its own; the offline keys belong on removable media.
"""

from collections.abc import Sequence
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from catalog.errors import Misused, NotFound, Unavailable
from signer.runtime import files

PrivateKey = Ed25519PrivateKey

MAX_KEY_FILE = 16 << 10
"""Bytes. An Ed25519 key has 120, and 300 with a passphrase."""


def save_key(path: Path, key: PrivateKey, passphrase: str | None = None) -> None:
    """Write a key for its owner alone, durably; Misused if something is there already: a key is never overwritten."""
    protection: KeySerializationEncryption = NoEncryption()
    if passphrase is not None:
        protection = BestAvailableEncryption(passphrase.encode())
    data = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protection)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        files.create(path, data)
    except FileExistsError as exc:
        raise Misused(f"{path}: is there already; a key is never overwritten") from exc
    except OSError as exc:
        raise Unavailable(f"{path}: the key cannot be written ({exc.strerror})") from exc


def load_key(path: Path, passphrase: str | None = None) -> PrivateKey:
    """Read a key; NotFound if the file is missing, Misused if it is not an Ed25519 key or the passphrase is wrong."""
    try:
        data = files.read_file(path, MAX_KEY_FILE)
    except FileNotFoundError as exc:
        raise NotFound(f"{path}: key file not found") from exc
    except OSError as exc:
        raise Unavailable(f"{path}: the key cannot be read ({exc.strerror})") from exc
    encrypted = b"ENCRYPTED" in data[:64]
    if encrypted and passphrase is None:
        raise Misused(f"{path}: the key has a passphrase; give it with --passphrase-file")
    try:
        key = load_pem_private_key(data, passphrase.encode() if encrypted and passphrase is not None else None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
        raise Misused(f"{path}: not a usable private key, or the passphrase is wrong ({exc})") from exc
    if not isinstance(key, Ed25519PrivateKey):
        raise Misused(f"{path}: not an Ed25519 key; make one with `partita catalog tuf init` or `rotate`")
    return key


def key_files(directory: Path) -> Sequence[Path]:
    """The key files in a directory, by name; none if it does not exist."""
    return sorted(directory.glob("*.pem"))
