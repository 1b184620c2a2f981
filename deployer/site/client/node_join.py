"""How a node enters a site: it asks by what the site is believed, shows its token once, and keeps what it gets.

DIR/site/certificate.pem, key.pem   the node's own; the key is made here and goes nowhere
DIR/site/site.pem                   by what the site is believed
DIR/site/url                        where it is
"""

import platform
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from catalog.errors import Misused
from deployer.pki.ca import create_request
from deployer.protocol.joining import JoinRequest, JoinResponse, parse_token
from deployer.site.client.client import SiteClient, SiteEndpoint, fetch_anchors
from signer.documents import validate
from signer.runtime import files
from signer.runtime.clock import utc_now

CREDENTIALS_DIRECTORY = "site"
CERTIFICATE, KEY, ANCHORS, URL = "certificate.pem", "key.pem", "site.pem", "url"


def join_site(
    place: Path, url: str, token: str, name: str = "", labels: Mapping[str, str] | None = None
) -> JoinResponse:
    """Let a node join a site.

    Args:
        place: where what it gets is kept.
        url: of the site.
        token: as its operator hands it over.
        name: what the node calls itself; its host name if empty.
        labels: what its operator says of it.

    Raises:
        Misused: the token is none, whoever answers is not its site, or nothing can be written there.
        SiteUnavailable: nobody answers. JoinRefused: the token is not good. Conflict: the name is taken.
    """
    secret, fingerprint = parse_token(token)
    if not url.startswith("https://"):
        raise Misused(f"{url}: a node joins over https only; give the URL that came with the token")
    anchors = fetch_anchors(url, fingerprint).certificates
    key, request = create_request()
    wanted = {"token": secret, "request": request, "name": name or _host_name(), "labels": dict(labels or {})}
    with SiteClient(SiteEndpoint(url=url, ca=anchors)) as site:
        joined = site.join(validate(JoinRequest, wanted, "request to join"))
    write_credentials(place, joined.certificate, key, anchors, url)
    return joined


def write_credentials(place: Path, certificate: str, key: bytes, anchors: str, url: str) -> None:
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
            files.create(fresh / name, data)
        if place.exists():
            place.replace(place.with_name(f"{place.name}.{utc_now():%Y%m%dT%H%M%S}"))
        fresh.replace(place)
        files.sync_path(place.parent)
    except OSError as exc:
        raise Misused(f"{place}: cannot be written: {exc.strerror}; the token is used up, get another") from exc


def _host_name() -> str:
    """This machine's name, as far as it may stand in a site's list."""
    return re.sub(r"[^A-Za-z0-9.-]+", "-", platform.node())[:63].strip("-.") or "node"
