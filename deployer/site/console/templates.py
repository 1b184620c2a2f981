"""Rendering of the console's pages: templates, their filters, and the headers of every page.

All values are HTML-escaped, and unprintable characters (control characters, bidirectional marks) are
written as escapes: names come from images and guests. A page loads nothing from other hosts, and has nothing inline.
"""

import base64
import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.responses import HTMLResponse, Response

from signer.runtime.terminal import printable
from signer.runtime.units import duration_text
from signer.statements.endorsement import write_instant

CONSOLE_PREFIX = "/console"

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'"
)
"""Content Security Policy, level 3: nothing inline, nothing from other hosts, no framing."""

HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Headers of every page. A page is for one user, and no cache keeps it."""

_HERE = Path(__file__).resolve().parent
_KINDS = {"console.css": "text/css", "console.js": "text/javascript", "icon.svg": "image/svg+xml"}
_STATIC = {name: (_HERE / "static" / name).read_bytes() for name in _KINDS}


def render_page(template: str, values: Mapping[str, Any], status: int = 200) -> Response:
    """Render a page from a template."""
    return HTMLResponse(_TEMPLATES.get_template(template).render(values), status, HEADERS)


def static_file(name: str) -> Response | None:
    """A file that pages load, or None. Its URL changes with its content, so it may be cached."""
    if name not in _STATIC:
        return None
    headers = HEADERS | {"Cache-Control": "private, max-age=31536000, immutable"}
    return Response(_STATIC[name], media_type=_KINDS[name], headers=headers)


def _address(name: str) -> str:
    """The URL of a static file."""
    return f"{CONSOLE_PREFIX}/static/{name}?v={hashlib.sha256(_STATIC[name]).hexdigest()[:16]}"


def _shown(value: object) -> object:
    """A value for a template: empty for None, and without unprintable characters."""
    if value is None:
        return ""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _size(value: float) -> str:
    """Bytes for people: three digits and a binary unit."""
    amount, units = float(value), iter(("B", "KiB", "MiB", "GiB"))
    unit = next(units)
    while amount >= 1024:
        amount, unit = amount / 1024, next(units, "TiB")
        if unit == "TiB":
            break
    return f"{amount:.0f} {unit}" if amount >= 99.95 else f"{amount:.3g} {unit}"


def _when(value: datetime | None) -> Markup:
    """An instant, for people and programs."""
    if value is None:
        return Markup("never")
    known = value.astimezone(UTC)
    return Markup('<time datetime="{}">{}</time>').format(write_instant(known), f"{known:%Y-%m-%d %H:%M:%S} UTC")


def _short(value: str) -> str:
    """The beginning of a UUID or a digest."""
    return value.removeprefix("sha256:")[: 12 if value.startswith("sha256:") else 8]


def _lasts(value: timedelta | int) -> str:
    return duration_text(value)


def _text64(value: str) -> str:
    """Decoded base64, as text."""
    return base64.b64decode(value).decode("utf-8", "replace")


_TEMPLATES = Environment(
    loader=FileSystemLoader(_HERE / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    finalize=_shown,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.filters.update(size=_size, when=_when, short=_short, lasts=_lasts, text64=_text64)
_TEMPLATES.globals.update(prefix=CONSOLE_PREFIX, static=_address)
