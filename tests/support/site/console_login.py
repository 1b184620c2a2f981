"""How a browser logs in on the console, and sends a form that stands on a page."""

import re

import httpx2

from tests.support.site.service_process import SiteProcess

PAGES = ("/", "/machines", "/deployments", "/clusters", "/nodes", "/images", "/explain", "/events", "/audit")


def operator(site: SiteProcess, browser: httpx2.Client) -> httpx2.Client:
    """The same, logged in by the operator's link."""
    with site.client() as client:
        link = client.login_link().url
    page = browser.get(link)
    code = re.search(r'name="code" value="([^"]+)"', page.text)
    assert code, page.text
    got = browser.post("/console/login", data={"code": code[1]})
    assert (got.status_code, got.headers["location"]) == (303, "/console/"), got.text
    return browser


def person(browser: httpx2.Client, token: str) -> httpx2.Client:
    """The same, logged in by a token."""
    got = browser.post("/console/login", data={"token": token})
    assert got.status_code == 303, got.text
    return browser


def send(browser: httpx2.Client, page: str, action: str, **fields: str) -> httpx2.Response:
    """Send a form that stands on a page, with the secret that it carries there."""
    text = browser.get(page).text
    secret = re.search(r'name="form" value="([^"]+)"', text)
    assert secret, text
    assert f'action="{action}"' in text, text
    return browser.post(action, data={"form": secret[1], **fields})
