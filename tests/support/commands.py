"""Commands as processes of their own, without the half second for which each would import what others have imported;
and a runner of an app's commands in this process.
"""

import contextlib
import json
import os
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
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


def start(output: Path, errors: Path, *arguments: object) -> Any:
    """Start a command line of Partita in this process's environment and directory; returns its `multiprocessing` process."""
    words = [str(argument) for argument in arguments]
    process = PROCESSES.Process(target=_run, args=(words, output, errors, dict(os.environ), Path.cwd()))
    process.start()
    return process


def partita(*arguments: object) -> "subprocess.CompletedProcess[str]":
    """Run a command line of Partita in this process's environment and directory; `python -m partita` does the same."""
    words = [str(argument) for argument in arguments]
    with tempfile.TemporaryDirectory(prefix="command-") as place:
        output, errors = Path(place) / "output", Path(place) / "errors"
        process = start(output, errors, *words)
        process.join(PATIENCE)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(words, PATIENCE)
        return subprocess.CompletedProcess(words, process.exitcode, output.read_text(), errors.read_text())


CLIENT = """\
#!{python} -SE
import json, os, socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect({address!r})
socket.send_fds(connection, [b"."], [0, 1, 2])
connection.sendall(json.dumps([sys.argv[1:], dict(os.environ), os.getcwd()]).encode())
connection.shutdown(socket.SHUT_WR)
sys.exit(int(connection.recv(16) or b"1"))
"""
"""The program that a script finds: it hands over its words, environment, directory, input and outputs, and ends as told."""


@contextlib.contextmanager
def partita_on_path() -> Iterator[Path]:
    """A directory for a script's PATH, whose program `partita` has each command run by a forked process, as `partita` does."""
    with tempfile.TemporaryDirectory(prefix="pp-", dir="/tmp") as place:
        address, program = f"{place}/socket", Path(place, "partita")
        program.write_text(CLIENT.format(python=sys.executable, address=address))
        program.chmod(0o755)
        with socketserver.ThreadingUnixStreamServer(address, _Request) as server:
            serving = threading.Thread(target=server.serve_forever, args=(0.05,))
            serving.start()
            try:
                yield Path(place)
            finally:
                server.shutdown()
                serving.join()


class _Request(socketserver.BaseRequestHandler):
    """One command of a script."""

    def handle(self) -> None:
        """Let a process read what to do from the connection; answer with its exit code."""
        process = PROCESSES.Process(target=_run_for, args=(self.request,))
        process.start()
        process.join(PATIENCE)
        if process.exitcode is None:
            process.kill()
            process.join()
        with contextlib.suppress(BrokenPipeError):  # the process that asked has ended meanwhile
            self.request.sendall(str(process.exitcode).encode())


def _run_for(connection: socket.socket) -> None:
    """Read a command of `CLIENT` and run it."""
    _, files, _, _ = socket.recv_fds(connection, 1, 3)
    with connection, connection.makefile("rb") as stream:
        words, environment, here = json.load(stream)
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    _become(words, environment, here)


def _run(words: Sequence[str], output: Path, errors: Path, environment: dict[str, str], here: Path) -> None:
    for number, path in ((1, output), (2, errors)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
    _become(words, environment, here)


def _become(words: Sequence[str], environment: dict[str, str], here: Path | str) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(here)
    sys.argv = ["partita", *words]
    from partita import main

    main()
