"""`./dev demo --ec2`: the same image, rented machines. A stand-in for AWS runs on this machine (moto's server, made to
answer as the real services do); everything else is what a site would run, command by command.

    python -m examples.demo_ec2 [--keep DIR]     keep everything that the demo makes in DIR
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.rule import Rule

from examples.demo import PACKAGES, Demo, DemoError, console, policy
from examples.guest import write_recipe
from tests.support.aws.fake_aws import REGION, AwsWorld, aws_world

DEADLINE = 120.0
"""Seconds for a machine at the stand-in to be where it should be: what is uploaded is some MiB."""

ACCOUNT = """\
# Sample values: the prices are invented for this demo. Write down those of your own contract and region.
[[account]]
name = "burst"
region = "{region}"
profile = "{profile}"
subnet = "{subnet}"
security_groups = ["{group}"]
instance_types = ["t3.micro", "t3.small", "m5.large"]
cap = "25"
cores = 16
memory = "64GiB"
disk = "1TiB"

[account.prices]
storage = "0.10"

[account.prices.per_hour]
"t3.micro" = "0.01"
"t3.small" = "0.02"
"m5.large" = "0.10"

[[rule]]
vo = "star"
account = "burst"
"""


def main(arguments: Sequence[str]) -> int:
    """Run the demo; returns the exit code."""
    parser = argparse.ArgumentParser(prog="./dev demo --ec2", description="The same image on rented machines.")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="work in DIR and leave everything there")
    options = parser.parse_args(arguments)
    if options.keep:
        options.keep.mkdir(parents=True, exist_ok=True)
        if any(options.keep.iterdir()):
            parser.error(f"{options.keep} is not empty; name a directory that the demo may fill")
    root = options.keep.resolve() if options.keep else Path(tempfile.mkdtemp(prefix="partita-"))
    try:
        (root / "aws").mkdir()
        with aws_world(root / "aws") as world:
            journey(Demo(root), world)
    except DemoError as error:
        console.print(f"[red]demo: {error}[/red]")
        return 1
    finally:
        if not options.keep:
            shutil.rmtree(root, ignore_errors=True)
    return 0


def journey(demo: Demo, world: AwsWorld) -> None:
    """An image, its update, and the life of two machines at EC2."""
    root = demo.root
    demo.environment = {name: value for name, value in demo.environment.items() if not name.startswith("AWS_")}
    demo.environment |= world.variables()
    demo.chapter("An image and its update", "The STAR worker in miniature; version 1.1 changes its application alone.")
    for version in ("1.0", "1.1"):
        recipe = write_recipe(root / f"guest-{version}", version=version, packages=PACKAGES)
        demo.shown("image", "build", str(recipe), "-o", str(root / f"worker-{version}"))
    fingerprint = demo.asked("key", "new", "STAR image administrator <images@star.example>")["fingerprint"]
    demo.shown("key", "export", fingerprint, "-o", str(root / "star.asc"))
    for version in ("1.0", "1.1"):
        demo.shown("endorse", str(root / f"worker-{version}"), "--key", fingerprint, "--days", "30")
    policy(root, fingerprint)

    ready = root / "catalog.ready"
    with demo.service("catalog", "serve", "--listen", "127.0.0.1:0", "--ready-file", str(ready), ready=ready):
        url = ready.read_text().strip()
        demo.settings["catalog"]["url"] = url
        demo.settings["site"] = {
            "directory": str(root / "site"),
            "listen": "127.0.0.1:0",
            "catalog": url,
            "policy": str(root / "policy.toml"),
            "tuf_root": str(root / "root.json"),
        }
        demo.settings["ec2"] = {
            "accounts": str(root / "ec2.toml"),
            "directory": str(root / "ec2"),
            "endpoint": world.url,
        }
        demo.write_settings()
        demo.shown("vo", "register", "star", "--key", str(root / "star.asc"))
        for version in ("1.0", "1.1"):
            demo.shown("publish", str(root / f"worker-{version}"))
        demo.shown("catalog", "tuf", "export", "-o", str(root / "root.json"))
        account(root, world)
        uploads(demo)
        ready = root / "site.ready"
        with demo.service("site", "serve", "--ready-file", str(ready), ready=ready):
            machines(demo)
        demo.chapter(
            "Cleaning up", "What no machine uses any more is shown, then removed; nothing that is used ever is."
        )
        demo.shown("ec2", "clean", "--older-than", "0s")
        demo.shown("ec2", "clean", "--older-than", "0s", "--apply")
        if left := demo.asked("ec2", "clean", "--older-than", "0s"):
            raise DemoError(f"{len(left)} things are left at EC2")
    console.print(Rule(f"[bold]Done[/bold] in {time.monotonic() - demo.started:.0f} s", align="left"))


def account(root: Path, world: AwsWorld) -> None:
    """The site's file of accounts, with one at the stand-in."""
    os.environ |= world.variables()
    profile = world.profile()
    aws = world.aws(profile)
    subnet = aws.ec2("describe_subnets")["Subnets"][0]["SubnetId"]
    group = aws.ec2("describe_security_groups")["SecurityGroups"][0]["GroupId"]
    (root / "ec2.toml").write_text(ACCOUNT.format(region=REGION, profile=profile, subnet=subnet, group=group))


def uploads(demo: Demo) -> None:
    """What is sent for an image, for the same again, and for its update."""
    demo.chapter(
        "To EC2", "The kernel gets a small boot disk; each disk becomes a snapshot of its blocks that are not zero."
    )
    demo.shown("ec2", "estimate", "star/worker@1.0", "--count", "2", "--lifetime", "12h")
    sent = {}
    for step, version in (("first", "1.0"), ("again", "1.0"), ("update", "1.1")):
        answer = demo.asked("ec2", "upload", f"star/worker@{version}")
        sent[step] = answer["blocks_sent"]
        console.print(f"[green]$ partita ec2 upload star/worker@{version}[/green]")
        console.print(f"{answer['title']} is {answer['ami']}; blocks of 512 KiB sent: {answer['blocks_sent']}")
    console.print(
        f"[bold]blocks sent: {sent['first']} for the first image, {sent['again']} for the same again, "
        f"{sent['update']} for its update[/bold]"
    )
    if sent["again"] != 0 or not 0 < sent["update"] < sent["first"]:
        raise DemoError(f"other blocks were sent than those that are new: {sent}")
    demo.shown("ec2", "images")


def machines(demo: Demo) -> None:
    """Two machines: ordered at the site like any other, suspended, let go on, ended."""
    demo.chapter("Machines", "Ordered at the site like any other; it has no node of its own, so they go to EC2.")
    wait(demo, "the account is not at work", lambda: any(one.get("reported") for one in demo.asked("site", "nodes")))
    demo.shown(
        "deployment", "create", "star/worker@1.0", "--count", "2", "--memory", "512MiB", "--lifetime", "12h",
        "--where", "local-then-ec2", "--hostname", "worker",
    )  # fmt: skip
    reach(demo, {"running"})
    demo.shown("ec2", "machines")
    first, second = (one["uuid"] for one in demo.asked("site", "machine", "list"))
    # It boots from a small disk made for EC2, which has no room for its memory: a pause is refused, and its disks are kept.
    demo.shown("site", "machine", "pause", first, expect=1)
    demo.shown("site", "machine", "suspend", first)
    reach(demo, {"running", "suspended"})
    demo.shown("site", "machine", "list")
    demo.shown("site", "machine", "reactivate", first)
    reach(demo, {"running"})
    demo.shown("site", "machine", "list")
    for machine in (first, second):
        demo.shown("site", "machine", "destroy", machine)
    wait(
        demo,
        "machines are left at EC2",
        lambda: all(one["state"] == "terminated" for one in demo.asked("ec2", "machines")),
    )
    demo.shown("ec2", "machines")


def reach(demo: Demo, states: set[str]) -> None:
    """Wait until the machines of the site have these states, all of them."""
    wait(
        demo,
        f"the machines did not come to be {' and '.join(sorted(states))}",
        lambda: {one["state"] for one in demo.asked("site", "machine", "list")} == states,
    )


def wait(demo: Demo, otherwise: str, true: Any) -> None:
    """Wait until something is true."""
    until = time.monotonic() + DEADLINE
    while not true():
        if time.monotonic() > until:
            shown = json.dumps(demo.asked("site", "machine", "list"), indent=1)
            log = (demo.root / "site.log").read_text()[-3000:]
            raise DemoError(f"{otherwise} within {DEADLINE:.0f} s\n{shown}\n{log}")
        time.sleep(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
