"""Arguments, options and output that several commands share."""

import base64
import functools
import inspect
import sys
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from catalog.errors import Misused
from catalog.image.manifest import Blank
from deployer.machine.user_data import MAX_USER_DATA
from deployer.protocol.console import sanitize_output
from signer.documents import Document, validate
from signer.runtime import files, terminal
from signer.runtime.units import parse_duration, parse_size

T = TypeVar("T")

ImageArgument = Annotated[
    str, typer.Argument(help="An image ID, VO/NAME@VERSION, or VO/NAME for its newest version.", metavar="IMAGE")
]
MachineArgument = Annotated[str, typer.Argument(help="A machine's UUID, the beginning of one, or its name.")]
RootFile = Annotated[Path, typer.Argument(help="The catalog's root.json, from its operator by a way that you trust.")]

CountOption = Annotated[int, typer.Option("--count", "-n", min=1, help="Number of machines.")]
MemoryOption = Annotated[str | None, typer.Option(help="Memory of each, such as 2GiB; by default the image's minimum.")]
CoresOption = Annotated[int | None, typer.Option(min=1, help="Cores of each; by default the image's minimum.")]
NetworkOption = Annotated[str | None, typer.Option(help="none, user, network:NAME or bridge:NAME.")]
UserDataOption = Annotated[
    Path | None, typer.Option(help="User-data for the guest's first boot: cloud-config or a script.", metavar="FILE")
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Only show what would happen.")]
FollowOption = Annotated[bool, typer.Option("--follow", "-f", help="Continue until the machine has ended.")]
RawOption = Annotated[bool, typer.Option("--raw", help="Print the bytes unchanged, terminal control included.")]
ReadyFile = Annotated[
    Path | None, typer.Option(help="Write the service's address here when it is ready.", metavar="FILE")
]


def parse_amount(text: str, parse: Callable[[str], T], option: str) -> T:
    """A size, duration or the like as people write it; Misused, with the option's name, if it is malformed."""
    try:
        return parse(text)
    except ValueError as exc:
        raise Misused(f"{option}: {exc}") from exc


def optional_amount(text: str | None, parse: Callable[[str], T], option: str) -> T | None:
    """As `parse_amount`; None for an option that is not given."""
    return parse_amount(text, parse, option) if text else None


def parse_blank(text: str) -> Blank:
    """SIZE[:FILESYSTEM[:LABEL]] of an extra disk; Misused if it is malformed."""
    size, _, rest = text.partition(":")
    filesystem, _, label = rest.partition(":")
    wanted = {"size": parse_amount(size, parse_size, "--blank"), "filesystem": filesystem or "none", "label": label}
    return validate(Blank, wanted, "--blank")


def with_order_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of every order in front of its own. It gets the members of a MachineOrder as `order`."""
    signature = inspect.signature(order_values, eval_str=True)
    shared = {name: one for name, one in signature.parameters.items() if name != "_context"}
    own = inspect.signature(command, eval_str=True).parameters
    parameters = [own["context"], *shared.values()]
    parameters += [one for name, one in own.items() if name not in {"context", "order"}]

    @functools.wraps(command)
    def run(**given: Any) -> None:
        order = order_values(given["context"], **{name: given.pop(name) for name in shared})
        command(order=order, **given)

    keyword = inspect.Parameter.KEYWORD_ONLY
    run.__signature__ = inspect.Signature([one.replace(kind=keyword) for one in parameters])  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    return run


def order_values(
    _context: typer.Context,
    image: ImageArgument,
    count: CountOption = 1,
    memory: MemoryOption = None,
    cores: CoresOption = None,
    max_memory: Annotated[
        str | None, typer.Option(help="Memory to which each may grow while it runs; by default its memory.")
    ] = None,
    max_cores: Annotated[
        int | None, typer.Option(min=1, help="Cores to which each may grow while it runs; by default its cores.")
    ] = None,
    lifetime: Annotated[
        str | None, typer.Option(help="Lifetime of each, such as 12h; by default that of the node or site.")
    ] = None,
    hostname: Annotated[str | None, typer.Option(help="Host name; with several machines a number is appended.")] = None,
    description: Annotated[str | None, typer.Option(help="A line for people, up to 200 characters.")] = None,
    network: NetworkOption = None,
    user_data: UserDataOption = None,
    public_key: Annotated[
        list[Path] | None, typer.Option(help="An OpenSSH public key for the guest's user; repeatable.", metavar="FILE")
    ] = None,
    blank: Annotated[
        list[str] | None,
        typer.Option(help="An extra disk, made on the node; repeatable.", metavar="SIZE[:FILESYSTEM[:LABEL]]"),
    ] = None,
    verify: Annotated[
        str, typer.Option(help="Check of the contents right before boot: `sample`, or `full` to hash them all.")
    ] = "sample",
) -> dict[str, Any]:
    """The members of an order from a command's options; options that are not given are left out. Misused as above."""
    values = {
        "image": image,
        "count": count,
        "memory": optional_amount(memory, parse_size, "--memory"),
        "cores": cores,
        "max_memory": optional_amount(max_memory, parse_size, "--max-memory"),
        "max_cores": max_cores,
        "lifetime": optional_amount(lifetime, parse_duration, "--lifetime"),
        "hostname": hostname,
        "description": description,
        "network": network,
        "user_data": encode_user_data(user_data),
        "public_keys": [read_text_file(path).strip() for path in public_key or ()],
        "blanks": [parse_blank(text).model_dump(mode="json") for text in blank or ()],
        "verify": verify,
    }
    return {name: value for name, value in values.items() if value is not None}


def read_text_file(path: Path) -> str:
    """The text of a small file; Misused if it cannot be read."""
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as exc:
        raise Misused(f"{path}: cannot be read: {exc}") from exc


def encode_user_data(path: Path | None) -> str | None:
    """User-data as orders carry it, in base64, with one byte more than allowed at most; Misused if it cannot be read."""
    return None if path is None else base64.b64encode(files.read_bounded(path, MAX_USER_DATA, Misused)).decode()


def print_console(chunks: Iterable[bytes], *, raw: bool) -> None:
    """Write console output to standard output: unchanged, or without what would control the terminal."""
    for chunk in chunks:
        if raw:
            sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()
        else:
            sys.stdout.write(sanitize_output(chunk))
            sys.stdout.flush()


def print_console_json(output: bytes) -> None:
    """Write console output as a JSON document."""
    terminal.show_json({"console": output.decode(errors="replace")})


def pin_trust_root(file: Path, place: Path) -> None:
    """Pin a catalog's TUF root as the file `place`; Misused if it cannot be read."""
    from catalog.client.trusted import pin_root  # loads the TUF library: only here

    try:
        data = file.read_bytes()
    except OSError as exc:
        raise Misused(f"{file}: cannot be read: {exc.strerror}") from exc
    digest = pin_root(place, data)
    text = f"pinned; compare this with the catalog's operator: SHA-256 {digest}"
    terminal.show({"root": str(place), "sha256": digest}, text)


def to_json(document: Document) -> dict[str, Any]:
    """A document as JSON-ready values, without members that are None."""
    return document.model_dump(mode="json", exclude_none=True)


def minute(at: datetime) -> str:
    """An instant (UTC) for a table."""
    return at.strftime("%Y-%m-%d %H:%M UTC")


def counts_text(counts: "dict[str, int]") -> str:
    """Counts by name, such as `2 running, 1 stopped`."""
    return ", ".join(f"{count} {name}" for name, count in counts.items()) or "none"
