"""The files in which a site writes its rules: trusted keys, acceptance, permissions, rented capacity."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from deployer.errors import PolicyUnusable
from signer.runtime.reloaded_files import FileReader, ReloadedFiles, read_file

T = TypeVar("T")


def read_policy_file(path: Path, limit: int, what: str, read: FileReader = read_file) -> bytes | None:
    """The bytes of a file; None if it is not there.

    Raises:
        PolicyUnusable: it cannot be read, or is longer than `limit`; `what` is how it is called.
    """
    try:
        data = read(path, limit)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise PolicyUnusable(f"{what} {path}: cannot be read: {exc.strerror}") from exc
    if len(data) > limit:
        raise PolicyUnusable(f"{what} {path}: has more than the {limit} bytes allowed")
    return data


def reloaded_policy_file(
    what: str, path: Path, load: Callable[[Path, FileReader], T], nothing: T, log: logging.Logger
) -> ReloadedFiles[T]:
    """A file of rules, read again when it changes; arguments as for `ReloadedFiles`."""
    return ReloadedFiles(f"{what} {path}", lambda read: load(path, read), PolicyUnusable, nothing, log=log)
