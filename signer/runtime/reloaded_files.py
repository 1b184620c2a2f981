"""Files that are read again, as a whole, when they change.

Files that do not validate never come into force: the last valid value stays, or without one a value that allows nothing,
and `problem` says what is wrong. So a mistake in a file does not take a service down.
"""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from signer.runtime.files import read_file

SETTLED = 0.02
"""Seconds between two readings of changed files. A partly written file may be valid, and more permissive: both readings
must be the same, or the file is still being written."""

TRIES = 50
"""Pairs of readings until the files count as changing all the time."""

T = TypeVar("T")
FileReader = Callable[[Path, int], bytes]
"""Reads a file, or one byte more than the limit of it; OSError if it cannot be read. `files.read_file` is one."""


class ReloadedFiles(Generic[T]):
    """The value of files, or their last valid one. Safe to use from several threads.

    Args:
        what: the files' name in messages.
        load: makes the value, reading files with the FileReader that it is given.
        refused: the error that `load` raises if a file cannot be used.
        nothing: the value until the files have been valid once; it must allow nothing.
        accept: called with the old and the new value before the new one comes into force; an exception prevents that.
        log: for problems.
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
        """Why the files as they are now are not in force; empty if they are."""

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
    return all(_read_or_none(path, limit) == data for path, (limit, data) in seen.items())


def _read_or_none(path: Path, limit: int) -> bytes | None:
    try:
        return read_file(path, limit)
    except OSError:
        return None
