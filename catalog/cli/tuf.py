"""`partita catalog tuf`: the catalog's TUF repository, its keys and their ceremonies."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from catalog.cli.options import Directory, catalog_settings, writing
from catalog.errors import Misused, NotFound
from signer.cli import read_passphrase
from signer.runtime import terminal
from signer.runtime.clock import current_second

if TYPE_CHECKING:
    from catalog.db.engine import Transaction
    from catalog.tuf.metadata import MetadataSigner
    from catalog.tuf_repository.key_ceremony import CeremonyResult
    from catalog.tuf_repository.repository import TufRepository

tuf_app = typer.Typer(
    name="tuf", help="Manage the catalog's TUF repository: keys, rotation, status.", no_args_is_help=True
)
Keys = Annotated[
    list[Path] | None,
    typer.Option(
        "--key", help="Key file, or directory of them, to sign with; repeatable. Else those in DIR/tuf/offline."
    ),
]
Passphrase = Annotated[Path | None, typer.Option("--passphrase-file", help="File whose first line is the passphrase.")]


@tuf_app.command("init")
def tuf_init(
    context: typer.Context,
    directory: Directory = None,
    root_keys: Annotated[int, typer.Option(min=1, max=16, help="How many root keys to make.")] = 3,
    threshold: Annotated[int, typer.Option(min=1, max=16, help="How many of them must sign.")] = 2,
    bits: Annotated[int | None, typer.Option(min=1, max=16, help="2^BITS bins; else the setting tuf_bits.")] = None,
    offline: Annotated[
        Path | None, typer.Option(help="Directory for root and targets keys, outside the service's own.")
    ] = None,
    passphrase_file: Passphrase = None,
) -> None:
    """Make the keys and the first metadata. `serve` does the same, with the defaults, if there are none."""
    settings = catalog_settings(context, directory)
    passphrase = read_passphrase(passphrase_file) or None
    with _repository(context, directory) as (repository, connection):
        repository.create(
            connection,
            current_second(),
            root_keys=root_keys,
            threshold=threshold,
            bits=settings.tuf_bits if bits is None else bits,
            offline=offline,
            passphrase=passphrase,
        )
    place = offline or repository.offline
    shown = (
        f"sites pin {repository.root_file}\nkeep offline, each root key on media of its own: {place}\n"
        f"{threshold} of {root_keys} root keys can replace any key; back up {repository.online}"
    )
    terminal.show({"root": str(repository.root_file), "offline": str(place)}, shown)


@tuf_app.command("status")
def tuf_status(context: typer.Context, directory: Directory = None) -> None:
    """Show version, expiry and keys of each role, and warn about what an operator should do."""
    from catalog.tuf_repository.status import list_role_statuses, list_warnings

    with _repository(context, directory) as (repository, connection):
        found = list_role_statuses(repository, connection)
        todo = list_warnings(repository, connection, current_second())
    rows = [
        [
            one.role,
            one.version,
            f"{one.expires:%Y-%m-%d %H:%M}",
            f"{one.threshold} of {len(one.keys)}",
            len(one.present),
        ]
        for one in found
    ]
    for one in todo:
        terminal.say(one)
    roles = [asdict(one) | {"expires": one.expires.isoformat(), "due": one.due.isoformat()} for one in found]
    value = {"roles": roles, "warnings": list(todo)}
    terminal.show(value, terminal.table(["ROLE", "VERSION", "EXPIRES", "SIGN", "KEYS HERE"], rows))


@tuf_app.command("export")
def tuf_export(
    context: typer.Context,
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.")],
    directory: Directory = None,
) -> None:
    """Write the root in force to a file, for sites to pin with `partita node trust-root`."""
    from catalog.client.trusted import pin_root

    with _repository(context, directory) as (repository, connection):
        digest = pin_root(output, repository.latest(connection, "root").data)
    terminal.show({"root": str(output), "sha256": digest}, f"{output}\nSHA-256 {digest}")


@tuf_app.command("rotate")
def tuf_rotate(
    context: typer.Context,
    role: Annotated[str, typer.Argument(help="root, targets, snapshot, timestamp or bins.")],
    key: Keys = None,
    passphrase_file: Passphrase = None,
    directory: Directory = None,
) -> None:
    """Replace the keys of a role: after a theft, a loss, or a year. Nodes and a running service follow automatically."""
    from catalog.tuf_repository.key_ceremony import KeyCeremony

    passphrase = read_passphrase(passphrase_file) or None
    with _repository(context, directory) as (repository, connection):
        signers = _signers(key or [repository.offline], passphrase)
        outcome = KeyCeremony(repository).rotate(connection, role, signers, passphrase, current_second())
    _show(outcome)


@tuf_app.command("sign")
def tuf_sign(
    context: typer.Context,
    role: Annotated[str, typer.Argument(help="root or targets.")],
    key: Keys = None,
    file: Annotated[
        Path | None, typer.Option(help="Sign this proposal file, on a machine without the catalog.")
    ] = None,
    passphrase_file: Passphrase = None,
    directory: Directory = None,
) -> None:
    """Sign the proposals, or renew a role for another year. Metadata comes into force with the last missing signature."""
    from catalog.tuf_repository.key_ceremony import KeyCeremony, read_proposal, sign_document
    from catalog.tuf_repository.repository import write_file

    passphrase = read_passphrase(passphrase_file) or None
    if file is not None:
        signers = _signers(key or [], passphrase)
        if not signers:
            raise Misused("no keys to sign with; give --key FILE")
        write_file(file, sign_document(read_proposal(file), signers))
        shown = f"signed {file}; bring it back to the catalog, beside its root.json"
        terminal.show({"signed": str(file)}, shown)
        return
    with _repository(context, directory) as (repository, connection):
        signers = _signers(key or [repository.offline], passphrase)
        outcome = KeyCeremony(repository).sign(connection, role, signers, current_second())
    _show(outcome)


@tuf_app.command("drop")
def tuf_drop(context: typer.Context, directory: Directory = None) -> None:
    """Delete the proposals that are not yet in force."""
    from catalog.tuf_repository.key_ceremony import KeyCeremony

    with _repository(context, directory) as (repository, _):
        removed = KeyCeremony(repository).drop()
    shown = "\n".join(f"removed {path}" for path in removed) or "there are no proposals"
    terminal.show({"removed": list(removed)}, shown)


@contextmanager
def _repository(context: typer.Context, directory: Path | None) -> Iterator[tuple["TufRepository", "Transaction"]]:
    """The TUF repository of a catalog's directory, in one transaction; the service may be running."""
    from catalog.tuf_repository.repository import TufRepository

    with writing(context, directory) as connection:
        yield TufRepository(catalog_settings(context, directory).directory / "tuf"), connection


def _signers(places: list[Path], passphrase: str | None) -> "list[MetadataSigner]":
    from catalog.tuf.keys import key_files, load_key
    from catalog.tuf.metadata import MetadataSigner

    files = [file for place in places for file in (key_files(place) if place.is_dir() else [place])]
    return [MetadataSigner(load_key(file, passphrase)) for file in files if file.suffix == ".pem" or _exists(file)]


def _exists(file: Path) -> bool:
    if not file.exists():
        if file.name == "offline":  # the default directory: offline keys should not be there
            return False
        raise NotFound(f"{file}: key file not found")
    return True


def _show(outcome: "CeremonyResult") -> None:
    lines = [f"made {path}" for path in outcome.made]
    lines += [f"{role} is in force" for role in outcome.adopted]
    lines += [f"waiting for signatures: {path}" for path in outcome.files]
    lines += [f"missing: {one}" for one in outcome.lacking]
    terminal.show(asdict(outcome), "\n".join(lines))
