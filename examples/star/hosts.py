"""The hosts of the experiment, in network namespaces on one segment: catalog and site, the address service, two nodes.

Each node has a bridge for its guests, which is joined to the segment, so that guests of both nodes reach each other and
the site's broker. Nothing of this machine's networks is touched, and all of it is gone with the block.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from examples.demo import Demo, DemoError
from examples.demo_cluster import BRIDGE, site_service
from tests.support.network_namespaces import Host, Network, unavailable

NODES = ("node-1", "node-2")
BROKER_PORT = 7480


@dataclass(frozen=True)
class Hosts:
    """Where commands run.

    Attributes:
        services: on the host of catalog and site; its directory is the whole experiment's.
        nodes: on each node's host, with settings and a directory of that node's own.
        links: the hosts themselves.
    """

    services: Demo
    nodes: dict[str, Demo]
    links: dict[str, Host]

    def sent(self) -> dict[str, int]:
        """Bytes that each host has sent so far, with those of its guests."""
        return {name: host.sent() for name, host in self.links.items()}

    @contextmanager
    def catalog(self) -> Iterator[None]:
        """The catalog's service, known to all, while the block runs."""
        demo, ready = self.services, self.services.root / "catalog.ready"
        listen = f"{self.links['services'].ip}:0"
        with demo.service("catalog", "serve", "--listen", listen, "--ready-file", str(ready), ready=ready):
            demo.settings["catalog"]["url"] = ready.read_text().strip()
            demo.write_settings()
            yield

    @contextmanager
    def site(self) -> Iterator[None]:
        """The site's service, and nodes that have joined it, while the block runs."""
        demo, address = self.services, self.links["services"].ip
        with ExitStack() as stack:
            url = stack.enter_context(site_service(demo, address, f"{address}:{BROKER_PORT}"))
            for name, node in self.nodes.items():
                node.settings["node"] |= {
                    "catalog": demo.settings["catalog"]["url"],
                    "tuf_root": str(demo.root / "root.json"),
                    "swarm_listen": f"{self.links[name].ip}:0",
                }
                node.settings["deploy"]["policy"] = str(demo.root / "policy.toml")
                node.write_settings()
                node.shown("node", "join", url, demo.asked("site", "token")["token"], "--name", name)
                ready = node.root / "ready"
                serve = ("node", "serve", "--end-machines", "--ready-file", str(ready))
                stack.enter_context(node.service(*serve, ready=ready))
            yield


@contextmanager
def hosts(root: Path) -> Iterator[Hosts]:
    """The hosts, while the block runs; every process on them ends with it.

    Raises:
        DemoError: this machine allows no network namespaces.
    """
    if reason := unavailable():
        raise DemoError(reason)
    with Network() as network:
        links = {"services": network.host("services")}
        network.host("names").lend(root)
        links |= {name: network.host(name, bridge=BRIDGE) for name in NODES}
        nodes = {name: Demo(root / name, links[name].entering) for name in NODES}
        yield Hosts(Demo(root, links["services"].entering), nodes, links)
