"""What each page of the console shows to whom, over HTTPS, without a browser; names of others are text."""

import re
import ssl
from datetime import UTC, datetime
from urllib.parse import quote

import httpx2
import pytest

from deployer.machine.state import MachineState
from deployer.protocol.deployment_request import DeploymentRequest
from deployer.protocol.swarm_report import ContentFeed, SwarmReport
from deployer.site.console.templates import POLICY
from stager.content.peer_stats import PeerStats
from tests.support.site.console_login import PAGES, operator, person
from tests.support.site.service_process import PaperNode, People, SiteProcess


def test_every_page_is_there_for_the_operator(site: SiteProcess, browser: httpx2.Client) -> None:
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
        assert not re.search(
            r"<style|<script(?! src=\"/)|<[^>]*\s(style|on[a-z]+)=|https?://[^<\s]*\.(js|css)", got.text
        ), path
    assert machine.hostname in asked.get("/console/").text
    assert "paper" in asked.get("/console/nodes").text
    images = asked.get("/console/images").text
    assert "star/hello@1.0" in images
    assert "accepted" in images
    explained = asked.get(f"/console{pages[-1]}").text
    assert "star/hello@1.0 is accepted" in explained
    assert "There is enough capacity" in explained
    assert "asked for by" not in asked.get(f"/console/machines/{machine.uuid}").text


#          member security stranger
RIGHTS = {
    "/": "yyy",
    "/machines": "yyf",
    "/deployments": "yyf",
    "/clusters": "yyf",
    "/nodes": "fyf",
    "/images": "yyf",
    "/explain": "yff",
    "/events": "yyf",
    "/stream": "yyf",
    "/audit": "fyf",
}


@pytest.mark.parametrize("path", RIGHTS)
def test_pages_ask_for_the_same_rights_as_the_api(
    site: SiteProcess, context: ssl.SSLContext, people: People, path: str
) -> None:
    """Each page, for a member of a VO, the site's security, and somebody whom no grant names; links lead where one may go."""
    tokens = (people.star("ann"), people.own("sam", "/site/security"), people.own("eve"))
    found = ""
    for token in tokens:
        with httpx2.Client(base_url=site.url, verify=context, trust_env=False, timeout=60) as asked:
            person(asked, token)
            with asked.stream("GET", f"/console{path}") as got:
                found += {200: "y", 403: "f"}[got.status_code]
            linked = f'<a href="/console{path}"' in asked.get("/console/").text
            assert linked is (found[-1] == "y" and path != "/stream"), path
    assert found == RIGHTS[path]


def test_what_somebody_may_not_see_does_not_exist(site: SiteProcess, browser: httpx2.Client, people: People) -> None:
    """Neither on a page nor behind a button."""
    mine = site.deploy(lifetime=3600)
    uuid, deployment = mine.machines[0].uuid, mine.deployment.uuid
    asked = person(browser, people.star("bob"))
    secret = re.findall(r'name="form" value="([^"]+)"', asked.get("/console/").text)[0]
    for page in (f"machines/{uuid}", f"deployments/{deployment}", "clusters/none"):
        got = asked.get(f"/console/{page}")
        assert got.status_code == 404
        assert "at this site" in got.text
    for action in (
        f"machines/{uuid}/destroy",
        f"machines/{uuid}/extend",
        f"deployments/{deployment}/destroy",
        "clusters/x/destroy",
    ):
        got = asked.post(f"/console/{action}", data={"form": secret, "lifetime": "1h"})
        assert got.status_code == 404, action
    assert asked.post("/console/nodes/paper/drain", data={"form": secret}).status_code == 403
    for page in ("/machines", "/", "/events"):
        text = asked.get(f"/console{page}").text
        assert uuid not in text
        assert deployment not in text
        assert ">paper<" not in text
    assert site.machine(uuid).desired.value == "running"


MARKUP = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'`{{9876*5432}}\u202egnp.exe\x1b[31m"


def test_names_from_guests_nodes_and_people_are_text(
    site: SiteProcess, node: PaperNode, browser: httpx2.Client, people: People
) -> None:
    """Wherever markup can come from, it stands on the page as it was written, and nothing turns the writing around."""
    subject = "<b onmouseover=alert(3)>mallory</b>"
    with site.reach(token=people.star(subject)) as client:
        machine = client.create(DeploymentRequest(image="star/hello@1.0", lifetime=600), "k2").machines[0]
    desired = node.step()
    wanted = next(one for one in desired.machines if one.uuid == machine.uuid)
    seen = node.machines[wanted.uuid].model_copy(
        update={
            "reason": MARKUP,
            "addresses": (MARKUP,),
            "changed": datetime.now(UTC).replace(microsecond=0),
            "state": MachineState.PAUSED,
        }
    )
    others = tuple(one for one in node.machines.values() if one.uuid != wanted.uuid)
    node.step(machines=(*others, seen), problem=MARKUP, cached=(MARKUP,))
    asked = operator(site, browser)
    pages = [
        f"/machines/{machine.uuid}",
        f"/deployments/{machine.deployment}",
        "/machines",
        "/",
        "/nodes",
        "/nodes/paper",
        "/events",
        "/audit",
    ]
    pages += [
        f"/audit?owner={quote(MARKUP)}&vo={quote('<i>')}",
        f"/explain?image={quote(MARKUP)}&memory={quote('<i>')}",
    ]
    pages += [
        f"/machines/{quote('<img src=x onerror=alert(2)>')}",
        f"/deployments/{quote('<i>')}",
        f"/nodes/{quote('<i>')}",
        f"/machines?after={quote('<i>')}",
    ]
    hit = 0
    for path in pages:
        text = asked.get(f"/console{path}").text
        for raw in ("<script>alert", "<img", "<b ", "<i>", "\u202e", "\x1b", "5432}}\u202e"):
            assert raw not in text, (path, raw)
        assert str(9876 * 5432) not in text
        hit += "&lt;script&gt;alert(1)" in text
    assert hit >= 8
    text = asked.get(f"/console/machines/{machine.uuid}").text
    assert "&lt;b onmouseover=alert(3)&gt;mallory" in text
    assert "\\u202egnp.exe\\x1b[31m" in text
    node.step()


def test_the_story_is_read_page_by_page(
    site: SiteProcess, node: PaperNode, browser: httpx2.Client, people: People
) -> None:
    """Newest first, each event once, back to the first; the audit too, of one person if one likes; and it is followed."""
    for _ in range(60):
        with site.client() as client:
            client.do_node("paper", "drain")
            client.do_node("paper", "undrain")
    asked = operator(site, browser)
    with site.client() as client:
        last = client.status().events
    for path in ("/events", "/audit"):
        seen, where = list[int](), f"/console{path}"
        while where:
            text = asked.get(where).text
            seen += [int(one) for one in re.findall(r'data-label="No\."><span>(\d+)<', text)]
            older = re.search(r'<a href="\?(before=\d+)">Older', text)
            where = f"/console{path}?{older[1]}" if older else ""
        assert seen == list(range(last, 0, -1)), path
    with site.reach(token=people.star("zoe")) as client:
        client.create(DeploymentRequest(image="star/hello@1.0", lifetime=600), "k4")
    by_vo = asked.get("/console/audit", params={"vo": "star"}).text
    owner = re.findall(r'\?owner=([^"]+)">zoe<', by_vo)[0]
    of_zoe = asked.get(f"/console/audit?owner={owner}").text
    assert "admitted" in of_zoe
    assert ">ann<" not in of_zoe
    with asked.stream("GET", "/console/stream", headers={"Last-Event-ID": str(last)}) as got:
        assert got.headers["content-type"].startswith("text/event-stream")
        lines = got.iter_lines()
        assert next(line for line in lines if line.startswith("id: ")) == f"id: {last + 1}"


def test_files_of_pages_are_kept_and_nothing_else_is_served(browser: httpx2.Client) -> None:
    """By names that change with what is in them."""
    text = browser.get("/console/login").text
    for path in re.findall(r'(?:href|src)="(/console/static/[^"]+)"', text):
        got = browser.get(path)
        assert got.status_code == 200
        assert "immutable" in got.headers["cache-control"]
        assert got.headers["x-content-type-options"] == "nosniff"
    for name in ("nothing.css", "..%2fconsole.py", "%2e%2e/pages.py", "../templates/base.html"):
        assert browser.get(f"/console/static/{name}").status_code == 404, name


def test_who_feeds_whom_is_on_the_pages_and_in_the_api(
    site: SiteProcess, node: PaperNode, browser: httpx2.Client
) -> None:
    """As a picture whose arrows have the focus, and as a table; a name that a peer gives itself is text."""
    feeders = (
        PeerStats(peer="-PA0100-paper", at="192.0.2.1:7", received=3 << 20, rate=2048),
        PeerStats(peer="<i>x</i>", at="192.0.2.7:9", received=1 << 20),
    )
    feed = ContentFeed(
        address="ab" * 32 + "-7",
        image="star/<b>@1.0",
        arriving=True,
        from_peers=5 << 20,
        from_origin=2 << 20,
        feeders=feeders,
    )
    fed = PaperNode(site, "fed")
    node.step(swarm=SwarmReport(name="-PA0100-paper"))
    fed.step(swarm=SwarmReport(name="-PA0100-fed", contents=(feed,)))
    asked = operator(site, browser)
    pages = {path: asked.get(f"/console{path}").text for path in ("/nodes", "/nodes/fed", "/nodes/paper")}
    for text in pages.values():
        assert "3 MiB" in text
        assert "star/&lt;b&gt;@1.0" in text
        assert "<i>x" not in text
    assert 'aria-label="paper sent 3 MiB to fed, now 2 KiB per second"' in pages["/nodes"]
    assert 'aria-label="the catalog sent 2 MiB to fed"' in pages["/nodes"]
    assert "192.0.2.7:9 <small>not a node of this site</small>" in pages["/nodes/fed"]
    assert "192.0.2.7:9" not in pages["/nodes/paper"]
    with site.client() as client:
        found = client.swarm().items
    told = [(one.kind, one.name, one.received, one.rate) for one in found]
    assert told == [
        ("node", "paper", 3 << 20, 2048),
        ("origin", "the catalog", 2 << 20, 0),
        ("peer", "192.0.2.7:9", 1 << 20, 0),
        ("others", "other peers", 1 << 20, 0),
    ]
    assert {one.to for one in found} == {fed.joined.node}
    node.step()
    fed.step()
    assert "No node received anything" in asked.get("/console/nodes").text
