"""What forms of the console do, and that those of others do nothing."""

import re
import ssl

import httpx2

from deployer.protocol.deployment_request import DeploymentRequest
from deployer.site.client.clusters import ClusterClient
from deployer.site.schema.clusters import ClusterRequest
from signer.documents import validate
from tests.support.node.service_process import wait_for
from tests.support.site.console_login import operator, person, send
from tests.support.site.service_process import PaperNode, People, SiteProcess


def test_forms_do_what_the_api_does(site: SiteProcess, node: PaperNode, browser: httpx2.Client, people: People) -> None:
    """A member's own machine: another end, paused, ended. What cannot be is a page that says why."""
    asked = person(browser, people.star("ann"))
    with site.reach(token=people.star("ann")) as client:
        machine = client.create(DeploymentRequest(image="star/hello@1.0", lifetime=600), "k1").machines[0]
    node.step()
    page = f"/console/machines/{machine.uuid}"
    assert send(asked, page, f"{page}/extend", lifetime="2h").headers["location"] == page
    assert site.machine(machine.uuid).expires > machine.expires
    for text, status in (("2q", 400), ("", 400), ("0s", 400), ("600w", 400), ("30d", 403)):
        assert send(asked, page, f"{page}/extend", lifetime=text).status_code == status, text
    assert send(asked, page, f"{page}/pause").status_code == 303
    assert site.machine(machine.uuid).desired.value == "paused"
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
    assert site.wait_state(machine.uuid, "ended").desired_reason == "asked for by ann"
    assert asked.post(f"{page}/reboot", data={"form": secret}).status_code == 409


def test_forms_of_others_do_nothing(site: SiteProcess, browser: httpx2.Client, context: ssl.SSLContext) -> None:
    """Without the session's own secret, with another session's, or from another page: refused, whoever is logged in."""
    asked = operator(site, browser)
    secret = re.findall(r'name="form" value="([^"]+)"', asked.get("/console/").text)[0]
    with httpx2.Client(base_url=site.url, verify=context, trust_env=False, timeout=60) as other:
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


def test_clusters_are_scaled_and_ended(site: SiteProcess, node: PaperNode, browser: httpx2.Client) -> None:
    """The map has the roles in their order; each form does what it says."""
    roles = {
        "worker": {"image": "star/hello@1.0", "ready": "running", "count": 2, "requires": ["batch"]},
        "head": {"image": "star/hello@1.0", "ready": "running", "provides": ["batch"]},
    }
    order = validate(ClusterRequest, {"document": {"name": "star", "roles": roles}}, "cluster")
    with site.client() as client:
        cluster = ClusterClient(client).create(order, "k3")
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
    assert site.machine(member.uuid).desired.value == "ended"
    assert send(asked, page, f"{page}/destroy", reason="over").status_code == 303
    wait_for(lambda: (node.step(), ">ended<" in asked.get(page).text)[1], 60)
    assert f'action="{page}/destroy"' not in asked.get(page).text
