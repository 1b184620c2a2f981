"""`./dev demo`: the whole journey of an image on one machine, narrated. Nothing here is pretended: every step is a
command that a user would type, run by this script, and what it prints is what the command printed.

    ./dev demo [--keep DIR]     keep everything that the demo makes in DIR
    ./dev demo --ec2            the same image on rented machines, of a stand-in for AWS on this machine
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.rule import Rule

from examples.demo_cluster import BRIDGE, cluster, network, order, run_in_own_network, site
from examples.guest import write_recipe
from examples.guest_system import kernel_tree

CHECKOUT = Path(__file__).resolve().parent.parent
PACKAGES = CHECKOUT / "build" / "guest-packages"
PARTITA = [sys.executable, "-m", "partita"]
BOOT_DEADLINE = 60.0
"""Seconds that a guest gets to say on its console that it is ready: ten times what software emulation takes."""

console = Console(highlight=False, soft_wrap=True)


REVOCATION_DEADLINE = 90.0
"""Seconds that a revocation gets to reach a running machine: nodes look every few seconds."""


class DemoError(Exception):
    """The demo did not show what it must show."""


class Demo:
    """One run in one directory: the settings that all its commands share, and the services that it must end.

    Args:
        root: the directory; made if absent.
        entering: what its commands begin with, to run on another host.
    """

    def __init__(self, root: Path, entering: Sequence[str] = ()) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self.root = root
        self.command = [*entering, *PARTITA]
        self.started = time.monotonic()
        # Some forty commands: each is read from its bytecode, and not compiled again.
        left_out = ("PARTITA_", "PYTHONDONTWRITEBYTECODE")
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
        self.environment |= {
            "PARTITA_CONFIG": str(root / "partita.toml"),
            "PYTHONPATH": str(CHECKOUT),
        }
        self.settings: dict[str, dict[str, object]] = {
            "signer": {"home": str(root / "keys")},
            "catalog": {"directory": str(root / "catalog")},
            "node": {"directory": str(root / "node")},
            "deploy": {"policy": str(root / "policy.toml"), "revocations_every": "2s"},
        }
        self.write_settings()

    def write_settings(self) -> None:
        """Keep the settings file as the demo knows them now."""
        lines = []
        for section, values in self.settings.items():
            lines += [f"[{section}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
        (self.root / "partita.toml").write_text("\n".join(lines) + "\n")

    def chapter(self, title: str, why: str) -> None:
        """Say what comes and why."""
        console.print(Rule(f"[bold]{title}[/bold]  [dim]{time.monotonic() - self.started:.0f} s[/dim]", align="left"))
        console.print(f"[italic]{why}[/italic]")

    def shown(self, *arguments: str, expect: int = 0) -> str:
        """Run a command as a user would, on this terminal; returns nothing that the user does not see."""
        console.print(f"[green]$ partita {' '.join(self._short(argument) for argument in arguments)}[/green]")
        ended = subprocess.run(
            [*self.command, *arguments], env=self.environment, stdout=subprocess.PIPE, text=True, check=False
        )
        if ended.stdout:
            console.print(ended.stdout.rstrip(), markup=False)
        if ended.returncode != expect:
            raise DemoError(f"partita {arguments[0]} ended with {ended.returncode} instead of {expect}")
        return ended.stdout

    def asked(self, *arguments: str) -> Any:
        """The JSON that a command answers with."""
        ended = subprocess.run(
            [*self.command, *arguments, "--json"], env=self.environment, stdout=subprocess.PIPE, text=True, check=False
        )
        if ended.returncode:
            raise DemoError(f"partita {' '.join(arguments)} ended with {ended.returncode}")
        return json.loads(ended.stdout)

    def machine_console(self, machine: str) -> str:
        """What a machine's guest wrote so far."""
        command = [*self.command, "machine", "console", machine]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, check=True).stdout

    @contextlib.contextmanager
    def service(self, *arguments: str, ready: Path) -> Iterator[None]:
        """A service of ours, from when it says it is ready to the end of the block."""
        console.print(f"[green]$ partita {' '.join(self._short(argument) for argument in arguments)} &[/green]")
        log = (self.root / f"{arguments[0]}.log").open("wb")
        process = subprocess.Popen([*self.command, *arguments], env=self.environment, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + 30
            while not ready.exists() or not ready.read_text().strip():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise DemoError(f"partita {arguments[0]} did not start:\n{Path(log.name).read_text()}")
                time.sleep(0.05)
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            log.close()

    def _short(self, argument: str) -> str:
        return argument.replace(f"{self.root}/", "")


def main(arguments: Sequence[str]) -> int:
    """Run the demo; returns the exit code."""
    parser = argparse.ArgumentParser(prog="./dev demo", description="The whole journey of an image on one machine.")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="work in DIR and leave everything there")
    parser.add_argument("--ec2", action="store_true", help="the same image on rented machines, of a stand-in for AWS")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.ec2:
        from examples.demo_ec2 import main as rented  # needs this module, and the stand-in's libraries

        return rented(["--keep", str(options.keep)] if options.keep else [])
    if not options.inside:
        kernel_tree(PACKAGES)  # the last thing that needs this machine's network
        return run_in_own_network("examples.demo", ["--inside", *arguments])
    if options.keep:
        options.keep.mkdir(parents=True, exist_ok=True)
        if any(options.keep.iterdir()):
            parser.error(f"{options.keep} is not empty; name a directory that the demo may fill")
    # Short, because libvirt's sockets below it may have at most 108 bytes of path.
    root = options.keep.resolve() if options.keep else Path(tempfile.mkdtemp(prefix="partita-"))
    try:
        with network(root):
            journey(Demo(root))
    except DemoError as error:
        console.print(f"[red]demo: {error}[/red]")
        return 1
    finally:
        if not options.keep:
            shutil.rmtree(root, ignore_errors=True)
    return 0


def journey(demo: Demo) -> None:
    """Every step from a recipe to two running machines, one refusal, and the end."""
    root = demo.root
    demo.chapter(
        "A guest", "A Debian kernel, a root, an application, data and a blank: the STAR worker of 2007 in miniature."
    )
    recipe = write_recipe(root / "guest", packages=PACKAGES)
    demo.shown("image", "build", str(recipe), "-o", str(root / "worker"))

    demo.chapter("A key", "The VO's image administrator vouches for images with an OpenPGP key.")
    fingerprint = demo.asked("key", "new", "STAR image administrator <images@star.example>")["fingerprint"]
    demo.shown("key", "export", fingerprint, "-o", str(root / "star.asc"))
    demo.shown("endorse", str(root / "worker"), "--key", fingerprint, "--days", "30", "--comment", "first light")

    demo.chapter("A catalog", "It takes only what a registered key of a registered VO has endorsed.")
    ready = root / "catalog.ready"
    with demo.service("catalog", "serve", "--listen", "127.0.0.1:0", "--ready-file", str(ready), ready=ready):
        url = ready.read_text().strip()
        demo.settings["catalog"]["url"] = url
        demo.settings["node"]["catalog"] = url
        demo.write_settings()
        demo.shown("vo", "register", "star", "--key", str(root / "star.asc"))
        demo.shown("publish", str(root / "worker"))
        demo.shown("image", "list")

        demo.chapter("A node", "The site's policy names the one endorser that it trusts; everything else is refused.")
        policy(root, fingerprint)
        demo.shown("policy", "check", str(root / "policy.toml"))
        demo.shown("catalog", "tuf", "export", "-o", str(root / "root.json"))
        demo.shown("node", "trust-root", str(root / "root.json"))
        ready = root / "node.ready"
        with site(demo), demo.service("node", "serve", "--end-machines", "--ready-file", str(ready), ready=ready):
            machines(demo)
            second_node(demo)
            order(demo)
            refusal(demo)
            cluster(demo)
            ending(demo, fingerprint)
    console.print(Rule(f"[bold]Done[/bold] in {time.monotonic() - demo.started:.0f} s", align="left"))


def policy(root: Path, fingerprint: str) -> None:
    """The development sample, with the VO's own key as its anchor."""
    sample = (CHECKOUT / "policies" / "development.toml").read_text()
    anchor = (
        f'\n[[anchor]]\nvo = "star"\nrole = "image-administrator"\nfingerprint = "{fingerprint}"\nkey = "star.asc"\n'
    )
    sample = sample.replace('"network:*"', f'"network:*", "bridge:{BRIDGE}"')
    (root / "policy.toml").write_text(sample + '\n[revocations]\nrunning = "destroy"\n' + anchor)


def machines(demo: Demo) -> None:
    """Two machines of one image: the first brings the bytes, the second moves and copies none."""
    demo.chapter(
        "The first machine", "The node verifies, decides, fetches what it lacks, assembles without copying, boots."
    )
    demo.shown("deploy", "star/worker@1.0", "--hostname", "worker-1", "--memory", "256MiB", "--lifetime", "1h")
    demo.chapter("The second machine", "Everything is there: nothing is transferred and nothing is copied.")
    demo.shown("deploy", "star/worker@1.0", "--hostname", "worker-2", "--memory", "256MiB", "--lifetime", "1h")
    demo.shown("machine", "list")
    second = next(machine for machine in demo.asked("machine", "list") if machine["hostname"] == "worker-2")
    if second["from_network"] != 0:
        raise DemoError(f"the second machine moved {second['from_network']} bytes")
    # Descriptors, overlays' headers and a seed are all that a machine's directory holds; contents stay in the cache.
    console.print(
        f"moved for worker-2: {second['from_network']} bytes; of the image copied: 0; "
        f"written to assemble it: {second['written']} bytes of descriptors, empty overlays and seed"
    )
    for machine in demo.asked("machine", "list"):
        said = wait_for(demo, machine["uuid"], "partita-guest: ready")
        console.print(f"[bold]the console of {machine['hostname']}[/bold]")
        lines = [line for line in said.splitlines() if "partita-guest:" in line]
        console.print("\n".join(lines), markup=False)
        if not any(f"host name {machine['hostname']}" in line for line in lines):
            raise DemoError(f"the guest {machine['hostname']} was not given its name")


def wait_for(demo: Demo, machine: str, pattern: str, seconds: float = BOOT_DEADLINE) -> str:
    """What the machine's console says, once the pattern is in it."""
    deadline = time.monotonic() + seconds
    while not re.search(pattern, said := demo.machine_console(machine)):
        if time.monotonic() > deadline:
            raise DemoError(f"machine {machine} did not say {pattern!r} within {seconds:.0f} s; its console:\n{said}")
        time.sleep(0.5)
    return said


def second_node(demo: Demo) -> None:
    """Another node: what travels by swarm comes from the first node, and not from the catalog."""
    root = demo.root
    demo.chapter(
        "A second node", "What is worth a swarm comes from the first node; the origin has sent its copy already."
    )
    other = ("--set", f"node.directory={root / 'n2'}", "--set", f"node.tuf_root={root / 'root.json'}")
    ready = root / "second.ready"
    with demo.service(*other, "node", "serve", "--ready-file", str(ready), ready=ready):
        said = demo.shown(*other, "node", "prefetch", "star/worker@1.0")
        if " 0 B from peers" in said:
            raise DemoError("nothing came from the first node")
        demo.shown("node", "status")


def refusal(demo: Demo) -> None:
    """An image that nobody trusted endorsed reaches the catalog, and not a node."""
    root = demo.root
    demo.chapter(
        "A refusal", "Another VO publishes an image; this site trusts nobody who vouches for it, and can say so."
    )
    stranger = demo.asked("key", "new", "A stranger <someone@elsewhere.example>")["fingerprint"]
    demo.shown("key", "export", stranger, "-o", str(root / "elsewhere.asc"))
    demo.shown("vo", "register", "elsewhere", "--key", str(root / "elsewhere.asc"))
    recipe = write_recipe(root / "stranger", vo="elsewhere", name="miner", data=1 << 20, packages=PACKAGES)
    demo.shown("image", "build", str(recipe), "-o", str(root / "miner"))
    demo.shown("endorse", str(root / "miner"), "--key", stranger)
    demo.shown("publish", str(root / "miner"))
    demo.shown("deploy", "elsewhere/miner@1.0", "--memory", "256MiB", "--lifetime", "1h", expect=3)


def ending(demo: Demo, fingerprint: str) -> None:
    """One machine ends gracefully, the other because its image was withdrawn; nothing is left."""
    demo.chapter("The end of one", "A graceful shutdown: the guest powers off, and its disks are gone.")
    demo.shown("machine", "shutdown", "worker-1", "--wait")
    demo.shown("machine", "destroy", "worker-1")
    demo.chapter("A revocation", "The endorser takes the word back; this site's policy ends what runs on it.")
    demo.shown(
        "revoke", "image", "star/worker@1.0", "--key", fingerprint, "--role", "image-administrator",
        "--reason", "compromised", "--comment", "a hole was found in the application",
    )  # fmt: skip
    deadline = time.monotonic() + REVOCATION_DEADLINE
    while any(machine["state"] == "running" for machine in demo.asked("machine", "list")):
        if time.monotonic() > deadline:
            raise DemoError(f"the revocation did not reach the machine within {REVOCATION_DEADLINE:.0f} s")
        time.sleep(0.5)
    demo.shown("machine", "list")
    demo.shown("node", "exposure", "star/worker@1.0")
    demo.shown("deploy", "star/worker@1.0", "--memory", "256MiB", "--lifetime", "1h", expect=3)
    demo.shown("audit", "verify")
    for machine in demo.asked("machine", "list"):
        demo.shown("machine", "destroy", machine["uuid"])
    if left := demo.asked("machine", "list"):
        raise DemoError(f"{len(left)} machines are left")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
