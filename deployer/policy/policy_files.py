"""The files in which a site writes its rules: trusted keys, acceptance, permissions, rented capacity."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Self, TypeVar

from deployer.errors import PolicyUnusable
from signer.documents import Document, parse_toml
from signer.errors import DocumentError
from signer.runtime.files import read_file
from signer.runtime.reloaded_files import FileReader, ReloadedFiles

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


class PolicyFile(Document):
    """A TOML file of rules, strict: a name that is not known refuses the whole file.

    Attributes:
        file_kind: the name of such a file in messages.
        max_bytes: of it.
    """

    file_kind: ClassVar[str]
    max_bytes: ClassVar[int]

    @classmethod
    def parse(cls, data: bytes, what: str) -> Self:
        """Read TOML; PolicyUnusable with the place. `what` is how the file is called in errors."""
        try:
            return parse_toml(cls, data, what, limit=cls.max_bytes)
        except DocumentError as exc:
            raise PolicyUnusable(str(exc)) from exc

    @classmethod
    def load_present(cls, path: Path, read: FileReader = read_file) -> Self | None:
        """Read a file; None if it does not exist. Errors as in `parse`."""
        data = read_policy_file(path, cls.max_bytes, cls.file_kind, read)
        return None if data is None else cls.parse(data, f"{cls.file_kind} {path}")

    @classmethod
    def load(cls, path: Path, read: FileReader = read_file) -> Self:
        """The same; a file that does not exist counts as an empty one."""
        return cls.load_present(path, read) or cls()


def reloaded_policy_file(
    what: str, path: Path, load: Callable[[Path, FileReader], T], nothing: T, log: logging.Logger
) -> ReloadedFiles[T]:
    """A file of rules, read again when it changes; arguments as for `ReloadedFiles`."""
    return ReloadedFiles(f"{what} {path}", lambda read: load(path, read), PolicyUnusable, nothing, log=log)
