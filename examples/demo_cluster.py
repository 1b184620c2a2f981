"""The demo's cluster: a site's service, a node that joins it, and three guests that find each other on a real network.

All of it is in a network namespace of the demo's own, with one bridge and its DHCP service: nothing of this machine's
networks is touched, and all of it is gone with the demo.
"""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from examples.screenshot import screenshot

if TYPE_CHECKING:
    from examples.demo import Demo

BRIDGE, ADDRESS, GUESTS = "partita0", "10.77.0.1", "10.77.0.10,10.77.0.200,1h"
BROKER = f"{ADDRESS}:7480"
DEADLINE = 240.0
"""Seconds that three guests get: some ten times what software emulation takes."""

PICTURE = Path(__file__).resolve().parent.parent / "build" / "console.png"
DOCUMENT = Path(__file__).resolve().parent / "recipes" / "cluster.toml"


def run_in_own_network(module: str, arguments: Sequence[str]) -> int:
    """Run a module in a network namespace that is made for it, and is removed after it; returns its exit code."""
    name = f"partita-demo-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        return subprocess.run(
            ["ip", "netns", "exec", name, sys.executable, "-m", module, *arguments], check=False
        ).returncode
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)


@contextlib.contextmanager
def network(root: Path) -> Iterator[None]:
    """A bridge with an address and a DHCP service, in the namespace that we are in."""
    for command in (
        f"link set lo up|link add {BRIDGE} type bridge|addr add {ADDRESS}/24 dev {BRIDGE}|link set {BRIDGE} up"
    ).split("|"):
        subprocess.run(["ip", *command.split()], check=True)
    dhcp = subprocess.Popen(
        ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", f"--interface={BRIDGE}",
         "--bind-interfaces", f"--dhcp-range={GUESTS}", f"--dhcp-leasefile={root / 'leases'}", "--pid-file="],
        stdout=subprocess.DEVNULL, stderr=(root / "dhcp.log").open("wb"),
    )  # fmt: skip
    try:
        yield
    finally:
        dhcp.terminate()
        dhcp.wait()


@contextlib.contextmanager
def site(demo: "Demo") -> Iterator[None]:
    """A site's service, and the demo's node a member of it."""
    with site_service(demo) as url:
        demo.shown("node", "join", url, demo.asked("site", "token")["token"], "--name", "node-1")
        yield


@contextlib.contextmanager
def site_service(demo: "Demo", address: str = "127.0.0.1", broker: str = BROKER) -> Iterator[str]:
    """A site's service, while the block runs: its URL.

    Args:
        demo: whose settings get the site's section.
        address: where it listens.
        broker: where its context broker does.
    """
    root = demo.root
    demo.chapter("A site", "It takes orders, chooses nodes by their capacity, and tells them what should exist.")
    demo.settings["site"] = {
        "directory": str(root / "site"),
        "listen": f"{address}:0",
        "names": [address, "localhost"],
        "catalog": demo.settings["catalog"]["url"],
        "policy": str(root / "policy.toml"),
        "tuf_root": str(root / "root.json"),
        "broker_listen": broker,
        "overcommit_cores": 16.0,  # three guests, on however few cores this machine has
    }
    demo.write_settings()
    ready = root / "site.ready"
    with demo.service("site", "serve", "--ready-file", str(ready), ready=ready):
        yield ready.read_text().strip()


def order(demo: "Demo") -> None:
    """Order a cluster, and let it come up."""
    demo.chapter(
        "A cluster is ordered", "The site reserves the capacity for all of it, and starts the head; we do not wait."
    )
    demo.shown("cluster", "deploy", str(DOCUMENT), "--no-wait")


def cluster(demo: "Demo") -> None:
    """A head and two workers have come up in order and found each other; then they end."""
    from examples.demo import DemoError, console

    demo.chapter("The cluster", "Two workers have learned from the site's broker where the head is.")
    deadline = time.monotonic() + DEADLINE
    while demo.asked("cluster", "status", "star")["phase"] != "ready":
        if time.monotonic() > deadline:
            raise DemoError(f"the cluster was not ready within {DEADLINE:.0f} s")
    demo.shown("cluster", "status", "star")
    view = demo.asked("cluster", "status", "star")
    for member in view["members"]:
        said = demo.machine_console(member["uuid"])
        told = [line for line in said.splitlines() if "offers the key" in line or "found star-head" in line]
        console.print(f"[bold]{member['hostname']}[/bold] {' '.join(told)}", highlight=False)
        if not told:
            raise DemoError(f"{member['hostname']} found nobody; its console:\n{said}")
    taken = screenshot(demo.asked("site", "login")["url"], PICTURE, f"/console/clusters/{view['uuid']}")
    console.print(
        f"the site's console: {taken}" if taken else "the site's console: no picture, there is no Chromium here"
    )
    demo.shown("cluster", "destroy", "star")
