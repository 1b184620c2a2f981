"""The credential of a site as a file, on its nodes and on the computers of its people."""

import os
from pathlib import Path

from catalog.errors import Misused
from signer.runtime import files

MAX_CREDENTIAL = 256
"""Bytes of the file; a credential has up to 107."""


def read_credential(path: Path | None) -> str:
    """The credential in a file; "" without one.

    Raises:
        Misused: it cannot be read, is empty, or others on this machine may read it.
    """
    if path is None:
        return ""
    try:
        with files.opened(path) as descriptor:
            mode, data = os.fstat(descriptor).st_mode, os.read(descriptor, MAX_CREDENTIAL + 1)
    except OSError as exc:
        raise Misused(f"{path}: the credential cannot be read ({exc.strerror})") from exc
    if mode & 0o077:
        raise Misused(f"{path}: other users may read this credential; run chmod 600 on it")
    text = data.decode("ascii", "replace").strip()
    if not text or len(data) > MAX_CREDENTIAL:
        raise Misused(
            f"{path}: no credential found; the file holds the line that `partita catalog site register` wrote"
        )
    return text


def write_credential(path: Path, text: str) -> None:
    """Write a new credential file that only its owner may read; Misused if the file exists or cannot be made."""
    try:
        files.create(path, text + "\n")
    except OSError as exc:
        raise Misused(f"{path}: the credential cannot be written ({exc.strerror})") from exc
