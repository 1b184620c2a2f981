"""Commands as processes of their own, without the half second for which each would import what others have imported;
and a runner of an app's commands in this process.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import typer.main
import typer.testing

from signer.runtime import terminal
from tests.support.forkserver import PROCESSES


class CliRunner(typer.testing.CliRunner):
    """Typer's runner, with the option that `partita` gives to every command."""

    def invoke(self, app: typer.Typer, *arguments: Any, **options: Any) -> Any:
        """Run a command of an app."""
        with patch.object(typer.testing, "_get_command", _make_command):
            return super().invoke(app, *arguments, **options)


def _make_command(app: typer.Typer) -> Any:
    command = typer.main.get_command(app)
    terminal.add_json_option(command)
    return command


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
