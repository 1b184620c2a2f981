"""The API of a real service, over HTTPS: who sees what, who may do what, and how everything else is refused."""

import json
import ssl
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from deployer.errors import (
    Conflict,
    DeployerError,
    DeploymentNotFound,
    Forbidden,
    JoinRefused,
    MachineConflict,
    MachineNotFound,
    Misused,
    NoCapacity,
    NotAuthenticated,
    OverQuota,
    Refused,
)
from deployer.pki.ca import create_request
from deployer.protocol.deployment_request import MAX_REQUEST, DeploymentRequest, PlacementOptions
from deployer.protocol.joining import JoinRequest, parse_token
from deployer.site.client.client import SiteClient, SiteEndpoint, fetch_anchors
from deployer.site.schema.messages import MachineChange
from tests.support.node.community import Community
from tests.support.node.service_process import policy
from tests.support.site.service_process import PaperNode, People, SiteProcess, populace

HELLO = DeploymentRequest(image="star/hello@1.0", lifetime=3600)


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Iterator[People]:
    """Somebody to ask."""
    with populace(tmp_path_factory.mktemp("people")) as found:
        yield found


@pytest.fixture(scope="module")
def site(community: Community, people: People) -> Iterator[SiteProcess]:
    """A site with a policy, people, and a broker; tests leave no machines."""
    text = policy(community.star.anchor(), machines=1000)
    with SiteProcess(
        community.service.url, text, broker_listen="127.0.0.1:0", broker_url="", **people.settings()
    ) as found:
        yield found


@pytest.fixture(scope="module")
def node(site: SiteProcess) -> PaperNode:
    """A node of that site, with room for 100 machines."""
    return PaperNode(site, "paper", cores=100, memory=200 << 30)


@pytest.fixture(autouse=True)
def _alone(site: SiteProcess, node: PaperNode) -> Iterator[None]:
    yield
    node.step()
    with site.client() as client:
        for one in client.deployments():
            client.destroy_deployment(one.uuid)
    node.step()


def key() -> str:
    """A fresh one."""
    return str(uuid.uuid4())


def plain(site: SiteProcess, token: str = "") -> httpx.Client:
    """A client that checks nothing but the connection."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    context = ssl.create_default_context(cadata=site.ca)
    return httpx.Client(base_url=site.url, headers=headers, verify=context, trust_env=False, timeout=60)


def test_an_order_has_one_answer_however_often_it_is_sent(site: SiteProcess, node: PaperNode, people: People) -> None:
    """The same key and request: the same machines. The same key and another request: a conflict."""
    with plain(site, people.star("ann")) as asked:
        headers = {"Idempotency-Key": key()}
        first = asked.post("/v1/deployments", content=HELLO.model_dump_json(), headers=headers)
        assert first.status_code == 201, first.text
        assert first.headers["location"] == f"/v1/deployments/{first.json()['deployment']['uuid']}"
        again = asked.post("/v1/deployments", content=HELLO.model_dump_json(), headers=headers)
        assert again.status_code == 200
        assert again.json()["deployment"] == first.json()["deployment"]
        assert again.json()["machines"] == first.json()["machines"]
        other = asked.post(
            "/v1/deployments", content=HELLO.model_copy(update={"count": 2}).model_dump_json(), headers=headers
        )
        assert (other.status_code, other.json()["type"]) == (409, f"urn:partita:problem:{Conflict.code}")


def test_people_see_their_own_and_administrators_their_vos(site: SiteProcess, node: PaperNode, people: People) -> None:
    """What somebody may not see does not exist for them, in any route; what they may see and not do, they are told."""
    secret = "IyEvYmluL3NoCmVjaG8gcGFzc3dvcmQK"
    with site.reach(token=people.star("amy")) as ann:
        mine = ann.create(HELLO.model_copy(update={"user_data": secret}), key())
        assert mine.deployment.request.user_data == secret
        uuid_ = mine.machines[0].uuid
        assert [one.uuid for one in ann.machines()] == [uuid_]
    with site.reach(token=people.star("bob")) as bob:
        assert list(bob.machines()) == list(bob.deployments()) == []
        assert [one for one in bob.events(0).items if one.deployment == mine.deployment.uuid] == []
        for ask in (
            lambda: bob.deployment(mine.deployment.uuid),
            lambda: bob.explain(mine.deployment.uuid[:8]),
            lambda: bob.destroy_deployment(mine.deployment.uuid),
            lambda: bob.known_hosts(mine.deployment.uuid),
        ):
            with pytest.raises(DeploymentNotFound):
                ask()
        for ask in (
            lambda: bob.machine(uuid_),
            lambda: bob.machine(mine.machines[0].hostname),
            lambda: bob.do(uuid_, "destroy"),
            lambda: bob.change(uuid_, MachineChange(lifetime=60)),
        ):
            with pytest.raises(MachineNotFound):
                ask()
    node.step()
    with site.reach(token=people.star("eve", "/star/admins")) as admin:
        assert uuid_ in [one.uuid for one in admin.machines()]
        assert admin.deployment(mine.deployment.uuid).deployment.request.user_data is None
        assert secret not in admin.deployment(mine.deployment.uuid).model_dump_json()
        assert admin.do(uuid_, "pause", "too warm").want.value == "paused"
    with site.reach(token=people.own("sec", "/site/security")) as security:
        assert uuid_ in [one.uuid for one in security.machines()]
        assert "too warm (by eve)" in [one.reason for one in security.events(0).items]
        with pytest.raises(Forbidden, match="modify"):
            security.do(uuid_, "resume")
        assert security.do(uuid_, "destroy").want.value == "ended"


def test_nobody_and_strangers_get_nothing(site: SiteProcess, node: PaperNode, people: People) -> None:
    """Without a proof 401 and a challenge; with one and without a grant 403; a node's certificate is for the node."""
    with site.reach() as nobody, pytest.raises(NotAuthenticated):
        nobody.nodes()
    with plain(site) as asked:
        for method, path in (("GET", "/v1/machines"), ("POST", "/v1/deployments"), ("GET", "/v1/events/stream")):
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
    with site.reach(**node.files) as as_node, pytest.raises(Forbidden, match="node's own business"):
        as_node.nodes()
    with site.reach(token=people.star("ann")) as ann, pytest.raises(Forbidden):
        ann.ask(JoinRequest, "GET", "agent/desired")


def test_secrets_of_guests_stay_between_site_and_node(site: SiteProcess, node: PaperNode, people: People) -> None:
    """The node gets each machine's secret for the broker; no other answer has it."""
    with site.reach(token=people.star("ann")) as ann:
        ordered = ann.create(HELLO, key())
        context = node.step().machines[0].context
        assert context is not None
        found = ordered.model_dump_json() + ann.deployment(ordered.deployment.uuid).model_dump_json()
        found += "".join(one.model_dump_json() for one in ann.machines())
        found += ann.machine(ordered.machines[0].uuid).model_dump_json() + ann.events(0).model_dump_json()
    assert context.secret not in found
    assert context.secret not in site.log.read_text()


def test_quotas_and_what_was_granted_bound_changes(site: SiteProcess, node: PaperNode, people: People) -> None:
    """Earlier and later ends within the quota, memory within the grant; everything else is refused and changes nothing."""
    with site.reach(token=people.star("ann")) as ann:
        with pytest.raises(OverQuota):
            ann.create(HELLO.model_copy(update={"count": 5}), key())
        machine = ann.create(HELLO, key()).machines[0]
        node.step()
        later = ann.change(machine.uuid, MachineChange(lifetime=7200))
        assert later.ends > machine.ends
        assert ann.change(machine.uuid, MachineChange(lifetime=1800)).ends < machine.ends
        for change, error in (
            (MachineChange(lifetime=7 * 3600), OverQuota),
            (MachineChange(lifetime=13 * 3600), OverQuota),
            (MachineChange(lifetime=60, ends=machine.ends), Misused),
            (MachineChange(ends=machine.created), Misused),
            (MachineChange(memory=machine.granted_memory * 2), MachineConflict),
            (MachineChange(cores=machine.granted_cores + 1), MachineConflict),
        ):
            with pytest.raises(error):
                ann.change(machine.uuid, change)
        before = ann.machine(machine.uuid)
        with pytest.raises(MachineConflict):  # all that is asked for, or nothing
            ann.change(machine.uuid, MachineChange(lifetime=60, cores=machine.granted_cores + 1))
        assert ann.machine(machine.uuid) == before
        with pytest.raises(Misused):
            ann.change(machine.uuid, MachineChange())
        both = ann.change(machine.uuid, MachineChange(lifetime=1200, memory=16 << 20))
        assert (both.memory, both.ends != before.ends) == (16 << 20, True)


def test_verbs_follow_each_other_as_lives_do(site: SiteProcess, node: PaperNode, people: People) -> None:
    """What a verb asks for becomes so on the node, and what cannot be is a conflict with a sentence."""
    with site.reach(token=people.star("ann")) as ann:
        uuid_ = ann.create(HELLO, key()).machines[0].uuid
        with pytest.raises(MachineConflict, match="cannot be paused"):
            ann.do(uuid_, "pause")
        node.step()
        for verb, state in (
            ("pause", "paused"),
            ("resume", "running"),
            ("suspend", "suspended"),
            ("reactivate", "running"),
            ("reboot", "running"),
            ("shutdown", "stopped"),
            ("destroy", "ended"),
        ):
            ann.do(uuid_, verb)
            node.step()
            assert ann.machine(uuid_).state.value == state, verb
        with pytest.raises(MachineConflict):
            ann.do(uuid_, "resume")


def test_a_trial_says_what_would_come_and_keeps_nothing(site: SiteProcess, node: PaperNode, people: People) -> None:
    """Accepted with bytes to fetch; refused with the rule that refuses; without room."""
    with site.reach(token=people.star("ann")) as ann:
        before = len(list(ann.deployments()))
        trial = ann.trial(HELLO)
        assert (trial.accepted, trial.placed) == (True, True)
        assert trial.fetch[node.joined.node] > 0
        forged = ann.trial(HELLO.model_copy(update={"image": "rogue/hello@1.0"}))
        assert not forged.accepted
        with pytest.raises(Refused) as refused:
            ann.create(HELLO.model_copy(update={"image": "rogue/hello@1.0"}), key())
        assert refused.value.decision is not None
        nowhere = HELLO.model_copy(update={"wishes": PlacementOptions(labels={"gpu": "yes"})})
        assert not ann.trial(nowhere).placed
        with pytest.raises(NoCapacity, match="gpu"):
            ann.create(nowhere, key())
        assert len(list(ann.deployments())) == before


def test_lists_come_page_by_page_and_unchanged_things_once(site: SiteProcess, node: PaperNode, people: People) -> None:
    """Every machine once, the newest first; If-None-Match spares the body."""
    with plain(site, people.star("pat")) as asked:
        for _ in range(3):
            assert asked.post("/v1/deployments", content=HELLO.model_dump_json()).status_code == 201
        for path in ("/v1/deployments", "/v1/machines"):
            seen: list[str] = []
            after = None
            while True:
                page = asked.get(path, params={"limit": 2} | ({"after": after} if after else {})).json()
                seen += [one["uuid"] for one in page["items"]]
                after = page.get("next")
                if after is None:
                    break
            assert len(seen) == len(set(seen)) == 3
        whole = asked.get(f"/v1/machines/{seen[0]}")
        spared = asked.get(f"/v1/machines/{seen[0]}", headers={"If-None-Match": whole.headers["etag"]})
        assert (spared.status_code, spared.content) == (304, b"")
        newest = asked.get("/v1/machines", params={"limit": 1}).json()["items"][0]
        assert newest["uuid"] == seen[0]


@pytest.mark.parametrize(
    ("about", "method", "path", "content", "status", "words"),
    [
        ("not JSON", "POST", "/v1/deployments", b"{", 400, "is not JSON"),
        ("a member that nobody knows", "POST", "/v1/deployments", b'{"image":"a/b","sudo":true}', 400, "$.sudo"),
        ("a member twice", "POST", "/v1/deployments", b'{"image":"a/b","image":"c/d"}', 400, "stands twice"),
        ("a number as text", "POST", "/v1/deployments", b'{"image":"a/b","count":"2"}', 400, "$.count"),
        ("far too large", "POST", "/v1/deployments", b" " * (MAX_REQUEST + 1), 413, "bytes"),
        ("a key with a line break", "POST", "/v1/deployments", None, 400, "Idempotency-Key"),
        ("a page of nothing", "GET", "/v1/machines?limit=0", None, 400, "limit"),
        ("a cursor of somebody's own", "GET", "/v1/machines?after=x", None, 400, "after"),
        ("a state that there is not", "GET", "/v1/machines?state=flying", None, 400, "state"),
        ("no UUID", "GET", "/v1/deployments/..%2F..%2Fetc", None, 404, "nothing at"),
        ("a verb that there is not", "POST", "/v1/machines/0000/explode", None, 400, "verb"),
        ("a path that there is not", "GET", "/v1/secrets", None, 404, "nothing at"),
        ("a method that there is not", "PUT", "/v1/machines", None, 405, "not possible"),
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
        before = len(asked.get("/v1/deployments").json()["items"])
        headers = {"Idempotency-Key": "a b"} if "key" in about else {}
        answer = asked.request(method, path, content=content, headers=headers)
        assert answer.status_code == status, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        assert words in answer.json()["detail"]
        assert len(asked.get("/v1/deployments").json()["items"]) == before


def test_nodes_drain_and_leave(site: SiteProcess, node: PaperNode, people: People) -> None:
    """A node that drains gets nothing new; one that left has no say, and its name is free."""
    other = PaperNode(site, "other", cores=100, memory=200 << 30, gpu="yes")
    wanted = HELLO.model_copy(update={"wishes": PlacementOptions(labels={"gpu": "yes"})})
    with site.reach(token=people.own("sec", "/site/security")) as security:
        # What a node said of itself when it joined holds until it reports something else.
        other.step(labels={"gpu": "yes"})
        assert security.do_node("other", "drain", "new disks").state.value == "draining"
        assert other.step(labels={"gpu": "yes"}).draining
        with site.reach(token=people.star("ann")) as ann, pytest.raises(NoCapacity, match="not taking machines"):
            ann.create(wanted, key())
        assert security.do_node("other", "undrain").state.value == "ready"
        ordered = site.deploy(wishes={"labels": {"gpu": "yes"}})
        assert security.do_node("other", "remove").state.value == "left"
        assert security.machine(ordered.machines[0].uuid).state.final
        with pytest.raises(DeployerError, match="left the site"):
            other.step()
        PaperNode(site, "other")
        security.do_node("other", "remove")
    with site.reach(token=people.star("ann")) as ann, pytest.raises(Forbidden):
        ann.do_node("paper", "drain")


class _Joiner:
    """Somebody with a token."""

    def __init__(self, site: SiteProcess) -> None:
        self.secret, fingerprint = parse_token(site.token())
        self.way = SiteEndpoint(url=site.url, ca=fetch_anchors(site.url, fingerprint).certificates)

    def join(self, **changes: Any) -> str:
        """Try; returns the certificate."""
        wanted = {"token": self.secret, "request": create_request()[1], "name": f"j{uuid.uuid4().hex[:8]}"} | changes
        with SiteClient(self.way) as client:
            return client.join(JoinRequest(**wanted)).certificate


def test_a_token_lets_one_node_join_once(site: SiteProcess) -> None:
    """Not twice, not with a guess, not with a request that is none; and such a request does not cost the token."""
    joiner = _Joiner(site)
    for request in ("", "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"):
        with pytest.raises(Misused, match="certificate request"):
            joiner.join(request=request)
    with pytest.raises(JoinRefused):
        joiner.join(token="x" * 43)
    assert "BEGIN CERTIFICATE" in joiner.join()
    with pytest.raises(JoinRefused):
        joiner.join()
    with pytest.raises(Conflict):
        _Joiner(site).join(name="paper")


def test_only_the_sites_own_certificates_are_taken(site: SiteProcess, node: PaperNode, tmp_path: Path) -> None:
    """One of another site's CA ends the handshake; a node's own, renewed, works on."""
    with SiteProcess() as foreign:
        stranger = PaperNode(foreign, "stranger")
        with pytest.raises(DeployerError), site.reach(**stranger.files) as client:
            client.nodes()
    with node.client() as asked:
        fresh = asked.renew(new_request_for(node))
    (node.directory / "certificate.pem").write_text(fresh)
    node.step()


def new_request_for(node: PaperNode) -> str:
    """A request for a certificate for a node's present key."""
    from deployer.pki.ca import request_for

    return request_for(node.files["key"].read_bytes())


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
