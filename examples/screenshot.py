"""Takes a picture of a site's console with a headless Chromium, as its operator.

    python -m examples.screenshot LINK FILE.png [PATH]

LINK is what `partita site login` prints (`--json`: `url`); PATH is the page, /console/ if not given. Where no browser is
installed it says so and ends well: the picture is for people, and nothing depends on it.
"""

import shutil
import sys
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome")
"""What the browser is called by distributions."""

ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
"""No sandbox: it cannot be made by root, and only our own pages are loaded. The others keep the browser from calling home."""

PATIENCE = 60_000
"""Milliseconds for each step, on however busy a machine."""

SIZE = (1280, 900)
"""Pixels of the window; the picture is as long as the page."""


def screenshot(link: str, file: Path, path: str = "/console/") -> Path | None:
    """Log in by the operator's link and keep a picture of a page as PNG; None where there is no browser."""
    browser = next(filter(None, map(shutil.which, NAMES)), None)
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return None
    if browser is None:
        return None
    file.parent.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=browser, args=list(ARGUMENTS), timeout=PATIENCE)
        try:
            # The example's site made its own certificate, and the link came by its own socket on this machine.
            context = opened.new_context(ignore_https_errors=True, viewport={"width": SIZE[0], "height": SIZE[1]})
            context.set_default_timeout(PATIENCE)
            page = context.new_page()
            page.goto(link)
            page.click("#enter")
            page.wait_for_url("**/console/")
            page.goto(page.url.partition("/console/")[0] + path, wait_until="domcontentloaded")
            page.screenshot(path=file, full_page=True)
        finally:
            opened.close()
    return file


def main() -> int:
    """As the module's text says."""
    if len(sys.argv) not in {3, 4}:
        print(__doc__, file=sys.stderr)  # noqa: T201 - a command
        return 2
    taken = screenshot(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
    print(f"console: {taken}" if taken else "console: no picture, there is no Chromium here")  # noqa: T201 - a command
    return 0


if __name__ == "__main__":
    sys.exit(main())
