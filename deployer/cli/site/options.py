"""The options that the commands of a site share, and how they reach one."""

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deployer.site.settings import SiteSettings
from signer.documents import Document
from signer.runtime import terminal

if TYPE_CHECKING:  # it loads httpx and cryptography: only whoever asks a site pays for that
    from deployer.site.client.client import SiteClient

SiteOption = Annotated[
    str, typer.Option("--site", help="The site's URL, instead of the one in the settings.", metavar="URL")
]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why; kept with the event.")]
NodeName = Annotated[str, typer.Argument(help="A node's name, its UUID, or the beginning of one.")]
MachineName = Annotated[str, typer.Argument(help="A machine's UUID, the beginning of one, or its host name.")]


def open_client(context: typer.Context, url: str = "") -> "SiteClient":
    """A client of the site that the settings name."""
    from deployer.site.client.discovery import open_site_client

    return open_site_client(terminal.section(context, SiteSettings), os.environ, url)


def to_json(document: Document) -> dict[str, Any]:
    """A document for programs."""
    return document.model_dump(mode="json", exclude_none=True)
