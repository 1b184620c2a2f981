"""docs/site.md names every route of the API, and no route that there is not."""

import re
from pathlib import Path

from deployer.site.api.app import create_site_app
from deployer.site.console.app import console_routes
from deployer.site.service.site import Site
from deployer.site.settings import SiteSettings

DOCUMENT = Path(__file__).resolve().parents[4] / "docs" / "site.md"
ROUTE = re.compile(r"^\| `([A-Z]+ /(?:v2/|livez|readyz)[^`]*)` \|", re.MULTILINE)


def test_every_route_is_documented(tmp_path: Path) -> None:
    """The table of routes is the routes."""
    site = Site.open(SiteSettings(directory=tmp_path / "site"), "https://localhost:1")
    try:
        paths = create_site_app(site, (console_routes,)).openapi()["paths"]
    finally:
        site.close()
    existing = {
        f"{method.upper()} {path}"
        for path, methods in paths.items()
        for method in methods
        if path.startswith("/v2/") or path in {"/livez", "/readyz"}
    }
    assert set(ROUTE.findall(DOCUMENT.read_text())) == existing
