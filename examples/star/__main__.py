"""The paper's experiment: a virtual cluster with a real batch pool, a job run through it, and workers added while it runs.

    python -m examples.star [--keep DIR]        as root; some minutes under software emulation

Head and workers come from two images that share base, application and data. The workers find the head through the site's
context broker, get its munge key and join its Slurm pool as nodes that nobody had listed. A job of many events is
run; when its first event is done, the cluster is scaled from two workers to three, and the third takes events of that job.
"""

import argparse
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from examples.demo import PACKAGES, Demo, DemoError, console, policy, wait_for
from examples.demo_cluster import network, run_in_own_network, site
from examples.guest import kernel_tree
from examples.star.build import write_recipes

DOCUMENT = Path(__file__).resolve().parent / "cluster.toml"
DEADLINE = 600.0
"""Seconds that each step of the pool gets: ten times what software emulation takes on two cores."""


def main(arguments: Sequence[str]) -> int:
    """Run the experiment; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m examples.star", description="The cluster of the 2007 paper.")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="work in DIR and leave everything there")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.inside:
        try:
            with network(options.inside):
                experiment(Demo(options.inside))
        except DemoError as error:
            console.print(f"[red]star: {error}[/red]")
            return 1
        return 0
    root = options.keep.resolve() if options.keep else Path(tempfile.mkdtemp(prefix="star-"))
    try:
        # What comes from Debian is fetched before the network is left.
        kernel_tree(PACKAGES)
        write_recipes(root / "parts", packages=PACKAGES)
        return run_in_own_network("examples.star", ["--inside", str(root)])
    finally:
        if not options.keep:
            shutil.rmtree(root, ignore_errors=True)


def experiment(demo: Demo) -> None:
    """Images, catalog, site and node; the cluster, its job, and a third worker."""
    root = demo.root
    demo.chapter("Two images", "Head and worker share base, application and data: published once, and cached once.")
    for role in ("head", "worker"):
        demo.shown("image", "build", str(root / "parts" / f"{role}.toml"), "-o", str(root / role))
    fingerprint = demo.asked("key", "new", "STAR image administrator <images@star.example>")["fingerprint"]
    demo.shown("key", "export", fingerprint, "-o", str(root / "star.asc"))
    ready = root / "catalog.ready"
    with demo.service("catalog", "serve", "--listen", "127.0.0.1:0", "--ready-file", str(ready), ready=ready):
        demo.settings["catalog"]["url"] = demo.settings["node"]["catalog"] = ready.read_text().strip()
        demo.write_settings()
        demo.shown("vo", "register", "star", "--key", str(root / "star.asc"))
        for role in ("head", "worker"):
            demo.shown("endorse", str(root / role), "--days", "30")
            demo.shown("publish", str(root / role))
        policy(root, fingerprint)
        demo.shown("catalog", "tuf", "export", "-o", str(root / "root.json"))
        demo.shown("node", "trust-root", str(root / "root.json"))
        ready = root / "node.ready"
        with site(demo), demo.service("node", "serve", "--end-machines", "--ready-file", str(ready), ready=ready):
            cluster(demo)


def cluster(demo: Demo) -> None:
    """The pool comes up, runs its job, and grows while it does."""
    demo.chapter("The cluster", "The head runs Slurm's controller; each worker finds it, gets its key and joins.")
    demo.shown("cluster", "deploy", str(DOCUMENT))
    demo.shown("cluster", "status", "star")
    demo.chapter("A job", "Events, each on whichever node is free; then a third worker, while they run.")
    head = next(one["uuid"] for one in demo.asked("cluster", "status", "star")["members"] if one["role"] == "head")
    wait_for(demo, head, r"star: event \d+ on star-worker-[12]: 8388608 bytes", DEADLINE)
    demo.shown("cluster", "scale", "star", "worker", "3")
    said = wait_for(demo, head, "star: the job is done", DEADLINE)
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
    console.print(f"{len(events)} events were reconstructed by 3 workers, one of whom joined while the job ran")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
