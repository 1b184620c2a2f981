"""Files that are read again when they change, and only as a whole.

What does not validate never comes into force: the last good value stays, or one that allows nothing while there was none,
and `problem` says what is wrong. A slip in a file so takes no service down.
"""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

SETTLED = 0.02
"""Seconds between two readings of files that have changed. Half a file may be a whole one, and a laxer one: both readings
must be the same, or the file is still being written."""

TRIES = 50
"""Such pairs of readings, before the files are taken to be always changing."""

T = TypeVar("T")
FileReader = Callable[[Path, int], bytes]
"""Reads a file, or one byte more than the limit of it; OSError if it cannot be read."""


def read_file(path: Path, limit: int) -> bytes:
    """The FileReader that only reads."""
    with path.open("rb") as file:
        return file.read(limit + 1)


class ReloadedFiles(Generic[T]):
    """What files say now, or last said while they were good. Safe to use from several threads.

    Args:
        what: the files, as messages call them.
        load: makes the value, reading whatever it needs with the FileReader that it is given.
        refused: the error that `load` raises where a file cannot be used.
        nothing: the value while the files have never been good; it must allow nothing.
        accept: called with the old value and a new one before that comes into force; what it raises keeps it from that.
        log: where problems are written.
        sleep: waits for so many seconds.
    """

    def __init__(
        self,
        what: str,
        load: Callable[[FileReader], T],
        refused: type[Exception],
        nothing: T,
        *,
        accept: Callable[[T, T], object] = lambda _old, _new: None,
        log: logging.Logger | None = None,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._what, self._load, self._refused, self._nothing = what, load, refused, nothing
        self._accept, self._log, self._sleep = accept, log, sleep
        self._lock = threading.Lock()
        self._good = nothing
        self._seen: dict[Path, tuple[int, bytes | None]] | None = None
        self.problem = ""
        """Why what the files say now is not in force; empty where it is."""

    def current(self) -> T:
        """The value in force."""
        with self._lock:
            if self._seen is None or not _same(self._seen):
                self._reload()
            return self._good

    def forget(self) -> None:
        """Let nothing be in force, as before the first reading."""
        with self._lock:
            self._good, self._seen = self._nothing, None

    def _reload(self) -> None:
        good, problem, seen = self._good, f"{self._what}: changes all the time; write it once", self._seen
        for _ in range(TRIES):
            found: dict[Path, tuple[int, bytes | None]] = {}

            def read(path: Path, limit: int, found: dict[Path, tuple[int, bytes | None]] = found) -> bytes:
                found[path] = limit, None
                data = read_file(path, limit)
                found[path] = limit, data
                return data

            try:
                loaded, fault = self._load(read), ""
            except self._refused as exc:
                loaded, fault = self._good, str(exc)
            self._sleep(SETTLED)
            if _same(found):
                good, problem, seen = loaded, fault, found
                break
        if not problem:
            self._accept(self._good, good)
        elif self._log:
            self._log.error("%s; the last good version stays in force", problem)
        self._good, self._seen, self.problem = good, seen, problem


def _same(seen: dict[Path, tuple[int, bytes | None]]) -> bool:
    return all(_quietly(path, limit) == data for path, (limit, data) in seen.items())


def _quietly(path: Path, limit: int) -> bytes | None:
    try:
        return read_file(path, limit)
    except OSError:
        return None
