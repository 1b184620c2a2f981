"""The command by which a node joins a site; it is mounted below `node`."""

from datetime import UTC
from typing import Annotated

import typer

from catalog.errors import Misused
from signer.runtime import terminal
from signer.runtime.terminal import Json
from stager.settings import NodeSettings


def node_join(
    context: typer.Context,
    url: Annotated[str, typer.Argument(help="The site, such as https://site.example.org:7443.")],
    token: Annotated[str, typer.Argument(help="What its operator got with `partita site token`.")],
    name: Annotated[str, typer.Option(help="What the node is called there; its host name if not given.")] = "",
    again: Annotated[bool, typer.Option("--again", help="Forget the site that the node belongs to.")] = False,
    json: Json = False,
) -> None:
    """Let this node work for a site: it gets a certificate, and machines from there. A running node takes note."""
    from deployer.pki.ca import validity_period
    from deployer.site.client.node_join import CREDENTIALS_DIRECTORY, join_site

    settings = terminal.section(context, NodeSettings)
    place = settings.directory / CREDENTIALS_DIRECTORY
    if place.exists() and not again:
        raise Misused(f"{place}: this node belongs to a site already; give --again to leave that and join another")
    joined = join_site(place, url, token, name, settings.labels)
    until = validity_period(joined.certificate.encode())[1].astimezone(UTC)
    value = {"node": joined.node, "name": joined.name, "url": url, "certificate_until": until.isoformat()}
    text = f"joined {url} as {joined.name} ({joined.node}); the certificate holds until {until:%Y-%m-%d} and is renewed"
    terminal.show(value, text, as_json=json)
