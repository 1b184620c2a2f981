"""The console's pages as text: templates, how values are written in them, and the headers that every page carries.

All that a page shows is escaped, and what cannot be printed (control characters, marks that turn writing around) is
written as an escape: names come from images and guests. A page loads nothing from elsewhere, and has nothing inline.
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
"""Content Security Policy, level 3: nothing inline, nothing from elsewhere, in nobody's frame."""

HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Of every page. A page is for whoever asked for it, and nothing on the way keeps it."""

_HERE = Path(__file__).resolve().parent
_KINDS = {"console.css": "text/css", "console.js": "text/javascript", "icon.svg": "image/svg+xml"}
_STATIC = {name: (_HERE / "static" / name).read_bytes() for name in _KINDS}


def render_page(template: str, values: Mapping[str, Any], status: int = 200) -> Response:
    """A page from a template."""
    return HTMLResponse(_TEMPLATES.get_template(template).render(values), status, HEADERS)


def static_file(name: str) -> Response | None:
    """A file that pages load, or None. Its address changes with what is in it, so it may be kept."""
    if name not in _STATIC:
        return None
    headers = HEADERS | {"Cache-Control": "private, max-age=31536000, immutable"}
    return Response(_STATIC[name], media_type=_KINDS[name], headers=headers)


def _address(name: str) -> str:
    """Where a page finds one of its files."""
    return f"{CONSOLE_PREFIX}/static/{name}?v={hashlib.sha256(_STATIC[name]).hexdigest()[:16]}"


def _shown(value: object) -> object:
    """Whatever a template writes: nothing for None, and no character that cannot be seen."""
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
    """An instant, for people and for programs."""
    if value is None:
        return Markup("never")
    known = value.astimezone(UTC)
    return Markup('<time datetime="{}">{}</time>').format(write_instant(known), f"{known:%Y-%m-%d %H:%M:%S} UTC")


def _short(value: str) -> str:
    """The beginning of a UUID or a digest: what tells it from others at a glance."""
    return value.removeprefix("sha256:")[: 12 if value.startswith("sha256:") else 8]


def _lasts(value: timedelta | int) -> str:
    return duration_text(value)


def _text64(value: str) -> str:
    """What base64 stands for, as text."""
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
