"""The paper's experiment: a virtual cluster with a real batch pool, a job run through it, and workers added while it runs.

    python -m examples.star [--keep DIR]        as root; some minutes under software emulation

A site with two nodes, each on a host of its own (`hosts`). Head and workers come from two images that share base,
application and data: the first node gets them from the catalog, the other from the first. The workers, on both nodes, find
the head through the site's context broker, get its munge key and join its Slurm pool as nodes that nobody had listed. A
job of many events is run; when its first event is done, the cluster is scaled from two workers to three, and the third
takes events of that job.
"""

import argparse
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from examples.demo import PACKAGES, DemoError, console, policy, wait_for
from examples.guest_system import GuestError, kernel_tree
from examples.star.build import write_recipes
from examples.star.hosts import Hosts, hosts

DOCUMENT = Path(__file__).resolve().parent / "cluster.toml"
DEADLINE = 600.0
"""Seconds that each step of the pool gets: ten times what software emulation takes on two cores."""


def main(arguments: Sequence[str]) -> int:
    """Run the experiment; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m examples.star", description="The cluster of the 2007 paper.")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="work in DIR and leave everything there")
    options = parser.parse_args(arguments)
    # Short, because libvirt's sockets below it may have at most 108 bytes of path.
    root = options.keep.resolve() if options.keep else Path(tempfile.mkdtemp(prefix="star-"))
    try:
        kernel_tree(PACKAGES)
        write_recipes(root / "parts", packages=PACKAGES)
        with hosts(root) as found:
            experiment(found)
    except (DemoError, GuestError) as error:
        console.print(f"[red]star: {error}[/red]")
        return 1
    finally:
        if not options.keep:
            shutil.rmtree(root, ignore_errors=True)
    return 0


def experiment(found: Hosts) -> None:
    """Images, catalog, site and nodes; the cluster, its job, and a third worker."""
    demo = found.services
    root = demo.root
    demo.chapter("Two images", "Head and worker share base, application and data: published once, and cached once.")
    for role in ("head", "worker"):
        demo.shown("image", "build", str(root / "parts" / f"{role}.toml"), "-o", str(root / role))
    fingerprint = demo.asked("key", "new", "STAR image administrator <images@star.example>")["fingerprint"]
    demo.shown("key", "export", fingerprint, "-o", str(root / "star.asc"))
    with found.catalog():
        demo.shown("vo", "register", "star", "--key", str(root / "star.asc"))
        for role in ("head", "worker"):
            demo.shown("endorse", str(root / role), "--days", "30")
            demo.shown("publish", str(root / role))
        policy(root, fingerprint)
        demo.shown("catalog", "tuf", "export", "-o", str(root / "root.json"))
        with found.site():
            cluster(found)


def cluster(found: Hosts) -> None:
    """The pool comes up, runs its job, and grows while it does."""
    demo = found.services
    demo.chapter("The cluster", "The head runs Slurm's controller; each worker finds it, gets its key and joins.")
    before = found.sent()
    demo.shown("cluster", "deploy", str(DOCUMENT))
    demo.shown("cluster", "status", "star")
    members = demo.asked("cluster", "status", "star")["members"]
    names = {one["uuid"]: one["name"] for one in demo.asked("site", "nodes")}
    places = {one["hostname"]: names[one["node"]] for one in members}
    for hostname, name in sorted(places.items()):
        console.print(f"{hostname} runs on {name}")
    _travelled(found, before, places)
    demo.chapter("A job", "Events, each on whichever node is free; then a third worker, while they run.")
    head = next(one["uuid"] for one in members if one["role"] == "head")
    near = found.nodes[places["star-head-1"]]
    wait_for(near, head, r"star: event \d+ on star-worker-[12]: 8388608 bytes", DEADLINE)
    demo.shown("cluster", "scale", "star", "worker", "3")
    said = wait_for(near, head, "star: the job is done", DEADLINE)
    events = re.findall(r"star: event (\d+) on (\S+): \d+ bytes, checksum (\w+)", said)
    for number, node, checksum in events:
        console.print(f"event {number:>2} on {node}, checksum {checksum}", markup=False)
    if len(events) < 16 or sorted(int(number) for number, _, _ in events) != list(range(1, len(events) + 1)):
        raise DemoError(f"not every event was reconstructed once; the head's console:\n{said}")
    if {node for _, node, _ in events} != {f"star-worker-{number}" for number in (1, 2, 3)}:
        raise DemoError(f"not every worker took a part in the job; the head's console:\n{said}")
    if len({checksum for _, _, checksum in events}) != 1:
        raise DemoError("the workers do not have the same data")
    demo.shown("cluster", "status", "star")
    demo.shown("cluster", "destroy", "star")
    console.print(
        f"{len(events)} events were reconstructed by 3 workers on 2 nodes, one of whom joined while the job ran"
    )


def _travelled(found: Hosts, before: dict[str, int], places: dict[str, str]) -> None:
    """Where the images came from: the head's node had them from the catalog, the other one from the head's node."""
    if (nodes := set(places.values())) != set(found.nodes):
        raise DemoError(f"the cluster is on {', '.join(sorted(nodes))} alone")
    sent = {name: count - before[name] for name, count in found.sent().items()}
    for name, count in sent.items():
        console.print(f"{name} sent {count / 2**20:.0f} MiB")
    if sent[places["star-head-1"]] < sent["services"] / 2:
        raise DemoError("the second node had its image from the catalog, though the first node has it")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
