"""The API of a real service, over HTTPS: who sees what, who may do what, and how everything else is refused."""

import json

import pytest

from deployer.errors import Forbidden, NotAuthenticated
from deployer.protocol.deployment_request import MAX_REQUEST
from deployer.protocol.joining import JoinRequest
from tests.support.site.api_calls import HELLO, key, plain
from tests.support.site.service_process import PaperNode, People, SiteProcess

pytestmark = pytest.mark.usefixtures("alone")


def test_nobody_and_strangers_get_nothing(site: SiteProcess, node: PaperNode, people: People) -> None:
    """Without a proof 401 and a challenge; with one and without a grant 403; a node's certificate is for the node."""
    with site.reach() as nobody, pytest.raises(NotAuthenticated):
        nobody.nodes()
    with plain(site) as asked:
        for method, path in (("GET", "/v2/machines"), ("POST", "/v2/deployments"), ("GET", "/v2/events/stream")):
            answer = asked.request(method, path)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"].startswith("Bearer")
    with site.reach(token=people.own("visitor")) as stranger:
        for ask in (
            stranger.nodes,
            stranger.status,
            lambda: stranger.create(HELLO, key()),
            lambda: list(stranger.machines()),
        ):
            with pytest.raises(Forbidden):
                ask()
    with site.reach(**node.files) as as_node, pytest.raises(Forbidden, match="node's own requests"):
        as_node.nodes()
    with site.reach(token=people.star("ann")) as ann, pytest.raises(Forbidden):
        ann.ask(JoinRequest, "GET", "agent/desired")


def test_lists_come_page_by_page_and_unchanged_things_once(site: SiteProcess, node: PaperNode, people: People) -> None:
    """Every machine once, the newest first; If-None-Match spares the body."""
    with plain(site, people.star("pat")) as asked:
        for _ in range(3):
            assert asked.post("/v2/deployments", content=HELLO.model_dump_json()).status_code == 201
        for path in ("/v2/deployments", "/v2/machines"):
            seen: list[str] = []
            after = None
            while True:
                page = asked.get(path, params={"limit": 2} | ({"after": after} if after else {})).json()
                seen += [one["uuid"] for one in page["items"]]
                after = page.get("next")
                if after is None:
                    break
            assert len(seen) == len(set(seen)) == 3
        whole = asked.get(f"/v2/machines/{seen[0]}")
        spared = asked.get(f"/v2/machines/{seen[0]}", headers={"If-None-Match": whole.headers["etag"]})
        assert (spared.status_code, spared.content) == (304, b"")
        newest = asked.get("/v2/machines", params={"limit": 1}).json()["items"][0]
        assert newest["uuid"] == seen[0]


@pytest.mark.parametrize(
    ("about", "method", "path", "content", "status", "words"),
    [
        ("not JSON", "POST", "/v2/deployments", b"{", 400, "is not JSON"),
        ("a member that nobody knows", "POST", "/v2/deployments", b'{"image":"a/b","sudo":true}', 400, "$.sudo"),
        ("a member twice", "POST", "/v2/deployments", b'{"image":"a/b","image":"c/d"}', 400, "is listed twice"),
        ("a number as text", "POST", "/v2/deployments", b'{"image":"a/b","count":"2"}', 400, "$.count"),
        ("far too large", "POST", "/v2/deployments", b" " * (MAX_REQUEST + 1), 413, "bytes"),
        ("a key with a line break", "POST", "/v2/deployments", None, 400, "Idempotency-Key"),
        ("a page of nothing", "GET", "/v2/machines?limit=0", None, 400, "limit"),
        ("a cursor of somebody's own", "GET", "/v2/machines?after=x", None, 400, "after"),
        ("a state that there is not", "GET", "/v2/machines?state=flying", None, 400, "state"),
        ("no UUID", "GET", "/v2/deployments/..%2F..%2Fetc", None, 404, "nothing at"),
        ("a verb that there is not", "POST", "/v2/machines/0000/explode", None, 400, "verb"),
        ("a path that there is not", "GET", "/v2/secrets", None, 404, "nothing at"),
        (
            "the API of an earlier release",
            "GET",
            "/v1/machines",
            None,
            410,
            "API v1 has been retired; upgrade the client",
        ),
        ("an agent of an earlier release", "POST", "/v1/agent/report", b"{}", 410, "upgrade the client or node"),
        ("a method that there is not", "PUT", "/v2/machines", None, 405, "not possible"),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_place(
    site: SiteProcess,
    people: People,
    about: str,
    method: str,
    path: str,
    content: bytes | None,
    status: int,
    words: str,
) -> None:
    """As a problem document, and nothing is kept."""
    with plain(site, people.star("ann")) as asked:
        before = len(asked.get("/v2/deployments").json()["items"])
        headers = {"Idempotency-Key": "a b"} if "key" in about else {}
        answer = asked.request(method, path, content=content, headers=headers)
        assert answer.status_code == status, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        assert words in answer.json()["detail"]
        assert len(asked.get("/v2/deployments").json()["items"]) == before


def test_health_needs_nobody_and_every_route_names_its_action(site: SiteProcess, people: People) -> None:
    """What the OpenAPI document says is what there is."""
    with plain(site) as asked:
        assert asked.get("/livez").json() == asked.get("/readyz").json() == {"status": "ok"}
        described = asked.get("/openapi.json").json()
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            assert operation.get("x-action"), f"{method} {path}"
            assert operation.get("summary"), f"{method} {path}"
    assert "HTTPValidationError" not in json.dumps(described)


def test_private_files_are_private(site: SiteProcess) -> None:
    """Keys, database and the operator's socket are for the service's user alone."""
    for name in ("site.db", "tls.pem", "broker.key", "site.sock"):
        assert (site.directory / name).stat().st_mode & 0o077 == 0, name
