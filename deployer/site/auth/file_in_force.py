"""A file of a site in force: read again when it has changed, and only as a whole.

What does not validate never comes into force: the last good one stays, or nothing is allowed while there was none, and
`problem` says what is wrong. A file that is gone is an empty one, and an empty one allows nothing. A slip in a file so takes
no service down: those who need none of it, nodes and the operator, go on.
"""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from deployer.errors import PolicyUnusable

SETTLED = 0.02
"""Seconds between two looks at a file that has changed: half a file may be a whole one that allows more."""

TRIES = 50
"""Such pairs of looks, before the file is taken to be always changing."""

T = TypeVar("T")
FileVersion = tuple[int, int, int] | None

log = logging.getLogger("partita.site")


def read_if_present(path: Path, limit: int, what: str) -> bytes | None:
    """The bytes of a site's file, one more than `limit` if it is longer; None if it is not there.

    Raises:
        PolicyUnusable: it cannot be read; `what` is how it is called.
    """
    try:
        with path.open("rb") as file:
            return file.read(limit + 1)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise PolicyUnusable(f"{what} {path}: cannot be read: {exc.strerror}") from exc


class ReloadingFile(Generic[T]):
    """What a file says now, or last said. Safe to use from several threads.

    Args:
        path: of the file; it need not be there.
        load: reads it; PolicyUnusable where it is not of its form.
        nothing: what is in force while the file has never been good; it must allow nothing.
    """

    def __init__(self, path: Path, load: Callable[[Path], T], nothing: T) -> None:
        self.path = path
        self._load = load
        self._lock = threading.Lock()
        self._good = nothing
        self._mark: FileVersion = (-1, -1, -1)
        self.problem = ""
        """Why what the file says now is not in force; empty where it is."""

    def current(self) -> T:
        """What is in force."""
        with self._lock:
            if _mark(self.path) != self._mark:
                self._reload()
            return self._good

    def _reload(self) -> None:
        for _ in range(TRIES):
            before = _mark(self.path)
            found, problem = self._good, ""
            try:
                found = self._load(self.path)
            except PolicyUnusable as exc:
                problem = str(exc)
            time.sleep(SETTLED)
            if _mark(self.path) == before:
                self._mark = before
                break
        else:
            found, problem = self._good, f"{self.path}: changes all the time; write it once"
        self.problem = problem
        if problem:
            log.error("%s; what was in force before stays", problem)
        self._good = found


def _mark(path: Path) -> FileVersion:
    """What tells a file from what was there before: its inode, size and time."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
