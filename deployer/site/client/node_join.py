"""How a node joins a site: it fetches the site's CA, presents its token once, and keeps the credentials that it gets.

DIR/site/certificate.pem, key.pem   the node's own; the key is made here and never sent
DIR/site/site.pem                   the CA certificates of the site
DIR/site/url                        the site's URL
"""

import platform
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from catalog.errors import Misused
from deployer.pki.ca import create_request
from deployer.protocol.joining import JoinRequest, JoinResponse, parse_token
from deployer.site.client.client import SiteClient, fetch_anchors
from deployer.site.client.endpoint import SiteEndpoint
from signer.documents import validate
from signer.runtime import files
from signer.runtime.clock import utc_now

CREDENTIALS_DIRECTORY = "site"
CERTIFICATE, KEY, ANCHORS, URL = "certificate.pem", "key.pem", "site.pem", "url"


def join_site(
    place: Path, url: str, token: str, name: str = "", labels: Mapping[str, str] | None = None
) -> JoinResponse:
    """Join a site as a node.

    Args:
        place: the directory to keep the credentials in.
        url: of the site.
        token: from the site's operator.
        name: of the node; its host name if empty.
        labels: of the node, from its operator.

    Raises:
        Misused: not a token, the server is not the token's site, or `place` cannot be written.
        SiteUnavailable: the site does not answer. JoinRefused: the token is not valid. Conflict: the name is taken.
    """
    secret, fingerprint = parse_token(token)
    if not url.startswith("https://"):
        raise Misused(f"{url}: a node joins over https only; use the URL that came with the token")
    anchors = fetch_anchors(url, fingerprint).certificates
    key, request = create_request()
    wanted = {"token": secret, "request": request, "name": name or _host_name(), "labels": dict(labels or {})}
    with SiteClient(SiteEndpoint(url=url, ca=anchors)) as site:
        joined = site.join(validate(JoinRequest, wanted, "request to join"))
    write_credentials(place, joined.certificate, key, anchors, url)
    return joined


def write_credentials(place: Path, certificate: str, key: bytes, anchors: str, url: str) -> None:
    """Write a node's credentials for its site: all of them or none.

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
        raise Misused(f"{place}: cannot be written: {exc.strerror}; the token is used up, so get another one") from exc


def _host_name() -> str:
    """This machine's name, reduced to what a node's name may contain."""
    return re.sub(r"[^A-Za-z0-9.-]+", "-", platform.node())[:63].strip("-.") or "node"
