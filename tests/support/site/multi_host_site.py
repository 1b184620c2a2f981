"""A resource provider in small: catalog, site, address service and nodes, each on a host of its own, on one segment.

A node's guests are plugged into a bridge of that node, which is joined to the segment: guests of different nodes reach
each other, and the broker. Nothing is routed beyond. All of it ends with the block.
"""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from catalog.client import transfer
from catalog.image.bundle import Bundle
from signer.openpgp.keyring import Keyring
from tests.support.catalog.service_process import Service, Vo
from tests.support.network_namespaces import Host, Network, inside
from tests.support.node.service_process import NodeProcess, policy
from tests.support.site.service_process import SiteProcess

BRIDGE = "partita0"
BROKER = "broker.partita"
"""The broker's name, which guests ask the address service for."""

BROKER_PORT = 7480


@dataclass(frozen=True)
class Estate:
    """What runs.

    Attributes:
        hosts: "catalog", "site", "names", and each node's by the node's name.
        nodes: by name.
        star: the VO that the catalog and the site's policy believe.
    """

    hosts: dict[str, Host]
    catalog: Service
    site: SiteProcess
    nodes: dict[str, NodeProcess]
    star: Vo

    def publish(self, bundle: Bundle) -> None:
        """Endorse an image and publish it."""

        def work() -> None:
            with self.catalog.client() as client:
                transfer.publish_image(client, self.star.endorse(bundle))

        inside(self.hosts["catalog"], work)


@contextmanager
def estate(*names: str, warm: Path | None = None, **site_settings: object) -> Iterator[Estate]:
    """An estate with nodes of these names that have joined its site.

    Args:
        names: of the nodes.
        warm: what libvirt found out about QEMU before.
        site_settings: further ones of the section `site`.
    """
    place = Path(tempfile.mkdtemp(prefix="pe-", dir="/tmp"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, place)
        network = stack.enter_context(Network())
        hosts = {name: network.host(name) for name in ("catalog", "site", "names")}
        hosts |= {name: network.host(name, bridge=BRIDGE) for name in names}
        hosts["names"].lend(place, **{BROKER: hosts["site"].ip})
        keyring = Keyring(place / "keys")
        star = Vo(keyring, "star", keyring.generate("Star <star@example.org>"))
        catalog = stack.enter_context(Service(place, host=hosts["catalog"]))
        catalog.register(star.anchor())
        rules = policy(star.anchor()).replace('["user"]', f'["bridge:{BRIDGE}"]')
        broker = {
            "broker_listen": f"{hosts['site'].ip}:{BROKER_PORT}",
            "broker_url": f"http://{BROKER}:{BROKER_PORT}",
        }
        settings = broker | {"network": f"bridge:{BRIDGE}", "overcommit_cores": 16.0} | site_settings
        site = stack.enter_context(SiteProcess(catalog.url, rules, host=hosts["site"], **settings))
        nodes = {}
        for name in names:
            nodes[name] = node = NodeProcess(catalog.url, rules, warm=warm, host=hosts[name])
            stack.push(lambda *_, node=node: _end(node))
            inside(hosts[name], lambda node=node, name=name: site.join(node.directory / "n" / "site", name))
            node.start()
        site.wait(lambda client: sum(one.reported is not None for one in client.nodes()) == len(names))
        yield Estate(hosts, catalog, site, nodes, star)


def _end(node: NodeProcess) -> None:
    with contextlib.suppress(FileNotFoundError):
        node.__exit__()
