"""Clusters over the API of a real service and by the commands: who may do what, what is shown, and how it is refused."""

import json
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from click.testing import Result

from catalog.errors import Conflict, Misused
from deployer.errors import (
    ClusterNotFound,
    Forbidden,
    MachineConflict,
    MachineNotFound,
    NoCapacity,
    OverQuota,
    Refused,
)
from deployer.site.client.clusters import ClusterClient
from deployer.site.client.discovery import operator_socket
from deployer.site.model.cluster import MAX_CLUSTER, ClusterDocument
from deployer.site.schema.clusters import ClusterRequest, ClusterView, ReplaceRequest, ScaleRequest
from partita import app
from signer.documents import canonical, validate
from tests.support.commands import CliRunner
from tests.support.node.community import Community
from tests.support.node.service_process import policy, wait_for
from tests.support.site.service_process import PATIENCE, PaperNode, People, SiteProcess, populace


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Iterator[People]:
    """Somebody to ask."""
    with populace(tmp_path_factory.mktemp("people")) as found:
        yield found


@pytest.fixture(scope="module")
def site(community: Community, people: People) -> Iterator[SiteProcess]:
    """A site with a policy and people."""
    text = policy(community.star.anchor(), machines=1000)
    with SiteProcess(community.service.url, text, **people.settings()) as found:
        yield found


@pytest.fixture(scope="module")
def node(site: SiteProcess) -> PaperNode:
    """A node of that site, with room for ten machines."""
    return PaperNode(site, "paper", cores=10, memory=200 << 30)


@pytest.fixture(autouse=True)
def _alone(site: SiteProcess, node: PaperNode) -> Iterator[None]:
    yield
    with site.client() as client:
        for one in ClusterClient(client).all(active="true"):
            ClusterClient(client).destroy(one.uuid)
    node.step()
    site.wait(lambda client: not list(ClusterClient(client).all(active="true")))


@contextmanager
def busy(node: PaperNode) -> Iterator[None]:
    """The node has machines as they should be all the time."""
    ended = threading.Event()

    def work() -> None:
        while not ended.wait(0.1):
            node.step()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(PATIENCE)


def star(workers: int = 2, **values: Any) -> ClusterDocument:
    """A head, and workers that wait for it; ready when they run."""
    role = {"image": "star/hello@1.0", "ready": "running"}
    worker = role | {"count": workers, "requires": ["batch"], "user_data": "#!/bin/sh\necho hush\n"}
    roles = {"head": role | {"provides": ["batch"]}, "worker": worker}
    return validate(ClusterDocument, {"name": "star", "lifetime": "1h", "roles": roles} | values, "cluster")


def order(clusters: ClusterClient, document: ClusterDocument | None = None, key: str = "") -> ClusterView:
    """A cluster of three."""
    return clusters.create(ClusterRequest(document=document or star()), key or str(uuid.uuid4()))


def until(clusters: ClusterClient, cluster: str, phase: str) -> ClusterView:
    """The cluster once it is that far."""
    found = wait_for(lambda: (one := clusters.get(cluster)).phase.value == phase and one, PATIENCE)
    assert isinstance(found, ClusterView)
    return found


def test_a_dry_run_says_what_would_come_of_it_and_stores_nothing(
    site: SiteProcess, node: PaperNode, run: Callable[..., Result], tmp_path: Path
) -> None:
    """For the API and the command; the third cluster of four does not fit, and one of that name is in the way."""
    with site.client() as client:
        clusters = ClusterClient(client)
        before = client.status().events, len(list(clusters.all()))
        found = clusters.try_out(ClusterRequest(document=star()))
        assert found.accepted
        assert found.placed
        assert found.order == (("head",), ("worker",))
        assert set(found.fetch) == {node.joined.node}
        assert found.fetch[node.joined.node] > 0
        assert found.roles["worker"].placed == 2
        assert found.roles["worker"].decision["accepted"]
        assert not clusters.try_out(ClusterRequest(document=star(workers=10))).placed
        assert (client.status().events, len(list(clusters.all()))) == before
        order(clusters)
        (problem,) = clusters.try_out(ClusterRequest(document=star())).problems
        assert "end it first, or choose another name" in problem
    file = tmp_path / "star.json"
    file.write_bytes(canonical(star(name="moon")))
    done = run("cluster", "deploy", str(file), "--dry-run")
    assert done.exit_code == 0, done.output
    assert "cluster moon: head -> worker" in done.output
    file.write_bytes(canonical(star(workers=10, name="moon")))
    assert run("cluster", "deploy", str(file), "--dry-run").exit_code == 5


@contextmanager
def as_(site: SiteProcess, token: str) -> Iterator[ClusterClient]:
    """Clusters as somebody with a token sees them."""
    with site.reach(token=token) as client:
        yield ClusterClient(client)


def test_a_cluster_from_order_to_end(site: SiteProcess, node: PaperNode, people: People) -> None:
    """Ordered, ready, scaled, mended and ended; the answer says at each step how far it is."""
    with as_(site, people.star("ann")) as ann:
        made = order(ann)
        assert (made.phase, made.new, made.roles) == ("starting", True, {"head": 1, "worker": 2})
        assert [one.hostname for one in made.members] == ["star-head-1", "star-worker-1", "star-worker-2"]
        assert [one.held for one in made.members] == [False, True, True]
        assert made.status["worker"].waits_for == ("head",)
        assert {one.hostname for one in node.step().machines} == {"star-head-1"}
        with busy(node):
            ready = until(ann, "star", "ready")
            assert all(one.state == "running" for one in ready.members)
            assert ready.status["worker"].image_id == ready.members[0].image_id
            assert ann.scale("star", ScaleRequest(role="worker", count=3)).phase == "degraded"
            assert len(until(ann, made.uuid[:8], "ready").members) == 4
            ann.scale("star", ScaleRequest(role="worker", count=1, reason="the queue is empty"))
            wait_for(lambda: len(ann.get("star").members) == 2, PATIENCE)
            before = ann.get("star").members[1]
            ann.replace("star", ReplaceRequest(member="star-worker-1", reason="slow"))
            after = until(ann, "star", "ready").members[1]
            assert (after.hostname, after.uuid != before.uuid) == ("star-worker-1", True)
            assert ann.destroy("star", "done").phase == "ending"
            ended = until(ann, made.uuid, "ended")
        assert (ended.reason, ended.members) == ("done (by ann)", ())
        with pytest.raises(ClusterNotFound):
            ann.get("star")  # a name is that of an active one
    with site.client() as client:
        told = [one.what for one in client.events(0).items if one.subject == made.uuid]
        assert told[:2] == ["admitted", "ready"]
        assert {"scaled", "replacing", "ending", "ended"} <= set(told)


def test_an_order_has_one_answer_however_often_it_is_sent(site: SiteProcess, node: PaperNode, people: People) -> None:
    """The same key and document: the same cluster. Anything else under the same name: a conflict."""
    with as_(site, people.star("ann")) as ann:
        first = order(ann, key="k")
        again = order(ann, key="k")
        assert (again.uuid, again.new) == (first.uuid, False)
        with pytest.raises(Conflict):
            order(ann)
        with pytest.raises(Conflict):
            order(ann, star(1), key="k")
        assert len(list(ann.all(active="true"))) == 1


def test_who_sees_and_does_what(site: SiteProcess, node: PaperNode, people: People) -> None:
    """The owner all; the VO's administrator all but order; others of the VO nothing; security ends and reads."""
    with as_(site, people.star("ann")) as ann, as_(site, people.star("bob")) as bob:
        made = order(ann)
        assert made.document.roles["worker"].user_data == "#!/bin/sh\necho hush\n"
        assert list(bob.all()) == []
        for act in (
            lambda: bob.get(made.uuid),
            lambda: bob.get("star"),
            lambda: bob.scale(made.uuid, ScaleRequest(role="worker", count=1)),
            lambda: bob.replace(made.uuid, ReplaceRequest(member="star-head-1")),
            lambda: bob.destroy(made.uuid),
        ):
            with pytest.raises(ClusterNotFound):
                act()
        with site.reach(token=people.star("ann")) as mine, site.reach(token=people.star("bob")) as theirs:
            assert "cluster" in {one.kind for one in mine.events(0).items if one.subject == made.uuid}
            assert [one for one in theirs.events(0).items if one.subject == made.uuid] == []
        with as_(site, people.star("adm", "/star/admins")) as admin:
            seen = admin.get("star")
            assert seen.document.roles["worker"].user_data is None
            assert "hush" not in seen.model_dump_json()
            assert [one.uuid for one in admin.all(active="true")] == [made.uuid]
            assert admin.scale(made.uuid, ScaleRequest(role="worker", count=1)).roles["worker"] == 1
        with as_(site, people.own("sec", "/site/security")) as security:
            with pytest.raises(Forbidden):
                security.scale(made.uuid, ScaleRequest(role="worker", count=2))
            with pytest.raises(Forbidden):
                order(security)
            assert security.destroy(made.uuid, "compromised").reason == "compromised (by sec)"
        assert list(bob.all()) == []


def test_what_is_refused_leaves_nothing(site: SiteProcess, node: PaperNode, people: People) -> None:
    """Over the quota, without room, an image of nobody's trust, a role that cannot report."""
    rogue = star().model_dump(mode="json")
    rogue["roles"]["worker"]["image"] = "rogue/hello@1.0"
    reports = star().model_dump(mode="json")
    reports["roles"]["head"]["ready"] = "reported"
    nowhere = star().model_dump(mode="json")
    nowhere["roles"]["worker"]["wishes"] = {"labels": {"gpu": "yes"}}
    with as_(site, people.star("ann")) as ann:
        for document, error, says in (
            (star(4), OverQuota, "machines"),
            (validate(ClusterDocument, rogue, "c"), Refused, "rogue"),
            (validate(ClusterDocument, nowhere, "c"), NoCapacity, "gpu"),
            (validate(ClusterDocument, reports, "c"), Misused, "context broker"),
        ):
            if error is Misused and _has_broker(site):
                continue
            with pytest.raises(error, match=says):
                order(ann, document)
            assert list(ann.all(active="true")) == []
            with site.client() as client:
                assert [one for one in client.machines() if not one.state.final] == []
        assert order(ann).phase == "starting"  # the quota is free again


def _has_broker(site: SiteProcess) -> bool:
    return bool(site.settings.broker_listen)


def test_what_cannot_be_done_to_a_cluster(site: SiteProcess, node: PaperNode, people: People) -> None:
    """Each with its own kind of error."""
    with as_(site, people.star("ann")) as ann:
        made = order(ann)
        with pytest.raises(Misused, match="has no role"):
            ann.scale("star", ScaleRequest(role="tail", count=1))
        with pytest.raises(Misused, match="may have"):
            ann.scale("star", ScaleRequest(role="worker", count=0))
        with pytest.raises(MachineNotFound):
            ann.replace("star", ReplaceRequest(member="moon-1"))
        with pytest.raises(ClusterNotFound):
            ann.get("moon")
        ann.destroy("star")
        with pytest.raises(MachineConflict):
            ann.scale(made.uuid, ScaleRequest(role="worker", count=3))


@pytest.mark.parametrize(
    ("about", "method", "path", "content", "status", "words"),
    [
        ("not JSON", "POST", "/v2/clusters", b"{", 400, "is not JSON"),
        ("a circle", "POST", "/v2/clusters", "circle", 400, "circle: head -> worker -> head"),
        (
            "a word that nobody knows",
            "POST",
            "/v2/clusters",
            b'{"document":{"name":"a","roles":{"b":{"image":"c/d","sudo":1}}}}',
            400,
            "b.sudo",
        ),
        ("no roles", "POST", "/v2/clusters", b'{"document":{"name":"a","roles":{}}}', 400, "$.document.roles"),
        ("far too large", "POST", "/v2/clusters", b" " * (MAX_CLUSTER + 1), 413, "bytes"),
        ("fewer than none", "POST", "/v2/clusters/star/scale", b'{"role":"worker","count":-1}', 400, "$.count"),
        ("no member", "POST", "/v2/clusters/star/replace", b"{}", 400, "$.member"),
        ("a name that there is not", "GET", "/v2/clusters/moon", None, 404, "no such cluster"),
        ("a page of nothing", "GET", "/v2/clusters?limit=0", None, 400, "limit"),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_place(
    site: SiteProcess, about: str, method: str, path: str, content: Any, status: int, words: str
) -> None:
    """As a problem document."""
    if content == "circle":
        circle = star().model_dump(mode="json")
        circle["roles"]["head"]["requires"] = ["work"]
        circle["roles"]["worker"]["provides"] = ["work"]
        content = canonical({"document": circle})
    transport = httpx2.HTTPTransport(uds=str(operator_socket(site.settings)))
    with httpx2.Client(transport=transport, base_url="http://site") as asked:
        answer = asked.request(method, path, content=content)
    assert answer.status_code == status, answer.text
    assert words in answer.json()["detail"]


@pytest.mark.slow
def test_a_site_that_is_killed_goes_on_with_its_clusters(site: SiteProcess, node: PaperNode, people: People) -> None:
    """Killed while the head starts: the next service lets the workers start."""
    with as_(site, people.star("ann")) as ann:
        made = order(ann)
    site.kill()
    site.start()
    with busy(node), as_(site, people.star("ann")) as ann:
        assert len(until(ann, made.uuid, "ready").members) == 3


@pytest.fixture
def run(site: SiteProcess) -> Callable[..., Result]:
    """Runs a command against the site, as its operator; its own errors come out."""

    def command(*arguments: str) -> Result:
        result = CliRunner().invoke(app, ["--set", f"site.directory={site.directory}", *arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return command


STAR = """
name = "star"

[roles.head]
image = "star/hello@1.0"
provides = ["batch"]
ready = "running"

[roles.worker]
image = "star/hello@1.0"
count = 2
requires = ["batch"]
ready = "running"
"""


@pytest.mark.slow
def test_the_life_of_a_cluster_in_commands(
    site: SiteProcess, node: PaperNode, run: Callable[..., Result], tmp_path: Path
) -> None:
    """Check, deploy, status, scale, replace, list and destroy; each waits until it is so."""
    file = tmp_path / "star.toml"
    file.write_text(STAR)
    assert "head" in run("cluster", "check", str(file)).stdout
    assert json.loads(run("cluster", "check", str(file), "--json").stdout)["name"] == "star"
    assert run("cluster", "list").stdout == "no clusters\n"
    with busy(node):
        ready = run("cluster", "deploy", str(file), "--name", "moon")
        assert ready.exit_code == 0
        assert "is ready" in ready.stdout
        assert "moon-worker-2" in ready.stdout
        assert "moon-worker-2" in run("cluster", "status", "moon").stdout
        scaled = json.loads(run("cluster", "scale", "moon", "worker", "3", "--json").stdout)
        assert (scaled["phase"], len(scaled["members"])) == ("ready", 4)
        scaled = json.loads(run("cluster", "scale", "moon", "worker", "1", "--json").stdout)
        assert (scaled["phase"], len(scaled["members"])) == ("ready", 2)
        replaced = json.loads(run("cluster", "replace", "moon", "moon-head-1", "--json").stdout)
        assert replaced["phase"] == "ready"
        assert replaced["members"][0]["uuid"] != scaled["members"][0]["uuid"]
        assert "moon" in run("cluster", "list").stdout
        assert run("cluster", "destroy", "moon", "--reason", "done").stdout == "moon: ended\n"
    assert "done" in run("cluster", "list", "--all").stdout
    with pytest.raises(Misused, match="timeout"):
        run("cluster", "deploy", str(file), "--timeout", "soon")


@pytest.mark.slow
def test_a_cluster_that_fails_says_so(
    site: SiteProcess, node: PaperNode, run: Callable[..., Result], tmp_path: Path
) -> None:
    """Not ready in time: the command ends with 1 and shows why."""
    file = tmp_path / "star.toml"
    file.write_text('start_within = "2s"\n' + STAR)
    failed = run("cluster", "deploy", str(file))
    assert failed.exit_code == 1
    assert "it was not ready within 2 s: head has 0 of 1 ready, worker has 0 of 2 ready" in failed.stdout


def test_machines_of_a_cluster_are_found_by_it(site: SiteProcess, node: PaperNode) -> None:
    """Deployments and machines name their cluster and role."""
    with site.client() as client:
        made = order(ClusterClient(client))
        deployments = list(client.deployments(cluster=made.uuid))
        assert {one.role for one in deployments} == {"head", "worker"}
        assert {one.cluster for one in deployments} == {made.uuid}
        assert len(list(client.machines(cluster=made.uuid))) == 3
