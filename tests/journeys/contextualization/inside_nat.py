"""What `test_nat_network` runs in namespaces of its own: a NAT network of libvirt's with dnsmasq, and on it a whole site.

Not collected by itself. What is left of its processes ends with the network's namespace, its mounts with the other one.
"""

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from catalog.builder.recipe_build import build_image
from catalog.client import transfer
from catalog.image.bundle import Bundle
from deployer.site.client.client import SiteClient
from deployer.site.client.clusters import ClusterClient
from deployer.site.model.cluster import ClusterDocument
from deployer.site.schema.clusters import ClusterRequest, ClusterView
from examples.guest import write_recipe
from signer.documents import validate
from tests.support.node.community import Community
from tests.support.node.service_process import NodeProcess, policy, wait_for
from tests.support.site.busybox_guests import PACKAGES
from tests.support.site.service_process import SiteProcess

GATEWAY = "192.168.150.1"
BROKER = f"{GATEWAY}:7480"
LONG = 240.0
"""Seconds for three guests under emulation, on however busy a machine."""

OWN = ("/run/libvirt", "/var/lib/libvirt", "/etc/libvirt", "/var/log/libvirt", "/var/cache/libvirt")
"""What libvirt's daemon keeps; each is an empty file system in here."""

NETWORK = f"""\
<network>
  <name>guests</name>
  <forward mode='nat'/>
  <bridge name='virbr0' stp='off' delay='0'/>
  <ip address='{GATEWAY}' netmask='255.255.255.0'>
    <dhcp><range start='192.168.150.10' end='192.168.150.99'/></dhcp>
  </ip>
</network>
"""


def run(*command: str) -> str:
    """A command's output; fails with what it said."""
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, f"{command}: {ended.stdout}{ended.stderr}"
    return ended.stdout


@pytest.fixture(scope="session")
def nat() -> None:
    """The network, from libvirt's own daemon: NAT by the kernel, DHCP and names by dnsmasq."""
    for place in OWN:
        Path(place).mkdir(parents=True, exist_ok=True)
        run("mount", "-t", "tmpfs", "tmpfs", place)
    for place in ("/run/libvirt/network", "/var/lib/libvirt/dnsmasq"):
        Path(place).mkdir()
    Path("/etc/libvirt/libvirtd.conf").write_text(
        'auth_unix_ro = "none"\nauth_unix_rw = "none"\nunix_sock_group = "root"\n'
    )
    run("libvirtd", "--daemon", "--pid-file", "/run/libvirt/libvirtd.pid")
    wait_for(Path("/run/libvirt/libvirt-sock").exists, 60)
    # A driver that is embedded looks for the daemon of networks alone; Debian's package has one daemon for everything.
    Path("/run/libvirt/virtnetworkd-sock").symlink_to("libvirt-sock")
    Path("/run/libvirt/guests.xml").write_text(NETWORK)
    run("virsh", "-c", "network:///system", "net-create", "/run/libvirt/guests.xml")


@pytest.fixture
def worker(nat: None, community: Community, tmp_path: Path) -> Bundle:
    """The example guest, endorsed and published."""
    recipe = write_recipe(tmp_path / "guest", name="pool", data=1 << 20, packages=PACKAGES)
    bundle = community.star.endorse(build_image(recipe, tmp_path / "image").bundle)
    with community.service.client() as client:
        transfer.publish_image(client, bundle)
    return bundle


def pool() -> ClusterDocument:
    """A head, and two workers that find it."""
    role = {"image": "star/pool@1.0", "network": "network:guests"}
    roles = {"head": role | {"provides": ["pool"]}, "worker": role | {"count": 2, "requires": ["pool"]}}
    return validate(ClusterDocument, {"name": "star", "lifetime": "1h", "roles": roles}, "cluster")


def test_a_cluster_finds_itself_on_a_nat_network(
    nat: None,
    worker: Bundle,
    make_site: Callable[..., SiteProcess],
    make_member: Callable[..., NodeProcess],
    community: Community,
) -> None:
    rules = policy(community.star.anchor()).replace('allow = ["user"]', 'allow = ["user", "network:guests"]')
    site = make_site(community.service.url, rules, broker_listen=BROKER, overcommit_cores=16.0)
    node = make_member(site, "worker")
    node.policy.write_text(rules)
    site.wait(lambda client: any(one.reported is not None for one in client.nodes()))
    with site.client() as client:
        ClusterClient(client).create(ClusterRequest(document=pool()), "k")

    def ready(client: SiteClient) -> ClusterView | None:
        found = ClusterClient(client).get("star")
        assert not found.failed, (found.failed, client.events(0).items, node.log.read_text()[-3000:])
        return found if found.phase == "ready" else None

    began = time.monotonic()
    found: ClusterView = site.wait(ready, LONG)
    print(f"the cluster was ready after {time.monotonic() - began:.0f} s")  # noqa: T201 - for whoever reads the log
    machines = {one.hostname: one for one in found.members}
    assert sorted(machines) == ["star-head-1", "star-worker-1", "star-worker-2"]
    for machine in machines.values():
        seen: tuple[str, ...] = site.wait(lambda client, uuid=machine.uuid: client.machine(uuid).addresses, LONG)
        assert all(one.startswith("192.168.150.") for one in seen), seen
        assert site.machine(machine.uuid).ready == "ready"
    (address,) = site.machine(machines["star-head-1"].uuid).addresses
    for name in ("star-worker-1", "star-worker-2"):
        said = node.console(machines[name].uuid).decode(errors="replace")
        assert f"partita-guest: found star-head-1 at {address}, whose key is " in said
        assert "context ended with 0" in said
    leases = run("virsh", "-c", "network:///system", "net-dhcp-leases", "guests")
    assert address in leases
