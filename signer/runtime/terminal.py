"""Output of all commands: how results, progress and errors reach a person or a program.

A command computes a value and shows it: as JSON when asked (`--json`), as a table or text otherwise. Progress bars go to
standard error and only to a terminal. Errors are one sentence on standard error; the exit code says the kind.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import typer
import typer.core
import typer.main
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

from signer.documents import Document
from signer.runtime.progress import Advance, ignore_progress
from signer.runtime.settings import Settings

WIDE = 240
"""Columns of text that goes to a file or a pipe, so that it is not cut to the width of a terminal."""

out = Console(highlight=False, soft_wrap=True, emoji=False, width=None if sys.stdout.isatty() else WIDE)
err = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)

UNBOUNDED = 1 << 16
"""Columns of a table that goes to a file or a pipe."""

S = TypeVar("S", bound=Document)


@dataclass
class OutputOptions:
    """How the running command prints its result: as JSON, or for people."""

    json: bool = False


options = OutputOptions()


def _choose(chosen: bool) -> None:
    options.json = chosen


def _declare_json(
    as_json: Annotated[
        bool, typer.Option("--json", callback=_choose, expose_value=False, help="Print the result as JSON.")
    ] = False,
) -> None:
    """Declare the option of all commands."""


def add_json_option(command: Any) -> None:
    """Give a command of typer, or all commands of a group, the option `--json`, which `show` obeys."""
    if isinstance(command, typer.core.TyperGroup):
        for inner in command.commands.values():
            add_json_option(inner)
    else:
        single = typer.Typer(add_completion=False)
        single.command()(_declare_json)
        command.params += typer.main.get_command(single).params


def section(context: typer.Context, model: type[S]) -> S:
    """Return the settings section of the given type, from the command line's context."""
    settings: Settings = context.find_object(Settings)  # type: ignore[assignment]
    return settings.section(model)


def show(value: Any, *texts: object) -> None:
    """Print a result: `value` (JSON-ready) when JSON was asked for, else texts (strings or Rich renderables)."""
    if options.json:
        show_json(value)
        return
    for text in texts:
        show_text(text)


def show_json(value: Any) -> None:
    """Print a JSON-ready value."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def show_text(text: object) -> None:
    """Print a string or a Rich renderable for people."""
    if isinstance(text, str):
        out.print(text, markup=False)
    else:
        # A file or a pipe has no width: text for programs must not be cut to that of an imagined screen.
        screen = out if out.is_terminal else Console(file=out.file, width=UNBOUNDED, highlight=False)
        screen.print(text, soft_wrap=False)


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
    """Make a plain table; every cell is shown as text, never as markup, with control characters escaped."""
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for at, column in enumerate(columns):
        # The first column identifies the row; the others give way to it, and nothing is ever cut off.
        grid.add_column(column, overflow="fold", no_wrap=at == 0)
    for row in rows:
        grid.add_row(*(_plain(str(cell)) for cell in row))
    return grid


def say(text: str) -> None:
    """Print a line for the person at the terminal on standard error; nothing if standard error is not a terminal."""
    if err.is_terminal:
        err.print(printable(text), markup=False)


def byte_bars() -> Progress:
    """Make bars of bytes with rate and time left, on standard error where that is a terminal; silent elsewhere."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=err, transient=True, disable=not err.is_terminal)


@contextmanager
def progress(label: str, total: int | None) -> Iterator[Advance]:
    """Show a progress bar in bytes with rate and time left; yields its Advance. Silent without a terminal."""
    if not err.is_terminal:
        yield ignore_progress
        return
    with byte_bars() as bars:
        task = bars.add_task(label, total=total)
        yield lambda done: bars.advance(task, done)


def format_size(count: int) -> str:
    """Write a number of bytes for people, in binary units: 1536 is `1.5 KiB`."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if amount < 1024 or unit == "TiB":
            return f"{count} B" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    raise AssertionError


def printable(text: str) -> str:
    """Escape control characters: names and keys are untrusted and must not control the terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode("ascii") for c in text)


def _plain(text: str) -> str:
    return printable(text).replace("[", r"\[")
