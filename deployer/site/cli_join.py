"""The command by which a node joins a site; it is mounted below `node`.

DIR/site/certificate.pem, key.pem   the node's own; the key is made here and goes nowhere
DIR/site/site.pem                   by what the site is believed
DIR/site/url                        where it is
"""

import os
import platform
import re
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from deployer.errors import Misused
from signer import terminal
from signer.documents import validate
from signer.terminal import Json
from stager.settings import NodeSettings

PLACE = "site"
CERTIFICATE, KEY, ANCHORS, URL = "certificate.pem", "key.pem", "site.pem", "url"


def node_join(
    context: typer.Context,
    url: Annotated[str, typer.Argument(help="The site, such as https://site.example.org:7443.")],
    token: Annotated[str, typer.Argument(help="What its operator got with `partita site token`.")],
    name: Annotated[str, typer.Option(help="What the node is called there; its host name if not given.")] = "",
    again: Annotated[bool, typer.Option("--again", help="Forget the site that the node belongs to.")] = False,
    json: Json = False,
) -> None:
    """Let this node work for a site: it gets a certificate, and machines from there. A running node takes note."""
    from deployer.site.authority import new_request, period
    from deployer.site.client import SiteClient, Way, first_contact
    from deployer.site.joining import parse_token
    from deployer.site.wire import JoinRequest

    secret, fingerprint = parse_token(token)
    if not url.startswith("https://"):
        raise Misused(f"{url}: a node joins over https only; give the URL that came with the token")
    settings = terminal.section(context, NodeSettings)
    place = settings.directory / PLACE
    if place.exists() and not again:
        raise Misused(f"{place}: this node belongs to a site already; give --again to leave that and join another")
    anchors = first_contact(url, fingerprint)
    key, request = new_request()
    wanted = validate(
        JoinRequest,
        {
            "token": secret,
            "request": request,
            "name": name or _host_name(),
            "labels": dict(settings.labels),
        },
        "request to join",
    )
    with SiteClient(Way(url=url, ca=anchors.certificates)) as site:
        joined = site.join(wanted)
    keep(place, joined.certificate, key, anchors.certificates, url)
    until = period(joined.certificate.encode())[1].astimezone(UTC)
    value = {"node": joined.node, "name": joined.name, "url": url, "certificate_until": until.isoformat()}
    text = f"joined {url} as {joined.name} ({joined.node}); the certificate holds until {until:%Y-%m-%d} and is renewed"
    terminal.show(value, text, as_json=json)


def keep(place: Path, certificate: str, key: bytes, anchors: str, url: str) -> None:
    """Write what a node knows of its site: all of it or nothing.

    Raises:
        Misused: it cannot be written.
    """
    fresh = place.with_name(place.name + ".new")
    try:
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700, parents=True)
        for name, data in (
            (CERTIFICATE, certificate.encode()),
            (KEY, key),
            (ANCHORS, anchors.encode()),
            (URL, url.rstrip("/").encode() + b"\n"),
        ):
            with os.fdopen(os.open(fresh / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        if place.exists():
            place.replace(place.with_name(f"{place.name}.{datetime.now(UTC):%Y%m%dT%H%M%S}"))
        fresh.replace(place)
    except OSError as exc:
        raise Misused(f"{place}: cannot be written: {exc.strerror}; the token is used up, get another") from exc


def _host_name() -> str:
    """This machine's name, as far as it may stand in a site's list."""
    return re.sub(r"[^A-Za-z0-9.-]+", "-", platform.node())[:63].strip("-.") or "node"
