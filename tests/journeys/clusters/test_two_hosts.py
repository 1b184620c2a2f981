"""A cluster over two nodes, each on a host of its own: it finds itself, and its image goes from node to node."""

import functools
import shutil
from pathlib import Path

import pytest

from catalog.builder.recipe_build import build_image
from catalog.swarm.torrent import MIN_SWARM_SIZE
from deployer.site.client.client import SiteClient
from deployer.site.client.clusters import ClusterClient
from deployer.site.model.cluster import ClusterDocument
from deployer.site.schema.clusters import ClusterRequest, ClusterView
from examples.guest import write_recipe
from signer.documents import validate
from tests.support.network_namespaces import unavailable
from tests.support.site.busybox_guests import PACKAGES
from tests.support.site.multi_host_site import BRIDGE, estate

LONG = 600.0
"""Seconds for three guests under emulation, on however busy a machine."""

DATA = 40 << 20
"""Bytes that are no zeros, in a partition that is worth a swarm."""


def pool() -> ClusterDocument:
    """A head, and two workers on as many nodes as there are."""
    role = {"image": "star/pool@1.0", "network": f"bridge:{BRIDGE}"}
    worker = role | {"count": 2, "requires": ["pool"], "wishes": {"strategy": "spread"}}
    roles = {"head": role | {"provides": ["pool"]}, "worker": worker}
    return validate(ClusterDocument, {"name": "star", "lifetime": "1h", "roles": roles}, "cluster")


@pytest.mark.slow
@pytest.mark.guest
@pytest.mark.timeout(900)
def test_a_cluster_finds_itself_across_two_nodes_and_its_image_goes_from_one_to_the_other(
    warm: Path, tmp_path: Path
) -> None:
    """Head and a worker on one node, a worker on the other; the catalog sends what a swarm carries once, not twice."""
    if reason := unavailable():
        pytest.skip(reason)
    if shutil.which("dnsmasq") is None:
        pytest.skip("dnsmasq missing")
    bundle = build_image(
        write_recipe(tmp_path / "guest", name="pool", data=DATA, packages=PACKAGES), tmp_path / "image"
    ).bundle
    with estate("one", "two", warm=warm) as found:
        found.publish(bundle)
        sent = {name: host.sent() for name, host in found.hosts.items()}
        with found.site.client() as client:
            ClusterClient(client).create(ClusterRequest(document=pool()), "k")

        def ready(client: SiteClient) -> ClusterView | None:
            view = ClusterClient(client).get("star")
            logs = [node.log.read_text()[-2000:] for node in found.nodes.values()]
            assert not view.failed, (view.failed, client.events(0).items, logs)
            return view if view.phase == "ready" else None

        view: ClusterView = found.site.wait(ready, LONG)
        names = {one.uuid: one.name for one in found.site.wait(lambda client: client.nodes())}
        members = {one.hostname: one for one in view.members}
        places = {hostname: names[one.node or ""] for hostname, one in members.items()}
        assert sorted(members) == ["star-head-1", "star-worker-1", "star-worker-2"]
        home = places["star-head-1"]
        (away,) = {"one", "two"} - {home}
        assert sorted(places.values()) == sorted([home, home, away])

        addresses = {}
        for hostname, one in members.items():
            known = functools.partial(lambda client, uuid: client.machine(uuid).known, uuid=one.uuid)
            (addresses[hostname],) = found.site.wait(known, LONG)
        assert all(one.startswith("10.77.0.") for one in addresses.values())
        assert len(set(addresses.values())) == 3
        for hostname in ("star-worker-1", "star-worker-2"):
            said = found.nodes[places[hostname]].console(members[hostname].uuid).decode(errors="replace")
            assert f"partita-guest: found star-head-1 at {addresses['star-head-1']}, whose key is " in said
            assert "context ended with 0" in said

        gone = {name: host.sent() - sent[name] for name, host in found.hosts.items()}
        small = sum(address.size for address in bundle.manifest.contents() if address.size < MIN_SWARM_SIZE)
        print(f"bytes sent: {gone}; twice the small contents: {2 * small}")  # noqa: T201 - for whoever reads the log
        assert DATA < gone["catalog"] < DATA * 1.5 + 2 * small
        assert gone[home] > DATA
        assert gone[away] < DATA / 2
