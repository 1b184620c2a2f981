"""The console over HTTPS, without a browser: who gets in, what each page shows to whom, and what forms do."""

import re
import ssl
from collections.abc import Iterator

import httpx
import pytest

from deployer.site.pages import POLICY
from tests.deployer.conftest import Community
from tests.deployer.nodes import policy
from tests.site.worlds import PaperNode, People, SiteProcess, populace

PAGES = ("/", "/machines", "/deployments", "/clusters", "/nodes", "/images", "/explain", "/events", "/audit")


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Iterator[People]:
    """Somebody to look."""
    with populace(tmp_path_factory.mktemp("people")) as found:
        yield found


@pytest.fixture(scope="module")
def site(community: Community, people: People) -> Iterator[SiteProcess]:
    """A site with a policy and people, and a node of paper."""
    text = policy(community.star.anchor(), machines=1000)
    rates = {"failure_rate": 1000.0, "address_rate": 10_000.0, "person_rate": 1000.0}
    with SiteProcess(community.service.url, text, **rates, **people.settings()) as found:
        PaperNode(found, "paper", cores=100, memory=200 << 30)
        yield found


@pytest.fixture(scope="module")
def context(site: SiteProcess) -> ssl.SSLContext:
    """By which clients believe the site."""
    return ssl.create_default_context(cadata=site.ca)


@pytest.fixture
def browser(site: SiteProcess, context: ssl.SSLContext) -> Iterator[httpx.Client]:
    """A browser without JavaScript, and nobody in particular yet."""
    with httpx.Client(base_url=site.url, verify=context, trust_env=False, timeout=60) as found:
        yield found


def operator(site: SiteProcess, browser: httpx.Client) -> httpx.Client:
    """The same, logged in by the operator's link."""
    with site.client() as client:
        link = client.login_link().url
    page = browser.get(link)
    code = re.search(r'name="code" value="([^"]+)"', page.text)
    assert code, page.text
    got = browser.post("/console/login", data={"code": code[1]})
    assert (got.status_code, got.headers["location"]) == (303, "/console/"), got.text
    return browser


def person(browser: httpx.Client, token: str) -> httpx.Client:
    """The same, logged in by a token."""
    got = browser.post("/console/login", data={"token": token})
    assert got.status_code == 303, got.text
    return browser


def send(browser: httpx.Client, page: str, action: str, **fields: str) -> httpx.Response:
    """Send a form that stands on a page, with the secret that it carries there."""
    text = browser.get(page).text
    secret = re.search(r'name="form" value="([^"]+)"', text)
    assert secret, text
    assert f'action="{action}"' in text, text
    return browser.post(action, data={"form": secret[1], **fields})


def test_every_page_is_there_for_the_operator(site: SiteProcess, browser: httpx.Client) -> None:
    """Each answers, with all headers, and loads nothing from elsewhere and nothing inline."""
    ordered = site.deploy(lifetime=3600)
    machine = ordered.machines[0]
    asked = operator(site, browser)
    with site.client() as client:
        node = client.nodes()[0]
    pages = [*PAGES, f"/machines/{machine.uuid}", f"/deployments/{ordered.deployment.uuid}", f"/nodes/{node.uuid}"]
    pages += ["/explain?image=star/hello@1.0&count=2&memory=64MiB&lifetime=1h&cores="]
    for path in pages:
        got = asked.get(f"/console{path}")
        assert got.status_code == 200, f"{path}: {got.text}"
        assert got.headers["content-security-policy"] == POLICY
        assert got.headers["x-content-type-options"] == "nosniff"
        assert got.headers["cache-control"] == "no-store"
        assert not re.search(r"<style|<script(?! src=\"/)|\sstyle=|\son[a-z]+=|https?://[^<\s]*\.(js|css)", got.text), (
            path
        )
    assert machine.hostname in asked.get("/console/").text
    assert "paper" in asked.get("/console/nodes").text
    images = asked.get("/console/images").text
    assert "star/hello@1.0" in images
    assert "accepted" in images
    explained = asked.get(f"/console{pages[-1]}").text
    assert "star/hello@1.0 is accepted" in explained
    assert "There is room" in explained
    assert "asked for by" not in asked.get(f"/console/machines/{machine.uuid}").text
