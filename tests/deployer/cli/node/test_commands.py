"""The commands, on a real node: what they print, for people and as JSON, and how they end."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from catalog.errors import Misused
from deployer.errors import NodeUnavailable, Refused
from partita import app
from tests.support.commands import CliRunner
from tests.support.node.boot_sector_guest import GOODBYE, SAID
from tests.support.node.service_process import NodeProcess

pytestmark = pytest.mark.guest


@pytest.fixture
def run(node: NodeProcess) -> Callable[..., Result]:
    """Runs a command against the node; its own errors come out."""
    return commands_of(node)


def commands_of(node: NodeProcess) -> Callable[..., Result]:
    """The same for any node."""

    def command(*arguments: str) -> Result:
        sets = ["--set", f"node.directory={node.directory / 'n'}"]
        result = CliRunner().invoke(app, [*sets, *arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return command


def asked(result: Result) -> Any:
    """The JSON that a command printed, and nothing else."""
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_the_life_of_a_machine_in_commands(node: NodeProcess, run: Callable[..., Result]) -> None:
    assert run("machine", "list").stdout == "no machines\n"
    (machine,) = asked(run("deploy", "star/hello", "--hostname", "worker-1", "--lifetime", "1h", "--json"))["machines"]
    name, uuid = machine["name"], machine["uuid"]
    assert name in run("machine", "list").stdout
    assert asked(run("machine", "list", "--json"))[0]["state"] == "running"
    assert asked(run("machine", "show", uuid[:8], "--json"))["hostname"] == "worker-1"
    assert "worker-1" in run("machine", "show", name).stdout
    node.said(uuid, SAID[-1])
    assert run("machine", "console", name).stdout.encode().replace(b"\n", b"\r\n") == node.console(uuid)
    assert run("machine", "console", name, "--raw").stdout_bytes == node.console(uuid)
    assert SAID[0].decode() in asked(run("machine", "console", name, "--json"))["console"]
    assert run("machine", "shutdown", name, "--wait").stdout == f"{name}: stopped\n"
    assert run("machine", "console", name, "--follow").stdout.encode().rstrip().endswith(GOODBYE)
    assert run("machine", "destroy", name).stdout == f"{name}: destroyed\n"
    assert asked(run("machine", "list", "--json")) == []


def test_what_is_deployed_is_summed_up(run: Callable[..., Result]) -> None:
    text = run("deploy", "star/hello@1.0", "-n", "2").stdout
    assert "runs; software emulation, as the setting deploy.accelerator says" in text
    assert text.count("hello-") == 4  # two machines: name and host name
    assert "FROM NETWORK" in text
    assert "0 B" in text
    gone = asked(run("machine", "destroy", "--all", "--json"))
    assert {machine["state"] for machine in gone} == {"ended"}
    assert run("machine", "destroy", "--all").stdout == "no machines\n"


def test_a_refusal_lists_every_rule(run: Callable[..., Result]) -> None:
    with pytest.raises(Refused, match="no endorser is trusted for VO rogue"):
        run("deploy", "rogue/hello")
    dry = run("deploy", "rogue/hello", "--dry-run")
    assert dry.exit_code == 3
    assert "FAILED" in dry.stdout
    assert "[[anchor]]" in dry.stdout
    assert "limit-memory" in dry.stdout
    accepted = run("deploy", "star/hello", "--dry-run", "--json")
    assert asked(accepted)["accepted"] is True


def test_user_data_and_keys_come_from_files(run: Callable[..., Result], tmp_path: Path, node: NodeProcess) -> None:
    script, key = tmp_path / "script", tmp_path / "key.pub"
    script.write_text("#!/bin/sh\necho hello\n")
    blob = "AAAAC3NzaC1lZDI1NTE5AAAAIA" + "A" * 42
    key.write_text(f"ssh-ed25519 {blob} me\n")
    (machine,) = asked(run("deploy", "star/hello", "--user-data", str(script), "--public-key", str(key), "--json"))[
        "machines"
    ]
    seed = (node.machines / machine["uuid"] / "seed.iso").read_bytes()
    assert b"echo hello" in seed
    assert blob.encode() in seed
    assert machine["uuid"].encode() in seed


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("deploy", "star/hello", "--memory", "lots"), "--memory"),
        (("deploy", "star/hello", "--lifetime", "1q"), "--lifetime"),
        (("deploy", "star/hello", "--user-data", "/nowhere"), "/nowhere: cannot be read"),
        (("deploy", "star/hello", "--public-key", "/nowhere"), "/nowhere: cannot be read"),
        (("machine", "destroy"), "name the machines"),
        (("machine", "destroy", "x", "--all"), "name the machines"),
    ],
)
def test_commands_that_make_no_sense(quiet: NodeProcess, arguments: tuple[str, ...], says: str) -> None:
    with pytest.raises(Misused, match=says):
        commands_of(quiet)(*arguments)


def test_status_says_what_machines_run_on(run: Callable[..., Result], node: NodeProcess) -> None:
    text = run("node", "status").stdout
    assert "software emulation" in text
    assert "QEMU emulator version" in text
    node.policy.unlink()
    assert "so nothing is accepted" in run("node", "status").stdout
    assert asked(run("node", "status", "--json"))["machines"] == {}


def test_without_a_node_commands_say_how_to_start_one(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["--set", f"node.directory={tmp_path}", "machine", "list"])
    assert isinstance(result.exception, NodeUnavailable)
    assert "start one with `partita node serve`" in str(result.exception)


def test_what_can_be_done_to_a_machine_in_commands(
    node: NodeProcess, run: Callable[..., Result], tmp_path: Path
) -> None:
    size = ["--memory", "32MiB", "--max-memory", "64MiB", "--max-cores", "2", "--blank", "4MiB:ext4:more"]
    (machine,) = asked(run("deploy", "star/hello@1.0", *size, "--json"))["machines"]
    name, uuid = machine["name"], machine["uuid"]
    assert [blank["label"] for blank in machine["blanks"]] == ["more"]
    node.said(uuid, SAID[-1])
    assert run("machine", "resize", name, "--memory", "48MiB", "--cores", "2").stdout == f"{name}: 48.0 MiB, 2 cores\n"
    with pytest.raises(Misused, match="give --memory, --cores, or both"):
        run("machine", "resize", name)
    assert "expires at 20" in run("machine", "extend", name, "2h").stdout
    assert run("machine", "addresses", name).stdout == "no addresses are known\n"
    assert run("machine", "pause", name).stdout == f"{name}: paused\n"
    saved = asked(run("machine", "save", name, str(tmp_path / "saved"), "--version", "1.1", "--json"))
    assert (saved["title"], saved["changed"]) == ("star/hello@1.1", ["part1"])
    assert run("image", "show", str(tmp_path / "saved")).exit_code == 0
    assert asked(run("machine", "suspend", name, "--json"))["state"] == "suspended"
    assert asked(run("machine", "reactivate", name, "--json"))["state"] == "running"
    assert run("machine", "stop", name).stdout == f"{name}: stopped\n"
    with pytest.raises(Misused, match="--blank: "):
        run("deploy", "star/hello@1.0", "--blank", "much")
