"""A function of the tests' own as a process with pipes, forked: without the half second in which each would import anew."""

import os
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tests.support.forkserver import PROCESSES
from tests.support.network_namespaces import Host, enter


class ForkedProcess:
    """Started at once, on a host; used as a `subprocess.Popen` with pipes for its input and output is.

    Attributes:
        log: the file that has what it writes to its standard error.
    """

    def __init__(self, host: Host, log: Path, target: Callable[..., None], *arguments: object) -> None:
        self.log = log
        theirs, stdin = PROCESSES.Pipe(duplex=False)
        stdout, output = PROCESSES.Pipe(duplex=False)
        with theirs, stdin, stdout, output:
            given = (host.namespace, log, theirs, output, target, arguments)
            self._process = PROCESSES.Process(target=_run, args=given, daemon=True)
            self._process.start()
            self.stdin, self.stdout, self.stderr = _file(stdin, "wb"), _file(stdout, "rb"), None
        host.adopt(self)

    def poll(self) -> int | None:
        """Its exit code once it has ended."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; its exit code."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(repr(self._process), timeout or 0.0)
        return self._process.exitcode

    def terminate(self) -> None:
        """Ask it to end."""
        self._process.terminate()

    def kill(self) -> None:
        """End it."""
        self._process.kill()


def _file(connection: Connection, mode: str) -> Any:
    return os.fdopen(os.dup(connection.fileno()), mode)


def _run(
    namespace: str,
    log: Path,
    stdin: Connection,
    stdout: Connection,
    target: Callable[..., None],
    arguments: tuple[object, ...],
) -> None:
    enter(namespace)
    with stdin, stdout, log.open("ab") as errors:
        for number, file in enumerate((stdin, stdout, errors)):
            os.dup2(file.fileno(), number)
    sys.stdin = os.fdopen(0)
    target(*arguments)
