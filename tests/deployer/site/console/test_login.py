"""Who gets into the console, and how: links, tokens and certificates; where a login leads, and when it ends."""

import json
import re
import ssl
from datetime import UTC, datetime
from pathlib import Path

import httpx2
import pytest

import partita
from tests.support.commands import CliRunner
from tests.support.grid_ca import utc_now
from tests.support.node.service_process import wait_for
from tests.support.site.console_login import PAGES, operator, person, send
from tests.support.site.service_process import PaperNode, People, SiteProcess
from tests.support.site.voms_grid import GridWorld


def test_somebody_who_is_not_logged_in_is_asked_to_and_comes_back(
    site: SiteProcess, browser: httpx2.Client, people: People
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
        "/v2/status",
        "/console/\r\nSet-Cookie: a=b",
        "/console/" + "a" * 5000,
    ],
)
def test_nobody_is_led_elsewhere_by_a_login(browser: httpx2.Client, people: People, elsewhere: str) -> None:
    """What stands in `next` is a page of the console, or does not count."""
    assert 'name="next" value=""' in browser.get("/console/login", params={"next": elsewhere}).text
    got = browser.post("/console/login", data={"token": people.star("ann"), "next": elsewhere})
    assert (got.status_code, got.headers["location"]) == (303, "/console/")


def test_what_does_not_count_lets_nobody_in(site: SiteProcess, browser: httpx2.Client, people: People) -> None:
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
        assert "the credentials were not accepted" in got.text
        assert "set-cookie" not in got.headers
    assert browser.post("/console/login", data={}).status_code == 401
    for code in ("", "x", "a" * 43):
        assert browser.post("/console/login", data={"code": code}).status_code == 401
    operator(site, browser)
    with site.client() as client:
        link = client.login_link().url
    code = link.partition("code=")[2]
    assert [browser.post("/console/login", data={"code": code}).status_code for _ in range(2)] == [303, 401]
    assert "credentials were not accepted" not in browser.get(link).text  # looking at a link does nothing


def test_a_node_has_nothing_to_do_here(site: SiteProcess, node: PaperNode, context: ssl.SSLContext) -> None:
    """Nor has its certificate at the operator's links."""
    shown = ssl.create_default_context(cadata=site.ca)
    shown.load_cert_chain(node.files["certificate"], node.files["key"])
    with httpx2.Client(base_url=site.url, verify=shown, trust_env=False, timeout=60) as asked:
        assert "Log in with your browser" in asked.get("/console/login").text
        got = asked.post("/console/login", data={})
        assert (got.status_code, "this is for people" in got.text) == (401, True)
        assert asked.get("/console/").status_code == 303
        assert asked.post("/v2/login-links").status_code == 403


def test_a_session_ends(site: SiteProcess, browser: httpx2.Client, people: People) -> None:
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


def test_the_operator_gets_a_link_by_a_command(site: SiteProcess, browser: httpx2.Client) -> None:
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
        with httpx2.Client(base_url=site.url, verify=shown, trust_env=False, timeout=60) as asked:
            assert "Log in with your browser" in asked.get("/console/login").text
            assert asked.get("/console/machines").status_code == 303  # it is shown on purpose, or it does not count
            got = asked.post("/console/login", data={"next": "/console/machines"})
            assert (got.status_code, got.headers["location"]) == (303, "/console/machines"), got.text
            assert 890 <= int(re.findall(r"Max-Age=(\d+)", got.headers["set-cookie"])[0]) <= 900
            page = asked.get("/console/machines")
            assert (page.status_code, "(star)" in page.text) == (200, True)
            assert asked.get("/console/nodes").status_code == 403
