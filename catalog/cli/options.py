"""The options that the commands of this package share, and how they open a catalog."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from catalog.settings import CatalogSettings
from signer.runtime import terminal

if TYPE_CHECKING:  # these load the HTTP client and the database: the command line starts without them
    from catalog.client.client import CatalogClient
    from catalog.db.engine import Transaction

Directory = Annotated[
    Path | None, typer.Option("--directory", help="The catalog's directory; else the setting catalog.directory.")
]
Url = Annotated[str | None, typer.Option("--catalog", help="URL of the catalog; else the setting catalog.url.")]
ImageReference = Annotated[str, typer.Argument(help="The image: VO/NAME@VERSION, VO/NAME or an image ID.")]
VoFilter = Annotated[str | None, typer.Option("--vo", help="Only of this VO.")]


def catalog_settings(context: typer.Context, directory: Path | None = None) -> CatalogSettings:
    """The section `catalog` of the settings, with the directory that an option names."""
    settings = terminal.section(context, CatalogSettings)
    return settings if directory is None else settings.model_copy(update={"directory": directory})


def open_client(context: typer.Context, url: str | None) -> "CatalogClient":
    """A client of the catalog that an option or the settings name, with the site's credential of the settings."""
    from catalog.client.client import CatalogClient
    from catalog.client.credential_file import read_credential

    settings = catalog_settings(context)
    return CatalogClient(url or settings.url, credential=read_credential(settings.credential))


@contextmanager
def writing(context: typer.Context, directory: Path | None) -> "Iterator[Transaction]":
    """A write transaction on the database in a catalog's directory; the service may be running."""
    from catalog.publication.state_directory import open_database

    with open_database(catalog_settings(context, directory).directory) as database, database.writing() as connection:
        yield connection
