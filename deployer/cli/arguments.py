"""Arguments and output that several commands share."""

import base64
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated

import typer

from catalog.errors import Misused
from catalog.image.manifest import Blank
from deployer.machine.user_data import MAX_USER_DATA
from deployer.protocol.console import sanitize_output
from signer.documents import validate
from signer.runtime.units import parse_size

MachineArgument = Annotated[str, typer.Argument(help="A machine's UUID, the beginning of one, or its name.")]


def parse_amount(text: str, parse: Callable[[object], int], option: str) -> int:
    """An amount as people write it; Misused if it is none."""
    try:
        return parse(text)
    except ValueError as exc:
        raise Misused(f"{option}: {exc}") from exc


def parse_blank(text: str) -> Blank:
    """SIZE[:FILESYSTEM[:LABEL]] as people write an extra disk; Misused if it is none."""
    size, _, rest = text.partition(":")
    filesystem, _, label = rest.partition(":")
    wanted = {"size": parse_amount(size, parse_size, "--blank"), "filesystem": filesystem or "none", "label": label}
    return validate(Blank, wanted, "--blank")


def read_text_file(path: Path) -> str:
    """What a small file of text says; Misused if it cannot be read."""
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as exc:
        raise Misused(f"{path}: cannot be read: {exc}") from exc


def encode_user_data(path: Path | None) -> str | None:
    """User-data as orders carry it: base64, one byte more than allowed at most; Misused if it cannot be read."""
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            data = file.read(MAX_USER_DATA + 1)
    except OSError as exc:
        raise Misused(f"{path}: cannot be read: {exc.strerror}") from exc
    return base64.b64encode(data).decode()


def print_console(chunks: Iterable[bytes], *, raw: bool) -> None:
    """What a guest wrote, to standard output: as it is, or without what would control the terminal."""
    for chunk in chunks:
        if raw:
            sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()
        else:
            sys.stdout.write(sanitize_output(chunk))
            sys.stdout.flush()
