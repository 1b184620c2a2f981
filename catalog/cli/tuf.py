"""The commands around freshness: the catalog's TUF repository, its keys, mirrors, and a client that speaks plain TUF."""

import dataclasses
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from catalog.errors import CatalogError, Misused, NotFound
from catalog.settings import CatalogSettings
from signer.cli import read_passphrase
from signer.runtime import files, terminal
from signer.runtime.log_config import LogSettings, configure_logging
from signer.runtime.terminal import Json

if TYPE_CHECKING:
    from catalog.db.engine import Transaction
    from catalog.tuf.metadata import MetadataSigner
    from catalog.tuf_repository.key_ceremony import CeremonyResult
    from catalog.tuf_repository.repository import TufRepository
    from catalog.tuf_repository.status import TufRoleStatus

tuf_app = typer.Typer(
    name="tuf", help="The catalog's signed word on what is current: keys, rotation, state.", no_args_is_help=True
)
tuf_client_app = typer.Typer(
    name="tuf-client",
    help="A TUF client by the tuf-conformance protocol: the reading code of nodes, for any TUF repository.",
    no_args_is_help=True,
)

Directory = Annotated[
    Path | None, typer.Option("--directory", help="The catalog's directory; else the setting catalog.directory.")
]
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
    root_keys: Annotated[int, typer.Option(min=1, max=16, help="How many root keys are made.")] = 3,
    threshold: Annotated[int, typer.Option(min=1, max=16, help="How many of them must sign.")] = 2,
    bits: Annotated[int | None, typer.Option(min=1, max=16, help="2^BITS bins; else the setting tuf_bits.")] = None,
    offline: Annotated[
        Path | None, typer.Option(help="Where root and targets keys are put; not beside the service.")
    ] = None,
    passphrase_file: Passphrase = None,
    as_json: Json = False,
) -> None:
    """Make the keys and the first metadata. `serve` does it with the defaults where nobody has."""
    settings = _settings(context, directory)
    passphrase = read_passphrase(passphrase_file) or None
    with _repository(settings) as (repository, connection):
        repository.create(
            connection,
            _now(),
            root_keys=root_keys,
            threshold=threshold,
            bits=settings.tuf_bits if bits is None else bits,
            offline=offline,
            passphrase=passphrase,
        )
    place = offline or repository.offline
    shown = (
        f"sites pin {repository.root_file}\nkeep offline, each root key apart: {place}\n"
        f"{threshold} of {root_keys} root keys replace any key; back up {repository.online}"
    )
    terminal.show({"root": str(repository.root_file), "offline": str(place)}, shown, as_json=as_json)


@tuf_app.command("status")
def tuf_status(context: typer.Context, directory: Directory = None, as_json: Json = False) -> None:
    """Show each role: version, expiry, keys, and what an operator should do."""
    from catalog.tuf_repository.status import list_role_statuses, list_warnings

    with _repository(_settings(context, directory)) as (repository, connection):
        found, todo = list_role_statuses(repository, connection), list_warnings(repository, connection, _now())
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
    value = {"roles": [_row(one) for one in found], "warnings": list(todo)}
    terminal.show(value, terminal.table(["ROLE", "VERSION", "EXPIRES", "SIGN", "KEYS HERE"], rows), as_json=as_json)


@tuf_app.command("export")
def tuf_export(
    context: typer.Context,
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write it.")],
    directory: Directory = None,
    as_json: Json = False,
) -> None:
    """Write the root in force to a file, for sites to pin with `partita node trust-root`."""
    from catalog.client.trusted import pin_root

    with _repository(_settings(context, directory)) as (repository, connection):
        digest = pin_root(output, repository.latest(connection, "root"))
    terminal.show({"root": str(output), "sha256": digest}, f"{output}\nSHA-256 {digest}", as_json=as_json)


@tuf_app.command("rotate")
def tuf_rotate(
    context: typer.Context,
    role: Annotated[str, typer.Argument(help="root, targets, snapshot, timestamp or bins.")],
    key: Keys = None,
    passphrase_file: Passphrase = None,
    directory: Directory = None,
    as_json: Json = False,
) -> None:
    """Give a role fresh keys: after a theft, a loss, or a year. Nodes follow by themselves; a running service too."""
    from catalog.tuf_repository.key_ceremony import KeyCeremony

    passphrase = read_passphrase(passphrase_file) or None
    with _repository(_settings(context, directory)) as (repository, connection):
        signers = _signers(key or [repository.offline], passphrase)
        outcome = KeyCeremony(repository).rotate(connection, role, signers, passphrase, _now())
    _show(outcome, as_json)


@tuf_app.command("sign")
def tuf_sign(
    context: typer.Context,
    role: Annotated[str, typer.Argument(help="root or targets.")],
    key: Keys = None,
    file: Annotated[
        Path | None, typer.Option(help="Sign this proposal where it lies, on a machine without the catalog.")
    ] = None,
    passphrase_file: Passphrase = None,
    directory: Directory = None,
    as_json: Json = False,
) -> None:
    """Sign what is proposed, or the same again for another year; in force as soon as enough have signed."""
    from catalog.tuf_repository.key_ceremony import KeyCeremony, read_proposal, sign_document
    from catalog.tuf_repository.repository import write_file

    passphrase = read_passphrase(passphrase_file) or None
    if file is not None:
        signers = _signers(key or [], passphrase)
        if not signers:
            raise Misused("name the keys to sign with: --key FILE")
        write_file(file, sign_document(read_proposal(file), signers))
        shown = f"signed {file}; bring it back to the catalog, beside its root.json"
        terminal.show({"signed": str(file)}, shown, as_json=as_json)
        return
    with _repository(_settings(context, directory)) as (repository, connection):
        signers = _signers(key or [repository.offline], passphrase)
        outcome = KeyCeremony(repository).sign(connection, role, signers, _now())
    _show(outcome, as_json)


@tuf_app.command("drop")
def tuf_drop(context: typer.Context, directory: Directory = None, as_json: Json = False) -> None:
    """Give up what is proposed and not yet in force."""
    from catalog.tuf_repository.key_ceremony import KeyCeremony

    with _repository(_settings(context, directory)) as (repository, _):
        gone = KeyCeremony(repository).drop()
    terminal.show({"removed": list(gone)}, "\n".join(gone) or "nothing was proposed", as_json=as_json)


def mirror(
    context: typer.Context,
    url: Annotated[str, typer.Argument(help="The catalog to copy.")],
    directory: Directory = None,
    listen: Annotated[str | None, typer.Option(help="ADDRESS:PORT; else the setting catalog.listen.")] = None,
    every: Annotated[float, typer.Option(min=1, help="Seconds between two looks at the catalog.")] = 60.0,
    ready_file: Annotated[Path | None, typer.Option(help="Written with the URL when requests are answered.")] = None,
    as_json: Json = False,
) -> None:
    """Keep and serve a read-only copy of a catalog, for a site. It can withhold, and cannot forge."""
    from catalog.service.daemon import serve

    settings = _settings(context, directory)
    if listen is not None:
        settings = settings.model_copy(update={"listen": listen})
    configure_logging(terminal.section(context, LogSettings))

    def ready(here: str, _recovery: object) -> None:
        terminal.show({"url": here, "of": url}, f"mirror of {url} ready at {here}", as_json=as_json)
        if ready_file is not None:
            files.write(ready_file, f"{here}\n", sync=None)

    serve(settings, ready, mirror_of=url, every=every)


@tuf_client_app.callback()
def tuf_client(
    context: typer.Context,
    metadata_dir: Annotated[Path, typer.Option(help="Where trusted metadata is kept.")],
    metadata_url: Annotated[str, typer.Option(help="The repository's metadata.")] = "",
    target_name: Annotated[list[str] | None, typer.Option(help="A target's path; repeatable.")] = None,
    target_base_url: Annotated[str, typer.Option(help="The repository's targets.")] = "",
    target_dir: Annotated[Path | None, typer.Option(help="Where targets are put.")] = None,
) -> None:
    """A TUF client for any repository, by the protocol of the tuf-conformance suite; exit code 1 for every refusal."""
    context.obj = _Client(metadata_dir, metadata_url, tuple(target_name or ()), target_base_url, target_dir)


@tuf_client_app.command("init")
def tuf_client_init(context: typer.Context, trusted_root: Annotated[Path, typer.Argument(help="The root.")]) -> None:
    """Trust a root."""
    with _protocol():
        client: _Client = context.obj
        client.metadata_dir.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(trusted_root, client.metadata_dir / "root.json")


@tuf_client_app.command("refresh")
def tuf_client_refresh(context: typer.Context) -> None:
    """Bring the trusted metadata up to date."""
    with _protocol():
        context.obj.run()


@tuf_client_app.command("download")
def tuf_client_download(context: typer.Context) -> None:
    """Bring the trusted metadata up to date, and fetch targets in the order in which they are named."""
    with _protocol():
        context.obj.run(download=True)


@dataclasses.dataclass(frozen=True)
class _Client:
    metadata_dir: Path
    metadata_url: str
    target_names: tuple[str, ...]
    target_base_url: str
    target_dir: Path | None

    def run(self, *, download: bool = False) -> None:
        from catalog.tuf.client import TufClient, utc_now

        reader = TufClient(self.metadata_dir, None, utc_now, targets=self.target_dir)
        try:
            current = reader.refresh(self.metadata_url, self.target_base_url)
            for name in self.target_names if download else ():
                current.fetch(name)
        finally:
            reader.close()


@contextmanager
def _protocol() -> Iterator[None]:
    """The suite's protocol knows 0 and 1 only, so these commands, and no others, end by themselves."""
    try:
        yield
    except (CatalogError, OSError) as exc:
        sys.stderr.write(f"partita: {terminal.printable(str(exc))}\n")
        raise typer.Exit(1) from exc


@contextmanager
def _repository(settings: CatalogSettings) -> Iterator[tuple["TufRepository", "Transaction"]]:
    """The TUF repository of a catalog's directory, in one transaction; the service may be running."""
    from catalog.publication.state_directory import open_database
    from catalog.tuf_repository.repository import TufRepository

    database = open_database(settings.directory)
    try:
        with database.writing() as connection:
            yield TufRepository(settings.directory / "tuf"), connection
    finally:
        database.close()


def _signers(places: list[Path], passphrase: str | None) -> "list[MetadataSigner]":
    from catalog.tuf import keys as tuf_keys
    from catalog.tuf.metadata import MetadataSigner

    files = [file for place in places for file in (tuf_keys.key_files(place) if place.is_dir() else [place])]
    return [
        MetadataSigner(tuf_keys.load_key(file, passphrase)) for file in files if file.suffix == ".pem" or _there(file)
    ]


def _there(file: Path) -> bool:
    if not file.exists():
        if file.name == "offline":  # where keys are looked for when nobody says; they should not be there
            return False
        raise NotFound(f"{file}: key file not found")
    return True


def _row(one: "TufRoleStatus") -> dict[str, object]:
    return dataclasses.asdict(one) | {"expires": one.expires.isoformat(), "due": one.due.isoformat()}


def _show(outcome: "CeremonyResult", as_json: bool) -> None:
    lines = [f"made {path}" for path in outcome.made]
    lines += [f"{role} is in force" for role in outcome.adopted]
    lines += [f"waits: {path}" for path in outcome.files]
    lines += [f"lacks {one}" for one in outcome.lacking]
    terminal.show(dataclasses.asdict(outcome), "\n".join(lines), as_json=as_json)


def _settings(context: typer.Context, directory: Path | None) -> CatalogSettings:
    settings = terminal.section(context, CatalogSettings)
    return settings if directory is None else settings.model_copy(update={"directory": directory})


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)
