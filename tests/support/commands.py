"""Commands as processes of their own, without the half second for which each would import what others have imported."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.support.forkserver import PROCESSES

PATIENCE = 120.0
"""Seconds after which a command is ended."""


def partita(*arguments: object) -> "subprocess.CompletedProcess[str]":
    """Run a command line of Partita in this process's environment and directory; `python -m partita` does the same."""
    words = [str(argument) for argument in arguments]
    with tempfile.TemporaryDirectory(prefix="command-") as place:
        output, errors = Path(place) / "output", Path(place) / "errors"
        process = PROCESSES.Process(target=_run, args=(words, output, errors, dict(os.environ), Path.cwd()))
        process.start()
        process.join(PATIENCE)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(words, PATIENCE)
        return subprocess.CompletedProcess(words, process.exitcode, output.read_text(), errors.read_text())


def _run(words: Sequence[str], output: Path, errors: Path, environment: dict[str, str], here: Path) -> None:
    for number, path in ((1, output), (2, errors)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(here)
    sys.argv = ["partita", *words]
    from partita import main

    main()
