"""A cluster of real guests on a real node of a real site: in order, mended when a guest is killed, scaled up and down."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from deployer.site.client.client import SiteClient
from deployer.site.client.clusters import ClusterClient
from deployer.site.model.cluster import ClusterDocument
from deployer.site.schema.clusters import ClusterRequest, ClusterView, ScaleRequest
from signer.documents import validate
from tests.support.node.community import Community
from tests.support.node.service_process import NodeProcess, policy, wait_for
from tests.support.site.service_process import PATIENCE, SiteProcess

LONG = 2 * PATIENCE
"""Seconds for several guests after another, on however busy a machine."""


def star() -> ClusterDocument:
    """A head, and two workers that wait for it."""
    role = {"image": "star/hello@1.0", "ready": "running", "network": "none"}
    roles = {"head": role | {"provides": ["batch"]}, "worker": role | {"count": 2, "requires": ["batch"]}}
    return validate(ClusterDocument, {"name": "star", "lifetime": "1h", "roles": roles}, "cluster")


def emulator(node: NodeProcess, machine: str) -> int:
    """The process of a machine's emulator."""
    (found,) = (pid for pid in node.guests() if machine.encode() in Path(f"/proc/{pid}/cmdline").read_bytes())
    return found


@pytest.mark.slow
@pytest.mark.guest
@pytest.mark.timeout(300)
def test_a_cluster_of_real_guests(
    make_site: Callable[..., SiteProcess], make_member: Callable[..., NodeProcess], community: Community
) -> None:
    """The head runs before a worker is made; a worker that is killed from outside comes again; 2, 3, then 1 workers."""
    site = make_site(community.service.url, policy(community.star.anchor()), overcommit_cores=16.0)
    node = make_member(site, "worker")
    site.wait(lambda client: any(one.reported is not None for one in client.nodes()))

    def view(client: SiteClient) -> ClusterView:
        return ClusterClient(client).get("star")

    def ready(workers: int) -> Callable[[SiteClient], ClusterView | None]:
        def there(client: SiteClient) -> ClusterView | None:
            found = view(client)
            return found if found.phase == "ready" and len(found.members) == workers + 1 + len(found.failed) else None

        return there

    with site.client() as client:
        made = ClusterClient(client).create(ClusterRequest(document=star()), "k")
    assert [one.held for one in made.members] == [False, True, True]
    first: ClusterView = site.wait(ready(2), LONG)
    assert len(node.guests()) == 3
    head, *workers = first.members
    with site.client() as client:
        told = [(one.subject, one.what) for one in client.events(0).items]
    assert told.index((head.uuid, "running")) < min(told.index((one.uuid, "released")) for one in workers)
    assert {node.console(one.uuid) != b"" for one in first.members} == {True}

    os.kill(emulator(node, workers[1].uuid), signal.SIGKILL)
    site.wait(lambda client: view(client).failed, LONG)
    mended: ClusterView = site.wait(ready(2), LONG)
    living = {one.hostname: one.uuid for one in mended.members if not one.state.final}
    assert sorted(living) == ["star-head-1", "star-worker-1", "star-worker-2"]
    assert living["star-worker-2"] != workers[1].uuid
    assert living["star-worker-1"] == workers[0].uuid
    wait_for(lambda: len(node.guests()) == 3, LONG)

    with site.client() as client:
        ClusterClient(client).scale("star", ScaleRequest(role="worker", count=3))
    site.wait(ready(3), LONG)
    assert len(node.guests()) == 4
    with site.client() as client:
        ClusterClient(client).scale("star", ScaleRequest(role="worker", count=1))
    site.wait(ready(1), LONG)
    wait_for(lambda: len(node.guests()) == 2, LONG)
    with site.client() as client:
        whats = [one.what for one in client.events(0).items if one.subject == living["star-worker-2"]]
        assert whats.index("stopping") < whats.index("stopped") < whats.index("ended")  # asked first, and it obeyed
        ClusterClient(client).destroy("star", "done")
    site.wait(lambda client: ClusterClient(client).get(made.uuid).phase == "ended", LONG)
    wait_for(lambda: not node.guests(), LONG)
