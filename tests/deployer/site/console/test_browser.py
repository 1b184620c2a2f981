"""The console in a real Chromium: live without reloading, without JavaScript, by keyboard, on a telephone, in the dark."""

import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from deployer.protocol.deployment_request import DeploymentRequest
from deployer.protocol.swarm_report import ContentFeed, SwarmReport
from deployer.site.client.clusters import ClusterClient
from deployer.site.schema.clusters import ClusterRequest
from examples.screenshot import ARGUMENTS, NAMES
from signer.documents import validate
from stager.content.peer_stats import PeerStats
from tests.support.node.community import Community
from tests.support.node.service_process import policy
from tests.support.site.service_process import PaperNode, People, SiteProcess, populace

PATIENCE = 60_000
"""Milliseconds within which everything happens, on however busy a machine."""

PAGES = ("/", "/machines", "/deployments", "/clusters", "/nodes", "/images", "/explain", "/events", "/audit")

CLUSTER = {
    "document": {
        "name": "star",
        "roles": {
            "head": {"image": "star/hello@1.0", "ready": "running", "provides": ["batch"]},
            "worker": {"image": "star/hello@1.0", "ready": "running", "count": 2, "requires": ["batch"]},
        },
    }
}


SWARM = SwarmReport(
    name="-PA0100-paper",
    contents=(
        ContentFeed(
            address="ab" * 32 + "-1048576",
            image="star/hello@1.0",
            arriving=True,
            from_peers=9 << 20,
            from_origin=1 << 30,
            origin_rate=1 << 20,
            feeders=(PeerStats(peer="x" * 20, at="[2001:db8:1234:5678:9abc:def0:1234:5678]:65535", received=9 << 20),),
        ),
    ),
)


class World:
    """A site with a node, a machine of somebody's, a cluster, and a browser."""

    def __init__(self, site: SiteProcess, node: PaperNode, people: People, browser: Browser) -> None:
        self.site, self.node, self.people, self.browser = site, node, people, browser
        self.said: list[str] = []
        self.machine = site.deploy(lifetime=7200).machines[0]
        with site.client() as client:
            order = validate(ClusterRequest, CLUSTER, "cluster")
            self.cluster = ClusterClient(client).create(order, str(uuid.uuid4())).uuid
        node.step()
        site.wait_state(self.machine.uuid, "running")

    def context(self, *, width: int = 1280, dark: bool = False, script: bool = True) -> BrowserContext:
        """A browser of somebody's own. What it complains about is kept in `said`."""
        found = self.browser.new_context(
            ignore_https_errors=True,  # the site's own CA; what TLS proves is tested elsewhere
            viewport={"width": width, "height": 640},
            color_scheme="dark" if dark else "light",
            java_script_enabled=script,
            reduced_motion="reduce",
        )
        found.set_default_timeout(PATIENCE)
        found.on("console", lambda message: self.said.append(message.text))
        found.on("weberror", lambda error: self.said.append(str(error.error)))
        return found

    def operator(self, **how: bool | int) -> Page:
        """A page of the operator's, who has logged in by a link."""
        page = self.context(**how).new_page()
        with self.site.client() as client:
            page.goto(client.login_link().url)
        page.click("#enter")
        page.wait_for_url("**/console/")
        return page

    def go(self, page: Page, path: str) -> None:
        """To a page of the console; its stream of events never ends, so that is not waited for."""
        page.goto(f"{self.site.url}/console{path}", wait_until="load")


@pytest.fixture(scope="module")
def world(community: Community, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """All tests look at the same site; those that change something say so."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    expect.set_options(timeout=PATIENCE)
    assert path, "there is no chromium: `./dev setup` installs it"
    text = policy(community.star.anchor(), machines=1000)
    with (
        populace(tmp_path_factory.mktemp("people")) as people,
        SiteProcess(community.service.url, text, person_rate=1000.0, **people.settings()) as site,
        sync_playwright() as playwright,
    ):
        node = PaperNode(site, "paper", cores=100, memory=200 << 30)
        browser = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        try:
            yield World(site, node, people, browser)
        finally:
            browser.close()


def test_somebody_logs_in_with_a_token_and_sees_their_own_and_what_happens(world: World) -> None:
    """The machine that is ordered meanwhile appears by itself: no page is loaded again."""
    token = world.people.star("ann")
    page = world.context().new_page()
    world.go(page, "/machines")
    page.fill("#token", token)
    page.click("#enter")
    page.wait_for_url("**/console/machines")
    expect(page.locator("#live")).to_contain_text("None.")
    expect(page.locator("#following")).to_contain_text("Live")
    page.evaluate("window.before = true")
    with world.site.reach(token=token) as client:
        made = client.create(DeploymentRequest(image="star/hello@1.0", lifetime=3600), str(uuid.uuid4())).machines[0]
    expect(page.get_by_role("link", name=made.hostname)).to_be_visible()
    world.node.step()
    expect(page.locator("td .s-running")).to_be_visible()
    assert page.evaluate("before"), "the page was loaded again"
    page.get_by_role("link", name=made.hostname).click()
    page.get_by_role("button", name="Destroy").click()
    expect(page.locator("#live")).to_contain_text("destroying")
    world.node.step()
    expect(page.locator("dd .s-ended").first).to_be_visible()
    page.click("#logout")
    page.wait_for_url("**/console/login")
    assert page.context.cookies() == []
    page.context.close()
    assert world.said == []


def test_pages_fit_a_telephone_and_are_dark_at_night(world: World, tmp_path: Path) -> None:
    """No page is wider than 360 pixels; nothing violates the policy of its contents; pictures are kept."""
    world.node.step(cached=("ab" * 32 + "-1048576",), swarm=SWARM)
    page, dark = world.operator(width=360), world.operator(dark=True)
    paper = "getComputedStyle(document.documentElement).backgroundColor"
    assert page.evaluate(paper) != dark.evaluate(paper)
    paths = [*PAGES, f"/machines/{world.machine.uuid}", f"/deployments/{world.machine.deployment}"]
    paths += [f"/clusters/{world.cluster}", "/nodes/paper", "/explain?image=star/hello%401.0&count=2"]
    for number, path in enumerate(paths):
        world.go(page, path)
        name = path.partition("?")[0].strip("/").replace("/", "-") or "overview"
        wide = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        page.screenshot(path=tmp_path / f"{number}-{name}-360.png", full_page=True)
        assert wide[0] <= wide[1] == 360, path
        if number in {0, 4, 11}:
            world.go(dark, path)
            dark.screenshot(path=tmp_path / f"{number}-{name}-dark.png", full_page=True)
    page.context.close()
    dark.context.close()
    assert world.said == []


def test_without_javascript_pages_say_the_same(world: World) -> None:
    """What a page shows does not depend on scripts, and its forms work."""
    with_script, without = world.operator(), world.operator(script=False)
    for path in ("/", f"/clusters/{world.cluster}", f"/deployments/{world.machine.deployment}", "/images"):
        for page in (with_script, without):
            world.go(page, path)
        texts = [page.locator("#main").inner_text() for page in (with_script, without)]
        assert texts[0] == texts[1], path
        assert len(texts[0]) > 100
    world.go(without, "/nodes/paper")
    without.fill("#reason", "<b>dust</b>")
    without.click("#drain")
    expect(without.locator("dd .s-draining")).to_be_visible()
    expect(without.get_by_text("<b>dust</b> (by operator)")).to_be_visible()
    without.click("#undrain")
    expect(without.locator("dd .s-ready")).to_be_visible()
    with_script.context.close()
    without.context.close()


def test_the_map_of_the_swarm_is_read_by_keyboard(world: World) -> None:
    """Each arrow and each node has the focus in its turn, and says what it is; a node leads to its page."""
    world.node.step(swarm=SWARM)
    page = world.operator(width=360, script=False)
    world.go(page, "/nodes")
    arrow = page.get_by_role("img", name="the catalog sent 1 GiB to paper, now 1 MiB per second")
    arrow.focus()
    expect(arrow).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_role("img", name="elsewhere sent 9 MiB to paper")).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_url("**/console/nodes/*")
    expect(page.get_by_role("table", name="Contents that it receives")).to_contain_text("star/hello@1.0")
    page.context.close()
    assert world.said == []


def test_everything_is_reached_by_keyboard(world: World) -> None:
    """Tab comes by every link, field and button once, in order, each can be seen to have the focus; Enter does it."""
    page = world.operator()
    world.go(page, f"/machines/{world.machine.uuid}")
    expect(page.locator("#following")).to_contain_text("Live")
    wanted = page.evaluate(
        "[...document.querySelectorAll('a[href], button, input:not([type=hidden]), select, textarea')].map(one => one.outerHTML)"
    )
    reached = list[str]()
    for _ in wanted:
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.outerHTML"))
        style = "getComputedStyle(document.activeElement)"
        assert page.evaluate(f"{style}.outlineStyle != 'none' && parseInt({style}.outlineWidth) >= 2"), reached[-1]
    assert reached == wanted
    assert "Skip to the content" in reached[0]
    page.get_by_role("button", name="Pause", exact=True).focus()
    page.keyboard.press("Enter")
    expect(page.locator("#live")).to_contain_text("pausing")
    world.node.step()
    expect(page.locator("dd .s-paused")).to_be_visible()
    page.get_by_role("button", name="Resume", exact=True).focus()
    page.keyboard.press("Enter")
    expect(page.locator("#live")).to_contain_text("resuming")
    world.node.step()
    expect(page.locator("dd .s-running")).to_be_visible()
    page.context.close()
    assert world.said == []


def test_a_picture_is_taken_as_the_demo_does(world: World, tmp_path: Path) -> None:
    """By a program of its own, which has nothing but the link."""
    with world.site.client() as client:
        link = client.login_link().url
    file = tmp_path / "console.png"
    command = [sys.executable, "-m", "examples.screenshot", link, str(file), f"/console/clusters/{world.cluster}"]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert ended.stdout == f"console: {file}\n"
    assert file.read_bytes().startswith(b"\x89PNG")
    nothing = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120, env={"PATH": "/nowhere"})
    assert "no picture" in nothing.stdout
