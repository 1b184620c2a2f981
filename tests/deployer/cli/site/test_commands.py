"""Commands of a site, as people type them: against a real service, with what they print and how they end."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

import partita
from catalog.errors import Misused
from deployer.errors import DeployerError, MachineConflict, NoCapacity, Refused
from deployer.site.client.client import SiteClient
from deployer.site.client.endpoint import SiteEndpoint
from signer.errors import DocumentError
from stager.settings import NodeSettings
from tests.support.commands import CliRunner
from tests.support.node.community import Community
from tests.support.node.service_process import policy, wait_for
from tests.support.site.service_process import PATIENCE, PaperNode, People, SiteProcess, populace

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Iterator[People]:
    """Somebody to ask."""
    with populace(tmp_path_factory.mktemp("people")) as found:
        yield found


@pytest.fixture(scope="module")
def site(community: Community, people: People) -> Iterator[SiteProcess]:
    """A site with people and a node."""
    with SiteProcess(community.service.url, policy(community.star.anchor()), **people.settings()) as found:
        PaperNode(found, "paper")
        yield found


@pytest.fixture
def command(site: SiteProcess, tmp_path: Path) -> Callable[..., Result]:
    """Runs a command as the operator on the site's machine."""

    def run(*words: str, environ: dict[str, str] | None = None) -> Result:
        environment = {"PARTITA_SITE_DIRECTORY": str(site.directory), "PARTITA_NODE_DIRECTORY": str(tmp_path / "node")}
        return CliRunner().invoke(partita.app, list(words), env=environment | (environ or {}))

    return run


@pytest.fixture
def asked(command: Callable[..., Result]) -> Run:
    """Runs a command that ends well; returns its JSON."""

    def run(*words: str, environ: dict[str, str] | None = None) -> Any:
        ended = command(*words, "--json", environ=environ)
        assert ended.exit_code == 0, (ended.output, ended.exception)
        return json.loads(ended.stdout)

    return run


def refused(ended: Result, kind: type[DeployerError]) -> str:
    """The sentence of an error of that kind that a command ended with."""
    assert isinstance(ended.exception, kind), ended.exception
    return str(ended.exception)


def test_an_operator_runs_a_site(site: SiteProcess, command: Callable[..., Result], asked: Run) -> None:
    """Status, a token, nodes that drain and come back, and the story of it."""
    assert asked("site", "status")["nodes"] == {"ready": 1}
    assert asked("site", "token", "--name", "w1")["token"].endswith(asked("site", "status")["fingerprint"])
    assert "partita node join https://127.0.0.1:" in command("site", "token").stdout
    assert [one["name"] for one in asked("site", "nodes")] == ["paper"]
    assert asked("site", "drain", "paper", "--reason", "new disks")["state"] == "draining"
    assert "draining" in command("site", "nodes").stdout
    assert asked("site", "node", "paper")["state"] == "draining"
    assert "paper: ready" in command("site", "undrain", "paper").stdout
    told = [json.loads(line) for line in command("site", "events", "--json").stdout.splitlines()]
    assert [one["what"] for one in told if one["kind"] == "node"][:3] == ["joined", "draining", "ready"]
    assert "draining: new disks (by operator)" in command("site", "events").stdout
    refused(command("site", "drain", "nobody"), DeployerError)
    done = asked("site", "audit", "--by", "local operator")
    drained = next(one for one in done if one["event"]["what"] == "draining")
    assert (drained["by"], drained["event"]["reason"]) == ("local operator", "new disks (by operator)")
    assert "the site" in command("site", "audit", "--since", "2020-01-01T00:00:00Z", "-n", "500").stdout
    assert asked("site", "audit", "--until", "2020-01-01T00:00:00Z") == []
    refused(command("site", "audit", "--since", "yesterday"), Misused)


def test_machines_are_ordered_and_looked_after(site: SiteProcess, command: Callable[..., Result], asked: Run) -> None:
    """From a trial to the end, by both ways to order."""
    trial = asked("deployment", "create", "star/hello@1.0", "--dry-run")
    assert (trial["accepted"], trial["placed"]) == (True, True)
    assert "rule" in command("deployment", "create", "star/hello@1.0", "--dry-run").stdout
    assert command("deployment", "create", "rogue/hello@1.0", "--dry-run").exit_code == Refused.exit_code
    refused(command("deployment", "create", "rogue/hello@1.0"), Refused)
    refused(command("deployment", "create", "star/hello", "--label", "gpu=yes"), NoCapacity)
    refused(command("deployment", "create", "star/hello", "--memory", "much"), Misused)

    ordered = asked("deployment", "create", "star/hello@1.0", "-n", "2", "--key", "k1", "--hostname", "h", "--spread")
    assert asked("deployment", "create", "star/hello@1.0", "-n", "2", "--key", "k1", "--hostname", "h", "--spread") == (
        ordered | {"new": False}
    )
    about = ("--description", "grows when it has to")
    other = asked("deploy", "star/hello@1.0", "--site", "here", "--lifetime", "20m", "--max-memory", "1GiB", *about)
    (grows,) = other["machines"]
    assert grows["max_memory"] == 1 << 30 > grows["memory"]
    assert grows["description"] == "grows when it has to"
    assert "grows when it has to" in command("site", "machine", "show", grows["uuid"]).stdout
    refused(command("deployment", "create", "star/hello", "--description", "two\nlines"), DocumentError)
    assert asked("site", "machine", "change", grows["uuid"], "--memory", "512MiB")["memory"] == 512 << 20
    refused(command("deployment", "create", "star/hello", "--memory", "64MiB", "--max-memory", "32MiB"), Misused)
    listed = {one["uuid"] for one in asked("deployment", "list")}
    assert listed >= {ordered["deployment"]["uuid"], other["deployment"]["uuid"]}
    uuid = ordered["deployment"]["uuid"]
    assert "h-1" in command("deployment", "show", uuid[:13]).stdout
    assert "paper gets" in command("deployment", "explain", uuid).stdout
    assert command("deployment", "hosts", uuid).exit_code == 0
    assert {one["hostname"] for one in asked("site", "machine", "list", "--deployment", uuid)} == {"h-1", "h-2"}
    assert asked("site", "machine", "change", "h-1", "--lifetime", "2h")["hostname"] == "h-1"
    refused(command("site", "machine", "change", "h-1"), Misused)
    refused(command("site", "machine", "pause", "h-1"), DeployerError)
    assert "no console yet" in refused(command("site", "machine", "console", "h-1"), MachineConflict)
    refused(command("site", "machine", "console", "h-1", "--follow", "--raw"), MachineConflict)
    assert "while it rests" in refused(command("site", "machine", "save", "h-1", "--version", "1.1"), MachineConflict)
    assert asked("site", "machine", "destroy", "h-2", "--reason", "done")["desired"] == "ended"
    assert asked("site", "machine", "show", "h-2")["desired_reason"] == "done (by operator)"
    for one in (uuid, other["deployment"]["uuid"]):
        assert command("deployment", "destroy", one).exit_code == 0


def test_people_reach_a_site_with_their_tokens(
    site: SiteProcess, people: People, command: Callable[..., Result], asked: Run, tmp_path: Path
) -> None:
    """By URL and CA, with a token found as WLCG says; what they may not do is said."""
    ca = tmp_path / "ca.pem"
    ca.write_text(site.ca)
    here = {"PARTITA_SITE_URL": site.url, "PARTITA_SITE_CA": str(ca), "BEARER_TOKEN": people.star("kim")}
    ordered = asked("deployment", "create", "star/hello", environ=here)
    assert ordered["deployment"]["owner"]["subject"] == "kim"
    assert [one["uuid"] for one in asked("site", "machine", "list", environ=here)] == [
        one["uuid"] for one in ordered["machines"]
    ]
    refused(command("site", "nodes", environ=here), DeployerError)
    token = tmp_path / "token"
    token.write_text(people.star("lee"))
    assert asked("deployment", "list", environ=here | {"PARTITA_SITE_TOKEN": str(token)}) == []
    assert asked("deployment", "destroy", ordered["deployment"]["uuid"], environ=here)["machines"]


def test_a_node_joins_by_a_command(
    site: SiteProcess, command: Callable[..., Result], asked: Run, tmp_path: Path
) -> None:
    """Its files are its own and private; a second time, another site's token, and a wrong site are refused."""
    token = site.token()
    place = tmp_path / "node" / "site"
    wrong = token[:-4] + ("0000" if not token.endswith("0000") else "1111")
    assert "from another site" in refused(command("node", "join", site.url, wrong), Misused)
    assert not place.exists()
    refused(command("node", "join", site.url, "not a join token"), Misused)
    refused(command("node", "join", site.url.replace("https", "http"), token), Misused)
    joined = asked("node", "join", site.url, token, "--name", "w7")
    assert asked("site", "node", "w7")["uuid"] == joined["node"]
    assert {file.name for file in place.iterdir()} == {"certificate.pem", "key.pem", "site.pem", "url"}
    assert all(file.stat().st_mode & 0o077 == 0 for file in [place, *place.iterdir()])
    assert "--again" in refused(command("node", "join", site.url, site.token()), Misused)
    assert asked("node", "join", site.url, site.token(), "--name", "w8", "--again")["name"] == "w8"
    for name in ("w7", "w8"):
        assert command("site", "remove", name).exit_code == 0


def test_a_story_is_followed(site: SiteProcess) -> None:
    """`--follow` prints what happens after it began."""
    following = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "partita",
            "--set",
            f"site.directory={site.directory}",
            "site",
            "events",
            "-f",
            "--json",
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    lines: list[str] = []
    assert following.stdout is not None
    reader = threading.Thread(target=lambda out: lines.extend(out), args=(following.stdout,), daemon=True)
    try:
        line = following.stdout.readline()
        assert json.loads(line)["number"] == 1
        reader.start()
        with site.client() as client:
            client.do_node("paper", "drain", "for the story")
            client.do_node("paper", "undrain")
        wait_for(lambda: any("for the story" in line for line in lines), PATIENCE)
    finally:
        following.terminate()
        following.wait()
        reader.join()
        following.stdout.close()


@pytest.mark.guest
@pytest.mark.timeout(240)
def test_one_terminal_runs_all_three(community: Community, warm: Path) -> None:
    """`up --site`: the node has joined, and the site takes orders; one signal ends all."""
    with tempfile.TemporaryDirectory(prefix="pu-", dir="/tmp") as name:
        place = Path(name)
        shutil.copytree(warm, place / "node" / "libvirt" / "cache")
        (place / "policy.toml").write_text(policy(community.star.anchor()))
        environment = os.environ | {
            "PARTITA_CATALOG_LISTEN": "127.0.0.1:0",
            "PARTITA_CATALOG_TUF_BITS": "6",
            "PARTITA_SITE_LISTEN": "127.0.0.1:0",
            "PARTITA_DEPLOY_POLICY": str(place / "policy.toml"),
            "PARTITA_DEPLOY_ACCELERATOR": "tcg",
        }
        command = [sys.executable, "-m", "partita", "up", "--site", "--directory", str(place), "--json"]
        with (
            (place / "log").open("wb") as log,
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log) as up,
        ):
            try:
                assert up.stdout is not None
                said = b""
                while not said.endswith(b"}\n"):
                    line = up.stdout.readline()
                    assert line, (place / "log").read_text()
                    said += line
                assert set(json.loads(said)) == {"catalog", "site", "socket"}
                with SiteClient(SiteEndpoint(socket=place / "site" / "site.sock")) as asked:
                    wait_for(lambda: [one for one in asked.nodes() if one.reported is not None], PATIENCE)
                    assert not [problem for problem in asked.status().problems if "policy" in problem]
            finally:
                up.terminate()
                up.communicate(timeout=90)
        assert up.returncode == 0, (place / "log").read_text()
        assert "   site | " in (place / "log").read_text()


def test_defaults_are_those_of_the_settings() -> None:
    """A node's directory and a site's are apart."""
    assert NodeSettings().directory != partita.SiteSettings().directory
