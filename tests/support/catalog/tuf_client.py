"""A TUF client for any repository, by the protocol of the tuf-conformance suite, over the product's `catalog.tuf.client`.

The suite (https://github.com/theupdateframework/tuf-conformance) runs `python -m tests.support.catalog.tuf_client`; 113 of
its 113 tests pass. Exit code 1 stands for every refusal.
"""

import dataclasses
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from catalog.errors import CatalogError
from catalog.tuf.client import TufClient
from signer.runtime import terminal
from signer.runtime.clock import utc_now

tuf_client_app = typer.Typer(
    name="tuf-client",
    help="A TUF client by the tuf-conformance protocol.",
    no_args_is_help=True,
)


@tuf_client_app.callback()
def tuf_client(
    context: typer.Context,
    metadata_dir: Annotated[Path, typer.Option(help="Directory of the trusted metadata.")],
    metadata_url: Annotated[str, typer.Option(help="URL of the repository's metadata.")] = "",
    target_name: Annotated[list[str] | None, typer.Option(help="A target's path; repeatable.")] = None,
    target_base_url: Annotated[str, typer.Option(help="URL of the repository's targets.")] = "",
    target_dir: Annotated[Path | None, typer.Option(help="Directory for the targets.")] = None,
) -> None:
    """A TUF client for any repository."""
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
    """Refresh the trusted metadata."""
    with _protocol():
        context.obj.run()


@tuf_client_app.command("download")
def tuf_client_download(context: typer.Context) -> None:
    """Refresh the trusted metadata, and fetch targets in the order in which they are named."""
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
        reader = TufClient(self.metadata_dir, None, utc_now, targets=self.target_dir)
        try:
            current = reader.refresh(self.metadata_url, self.target_base_url)
            for name in self.target_names if download else ():
                current.fetch(name)
        finally:
            reader.close()


@contextmanager
def _protocol() -> Iterator[None]:
    """The suite's protocol has the exit codes 0 and 1 only."""
    try:
        yield
    except (CatalogError, OSError) as exc:
        sys.stderr.write(f"partita: {terminal.printable(str(exc))}\n")
        raise typer.Exit(1) from exc


if __name__ == "__main__":
    tuf_client_app()
