"""How commands reach a site: its URL or socket, its CA, and the user's credentials.

A bearer token is looked for by WLCG's Bearer Token Discovery (v1.0): BEARER_TOKEN, the file that BEARER_TOKEN_FILE
names, `bt_uUID` in XDG_RUNTIME_DIR, `bt_uUID` in /tmp. The first one found is used, valid or not.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from catalog.errors import Misused
from deployer.site.client.client import SiteClient
from deployer.site.client.endpoint import SiteEndpoint
from deployer.site.settings import SiteSettings
from deployer.web.socket_paths import MAX_SOCKET, short_socket_path
from signer.runtime.files import read_file

MAX_TOKEN_FILE = 64 << 10
"""Bytes of a token's file."""


def operator_socket(settings: SiteSettings) -> Path:
    """The path of the operator's socket, for the service and for commands."""
    return settings.socket or short_socket_path(settings.directory, "site.sock", MAX_SOCKET)


def open_site_client(settings: SiteSettings, environ: Mapping[str, str], url: str = "") -> SiteClient:
    """A client of the site of the settings, or of `url`; without either, of the site on this machine.

    Raises:
        Misused: a file cannot be read, or the URL is not https and there is a token.
    """
    url = url or settings.url
    if not url:
        return SiteClient(SiteEndpoint(socket=operator_socket(settings)))
    ca = _text(settings.ca) if settings.ca is not None else None
    if settings.client_certificate is not None:
        key = settings.client_key or settings.client_certificate
        return SiteClient(SiteEndpoint(url=url, ca=ca, certificate=settings.client_certificate, key=key))
    token = _one_line(_text(settings.token)) if settings.token is not None else discover_token(environ, os.geteuid())
    if token and not url.startswith("https:"):
        raise Misused(f"{url}: a token is sent over https only, since others could read and use it on the way")
    return SiteClient(SiteEndpoint(url=url, ca=ca, token=token))


def discover_token(environ: Mapping[str, str], user: int, tmp: Path = Path("/tmp")) -> str:  # noqa: S108 - as the document says
    """The bearer token of this user, or an empty string.

    Args:
        environ: of the process.
        user: numeric.
        tmp: the directory of the last place.

    Raises:
        Misused: the first file that is named or exists cannot be read.
    """
    if text := environ.get("BEARER_TOKEN", "").strip():
        return _one_line(text)
    if named := environ.get("BEARER_TOKEN_FILE"):
        return _one_line(_text(Path(named)))
    runtime = environ.get("XDG_RUNTIME_DIR")
    for place in ([Path(runtime)] if runtime else []) + [tmp]:
        file = place / f"bt_u{user}"
        try:
            owner = file.stat().st_uid
        except OSError:
            continue
        if owner not in {user, 0}:
            raise Misused(f"{file}: the file belongs to another user; its token is not used")
        return _one_line(_text(file))
    return ""


def _text(file: Path) -> str:
    try:
        data = read_file(file, MAX_TOKEN_FILE)
        if len(data) > MAX_TOKEN_FILE:
            raise Misused(f"{file}: has more than {MAX_TOKEN_FILE} bytes")
        return data.decode("ascii")
    except (OSError, UnicodeDecodeError) as exc:
        raise Misused(f"{file}: cannot be read: {exc}") from exc


def _one_line(text: str) -> str:
    """A token that fits into a header; its value is never shown."""
    found = text.strip()
    if not found or not all("!" <= char <= "~" for char in found):
        raise Misused("the bearer token is not one word of printable ASCII")
    return found
