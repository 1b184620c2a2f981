"""The console over HTTPS, without a browser: who gets in, what each page shows to whom, and what forms do."""

import json
import re
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
from typer.testing import CliRunner

import partita
from deployer.machine import State
from deployer.site.cluster_client import Clusters
from deployer.site.cluster_wire import ClusterOrder
from deployer.site.feeds import ContentFeed, SwarmReport
from deployer.site.pages import POLICY
from deployer.site.request import DeploymentRequest
from signer.documents import validate
from stager.feeders import Feeder
from tests.deployer.conftest import Community
from tests.deployer.nodes import policy, wait_for
from tests.signer.grid import utc_now
from tests.site.gridworld import GridWorld
from tests.site.worlds import PaperNode, People, SiteProcess, populace

PAGES = ("/", "/machines", "/deployments", "/clusters", "/nodes", "/images", "/explain", "/events", "/audit")


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Iterator[People]:
    """Somebody to look."""
    with populace(tmp_path_factory.mktemp("people")) as found:
        yield found


@pytest.fixture(scope="module")
def site(community: Community, people: People) -> Iterator[SiteProcess]:
    """A site with a policy and people."""
    text = policy(community.star.anchor(), machines=1000)
    rates = {"failure_rate": 1000.0, "address_rate": 10_000.0, "person_rate": 1000.0}
    with SiteProcess(community.service.url, text, **rates, **people.settings()) as found:
        yield found


@pytest.fixture(scope="module", autouse=True)
def node(site: SiteProcess) -> PaperNode:
    """Its node, of paper, with room for 100 machines."""
    return PaperNode(site, "paper", cores=100, memory=200 << 30)


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


def test_somebody_who_is_not_logged_in_is_asked_to_and_comes_back(
    site: SiteProcess, browser: httpx.Client, people: People
) -> None:
    """Each page leads to the login, which leads back; the cookie is one that only this site gets, and no script."""
    for path in PAGES:
        got = browser.get(f"/console{path}")
        assert (got.status_code, got.headers["location"]) == (
            303,
            f"/console/login?next=%2Fconsole{path.replace('/', '%2F')}",
        )
    assert browser.get("/").headers["location"] == "/console/"
    form = browser.get("/console/login", params={"next": "/console/machines?all=true"}).text
    assert 'name="next" value="/console/machines?all=true"' in form
    token = people.star("ann")
    got = browser.post("/console/login", data={"token": f" {token}\n", "next": "/console/machines?all=true"})
    assert (got.status_code, got.headers["location"]) == (303, "/console/machines?all=true")
    cookie = got.headers["set-cookie"]
    assert cookie.startswith("__Host-partita=")
    assert {"HttpOnly", "Secure", "SameSite=strict", "Path=/"} <= set(cookie.split("; "))
    assert "Domain" not in cookie
    assert 3500 <= int(re.findall(r"Max-Age=(\d+)", cookie)[0]) <= 3600  # as long as the token, no longer
    assert token not in got.text + str(got.headers)
    assert token not in site.log.read_text()
    assert browser.get("/console/machines").status_code == 200


@pytest.mark.parametrize(
    "elsewhere",
    [
        "https://evil.example/console/",
        "//evil.example/console/",
        "/\\evil.example/console/",
        "/console/\\..\\x",
        "javascript:alert(1)",
        "/v1/status",
        "/console/\r\nSet-Cookie: a=b",
        "/console/" + "a" * 5000,
    ],
)
def test_nobody_is_led_elsewhere_by_a_login(browser: httpx.Client, people: People, elsewhere: str) -> None:
    """What stands in `next` is a page of the console, or does not count."""
    assert 'name="next" value=""' in browser.get("/console/login", params={"next": elsewhere}).text
    got = browser.post("/console/login", data={"token": people.star("ann"), "next": elsewhere})
    assert (got.status_code, got.headers["location"]) == (303, "/console/")


def test_what_does_not_count_lets_nobody_in(site: SiteProcess, browser: httpx.Client, people: People) -> None:
    """Tokens that are wrong, old or for elsewhere; codes that were used; a node; nothing at all: one sentence, no reason."""
    now = int(datetime.now(UTC).timestamp())
    good = people.star("ann")
    wrong = [
        good[:-4] + "AAAA",
        people.star("ann", aud="https://elsewhere.example"),
        people.star("ann", iat=now - 7200, nbf=now - 7200, exp=now - 3600),
        "none",
        "a b c",
    ]
    for token in wrong:
        got = browser.post("/console/login", data={"token": token})
        assert got.status_code == 401, token
        assert "what was shown does not count here" in got.text
        assert "set-cookie" not in got.headers
    assert browser.post("/console/login", data={}).status_code == 401
    for code in ("", "x", "a" * 43):
        assert browser.post("/console/login", data={"code": code}).status_code == 401
    operator(site, browser)
    with site.client() as client:
        link = client.login_link().url
    code = link.partition("code=")[2]
    assert [browser.post("/console/login", data={"code": code}).status_code for _ in range(2)] == [303, 401]
    assert "what was shown" not in browser.get(link).text  # looking at a link does nothing


def test_a_node_has_nothing_to_do_here(site: SiteProcess, node: PaperNode, context: ssl.SSLContext) -> None:
    """Nor has its certificate at the operator's links."""
    shown = ssl.create_default_context(cadata=site.ca)
    shown.load_cert_chain(node.files["certificate"], node.files["key"])
    with httpx.Client(base_url=site.url, verify=shown, trust_env=False, timeout=60) as asked:
        assert "certificate that your browser shows" in asked.get("/console/login").text
        got = asked.post("/console/login", data={})
        assert (got.status_code, "nothing to do here" in got.text) == (401, True)
        assert asked.get("/console/").status_code == 303
        assert asked.post("/v1/login-links").status_code == 403


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
        with httpx.Client(base_url=site.url, verify=context, trust_env=False, timeout=60) as asked:
            person(asked, token)
            with asked.stream("GET", f"/console{path}") as got:
                found += {200: "y", 403: "f"}[got.status_code]
            linked = f'<a href="/console{path}"' in asked.get("/console/").text
            assert linked is (found[-1] == "y" and path != "/stream"), path
    assert found == RIGHTS[path]


def test_what_somebody_may_not_see_does_not_exist(site: SiteProcess, browser: httpx.Client, people: People) -> None:
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
    assert site.machine(uuid).want.value == "running"


def test_forms_do_what_the_api_does(site: SiteProcess, node: PaperNode, browser: httpx.Client, people: People) -> None:
    """A member's own machine: another end, paused, ended. What cannot be is a page that says why."""
    asked = person(browser, people.star("ann"))
    with site.reach(token=people.star("ann")) as client:
        machine = client.create(DeploymentRequest(image="star/hello@1.0", lifetime=600), "k1").machines[0]
    node.step()
    page = f"/console/machines/{machine.uuid}"
    assert send(asked, page, f"{page}/extend", lifetime="2h").headers["location"] == page
    assert site.machine(machine.uuid).ends > machine.ends
    for text, status in (("2y", 400), ("", 400), ("0s", 400), ("600w", 400), ("30d", 403)):
        assert send(asked, page, f"{page}/extend", lifetime=text).status_code == status, text
    assert send(asked, page, f"{page}/pause").status_code == 303
    assert site.machine(machine.uuid).want.value == "paused"
    assert f'action="{page}/pause"' not in asked.get(page).text  # it is on its way: there is nothing to do any more
    secret = re.findall(r'name="form" value="([^"]+)"', asked.get(page).text)[0]
    got = asked.post(f"{page}/suspend", data={"form": secret, "reason": "x" * 501})
    assert (got.status_code, "reason" in got.text) == (400, True)
    assert asked.post(f"{page}/explode", data={"form": secret}).status_code == 400
    assert (
        send(
            asked, f"/console/deployments/{machine.deployment}", f"/console/deployments/{machine.deployment}/destroy"
        ).status_code
        == 303
    )
    node.step()
    assert site.wait_state(machine.uuid, "ended").want_reason == "asked for by ann"
    assert asked.post(f"{page}/reboot", data={"form": secret}).status_code == 409


def test_forms_of_others_do_nothing(site: SiteProcess, browser: httpx.Client, context: ssl.SSLContext) -> None:
    """Without the session's own secret, with another session's, or from another page: refused, whoever is logged in."""
    asked = operator(site, browser)
    secret = re.findall(r'name="form" value="([^"]+)"', asked.get("/console/").text)[0]
    with httpx.Client(base_url=site.url, verify=context, trust_env=False, timeout=60) as other:
        foreign = re.findall(r'name="form" value="([^"]+)"', operator(site, other).get("/console/").text)[0]
    drain = "/console/nodes/paper/drain"
    for data, headers in (
        ({}, {}),
        ({"form": ""}, {}),
        ({"form": foreign}, {}),
        ({"form": "\udcff".encode("utf-8", "surrogateescape").decode("latin-1")}, {}),
        ({"form": secret}, {"Origin": "https://evil.example"}),
        ({"form": secret}, {"Origin": "null"}),
        ({"form": secret}, {"Sec-Fetch-Site": "cross-site"}),
        ({"form": secret}, {"Sec-Fetch-Site": "same-site"}),
    ):
        assert asked.post(drain, data=data, headers=headers).status_code == 403, (data, headers)
    for content in (b"\xff=1", b"&".join(b"a=1" for _ in range(50))):
        assert asked.post(drain, content=content).status_code == 400
    assert asked.post(drain, content=b"a" * (1 << 20)).status_code == 413
    for headers in (
        {"Origin": "https://evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
    ):  # nor is anybody logged in by them
        assert asked.post("/console/login", data={"token": "x"}, headers=headers).status_code == 403
    with site.client() as client:
        assert client.node("paper").state.value == "ready"
    assert asked.post(drain, data={"form": secret}, headers={"Origin": site.url}).status_code == 303
    with site.client() as client:
        assert client.node("paper").state.value == "draining"
    assert asked.post("/console/nodes/paper/undrain", data={"form": secret}).status_code == 303


def test_a_session_ends(site: SiteProcess, browser: httpx.Client, people: People) -> None:
    """By logging out, at once and for whoever has kept the cookie; with its token; with the site's belief in the issuer."""
    asked = person(browser, people.star("ann"))
    kept = {"Cookie": f"__Host-partita={asked.cookies['__Host-partita']}"}
    assert browser.get("/console/machines", headers=kept).status_code == 200
    assert send(asked, "/console/", "/console/logout").headers["location"] == "/console/login"
    assert not asked.cookies
    assert asked.get("/console/machines", headers=kept).status_code == 303
    now = int(datetime.now(UTC).timestamp())
    person(asked, people.star("ann", exp=now + 2))
    text = asked.cookies["__Host-partita"]
    wait_for(
        lambda: asked.get("/console/machines", headers={"Cookie": f"__Host-partita={text}"}).status_code == 303, 60
    )
    person(asked, people.star("ann"))
    assert asked.get("/console/machines").status_code == 200
    text = site.issuers.read_text()
    try:
        site.issuers.write_text("")
        wait_for(lambda: asked.get("/console/machines").status_code == 303, 60)
    finally:
        site.issuers.write_text(text)
    wait_for(lambda: asked.get("/console/machines").status_code == 200, 60)


MARKUP = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'`{{7*7}}\u202egnp.exe\x1b[31m"


def test_names_from_guests_nodes_and_people_are_text(
    site: SiteProcess, node: PaperNode, browser: httpx.Client, people: People
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
            "state": State.PAUSED,
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
        for raw in ("<script>alert", "<img", "<b ", "<i>", "\u202e", "\x1b", "7*7}}\u202e"):
            assert raw not in text, (path, raw)
        assert ">49" not in text
        hit += "&lt;script&gt;alert(1)" in text
    assert hit >= 8
    text = asked.get(f"/console/machines/{machine.uuid}").text
    assert "&lt;b onmouseover=alert(3)&gt;mallory" in text
    assert "\\u202egnp.exe\\x1b[31m" in text
    node.step()


def test_clusters_are_scaled_and_ended(site: SiteProcess, node: PaperNode, browser: httpx.Client) -> None:
    """The map has the roles in their order; each form does what it says."""
    roles = {
        "worker": {"image": "star/hello@1.0", "ready": "running", "count": 2, "requires": ["batch"]},
        "head": {"image": "star/hello@1.0", "ready": "running", "provides": ["batch"]},
    }
    order = validate(ClusterOrder, {"document": {"name": "star", "roles": roles}}, "cluster")
    with site.client() as client:
        cluster = Clusters(client).create(order, "k3")
    page = f"/console/clusters/{cluster.uuid}"
    asked = operator(site, browser)

    def ready() -> bool:
        node.step()
        return "2 of 2 ready" in asked.get(page).text

    wait_for(ready, 60)
    text = asked.get(page).text
    assert text.index("<h3>head") < text.index("<h3>worker")
    assert "star-worker-2" in text
    assert "star" in asked.get("/console/clusters").text
    assert send(asked, page, f"{page}/scale", role="worker", count="3").status_code == 303
    assert "of 3 ready" in asked.get(page).text
    for fields in (
        {"role": "worker", "count": "-1"},
        {"role": "none", "count": "1"},
        {"role": "worker", "count": "x"},
        {},
    ):
        assert send(asked, page, f"{page}/scale", **fields).status_code == 400
    member = next(one for one in cluster.members if one.role == "head")
    assert send(asked, page, f"{page}/replace", member=member.uuid, reason="slow").status_code == 303
    assert site.machine(member.uuid).want.value == "ended"
    assert send(asked, page, f"{page}/destroy", reason="over").status_code == 303
    wait_for(lambda: (node.step(), ">ended<" in asked.get(page).text)[1], 60)
    assert f'action="{page}/destroy"' not in asked.get(page).text


def test_the_story_is_read_page_by_page(
    site: SiteProcess, node: PaperNode, browser: httpx.Client, people: People
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


def test_files_of_pages_are_kept_and_nothing_else_is_served(browser: httpx.Client) -> None:
    """By names that change with what is in them."""
    text = browser.get("/console/login").text
    for path in re.findall(r'(?:href|src)="(/console/static/[^"]+)"', text):
        got = browser.get(path)
        assert got.status_code == 200
        assert "immutable" in got.headers["cache-control"]
        assert got.headers["x-content-type-options"] == "nosniff"
    for name in ("nothing.css", "..%2fconsole.py", "%2e%2e/pages.py", "../templates/base.html"):
        assert browser.get(f"/console/static/{name}").status_code == 404, name


def test_the_operator_gets_a_link_by_a_command(site: SiteProcess, browser: httpx.Client) -> None:
    """Which says how long it is good; for people with a token there is none."""
    environment = {"PARTITA_SITE_DIRECTORY": str(site.directory)}
    ended = CliRunner().invoke(partita.app, ["site", "login"], env=environment)
    link = re.fullmatch(r"open this until \d\d:\d\d:\d\d UTC: (https://\S+)\n", ended.stdout)
    assert link, ended.output
    assert browser.get(link[1]).status_code == 200
    told = json.loads(CliRunner().invoke(partita.app, ["site", "login", "--json"], env=environment).stdout)
    assert told["url"].startswith(f"{site.url}/console/login?code=")
    assert "code=" not in site.log.read_text()


def test_people_log_in_with_a_certificate(tmp_path: Path) -> None:
    """With a proxy and what their VO says of them, for a quarter of an hour; then they show it again."""
    world = GridWorld.make(tmp_path / "grid", utc_now())
    (tmp_path / "proxy").write_bytes(world.stock())
    rights = '[[grant]]\nname = "all"\nvo = "star"\nactions = ["read"]\n'
    settings = {"grid_certificates": str(world.grid.path), "vomsdir": str(world.vomsdir)}
    with SiteProcess(rights=rights, **settings) as site:
        shown = ssl.create_default_context(cadata=site.ca)
        shown.load_cert_chain(tmp_path / "proxy")
        with httpx.Client(base_url=site.url, verify=shown, trust_env=False, timeout=60) as asked:
            assert "certificate that your browser shows" in asked.get("/console/login").text
            assert asked.get("/console/machines").status_code == 303  # it is shown on purpose, or it does not count
            got = asked.post("/console/login", data={"next": "/console/machines"})
            assert (got.status_code, got.headers["location"]) == (303, "/console/machines"), got.text
            assert 890 <= int(re.findall(r"Max-Age=(\d+)", got.headers["set-cookie"])[0]) <= 900
            page = asked.get("/console/machines")
            assert (page.status_code, "(star)" in page.text) == (200, True)
            assert asked.get("/console/nodes").status_code == 403


def test_who_feeds_whom_is_on_the_pages_and_in_the_api(
    site: SiteProcess, node: PaperNode, browser: httpx.Client
) -> None:
    """As a picture whose arrows have the focus, and as a table; a name that a peer gives itself is text."""
    feeders = (
        Feeder(peer="-PA0100-paper", at="192.0.2.1:7", received=3 << 20, rate=2048),
        Feeder(peer="<i>x</i>", at="192.0.2.7:9", received=1 << 20),
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
    assert 'aria-label="paper gave fed 3 MiB, now 2 KiB a second"' in pages["/nodes"]
    assert 'aria-label="the catalog gave fed 2 MiB"' in pages["/nodes"]
    assert "192.0.2.7:9 <small>no node of this site</small>" in pages["/nodes/fed"]
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
    assert "Nothing came to any node" in asked.get("/console/nodes").text
