"""The options that a site's commands share, and their connection to a site."""

import os
from typing import TYPE_CHECKING, Annotated

import typer

from deployer.site.settings import SiteSettings
from signer.runtime import terminal

if TYPE_CHECKING:  # it loads httpx2 and cryptography, which only commands that query a site need
    from deployer.site.client.client import SiteClient

SiteOption = Annotated[
    str, typer.Option("--site", help="The site's URL, instead of the one in the settings.", metavar="URL")
]
ReasonOption = Annotated[str, typer.Option("--reason", help="The reason; stored with the event.")]
VoOption = Annotated[str, typer.Option(help="Only of members of this VO.")]
KeyOption = Annotated[str, typer.Option(help="Idempotency key: repeating it returns the first result.")]
NodeName = Annotated[str, typer.Argument(help="A node's name, its UUID, or the beginning of one.")]
MachineName = Annotated[str, typer.Argument(help="A machine's UUID, the beginning of one, or its host name.")]


def open_client(context: typer.Context, url: str = "") -> "SiteClient":
    """A client of the site that the settings name, or of another one at `url`."""
    from deployer.site.client.discovery import open_site_client

    return open_site_client(terminal.section(context, SiteSettings), os.environ, url)
