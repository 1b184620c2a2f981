"""`partita site rights`: what an operator is told of a rights file, and of what somebody may do by it."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import partita
from deployer.site.auth.grants import SiteAction, SiteGrants
from deployer.site.auth.issuers import Issuers
from tests.deployer.site.auth.test_tokens import KEY, STAR
from tests.support import commands
from tests.support.commands import CliRunner
from tests.support.grid_ca import utc_now
from tests.support.site.token_issuer import Signer
from tests.support.site.voms_grid import ANN, GridWorld

ROOT = Path(__file__).parents[4]
SAMPLE = ROOT / "policies" / "rights.toml"
ISSUERS = ROOT / "policies" / "issuers.toml"


def run(*args: object, code: int = 0, **settings: object) -> str:
    """The command's output."""
    flags = [f"--set=site.{name}={value}" for name, value in settings.items()]
    done = CliRunner().invoke(partita.app, [*flags, "site", "rights", *map(str, args)])
    if isinstance(done.exception, Exception) and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == code, done.output
    return done.output


def told(*args: object, **options: Any) -> dict[str, Any]:
    """Its output as JSON."""
    return dict(json.loads(run(*args, "--json", **options)))


def test_the_samples_are_sound() -> None:
    assert SiteGrants.load(SAMPLE).warnings() == []
    assert {action for grant in SiteGrants.load(SAMPLE).grant for action in grant.actions} == set(SiteAction) - {
        SiteAction.AGENT
    }
    assert [each.vo for each in Issuers.load(ISSUERS).issuer] == ["star", "site", "ligo"]


def test_check() -> None:
    said = run("check", SAMPLE)
    assert "star deployers" in said
    assert "20 machines, 80 cores, 320GiB, 7d" in said
    assert "warning" not in said
    assert told("check", SAMPLE)["grants"] == 5


def test_check_warns(tmp_path: Path) -> None:
    file = tmp_path / "rights.toml"
    file.write_text("")
    assert "warning: the file has no [[grant]]" in run("check", file)
    assert told("check", rights=file)["warnings"] == ["the file has no [[grant]]: only the operator may do anything"]


@pytest.mark.parametrize(("text", "reason"), [(None, "no rights file"), ("[[grant]]\n", "name: is missing")])
def test_a_file_that_cannot_be_used_is_an_error_of_the_command(tmp_path: Path, text: str | None, reason: str) -> None:
    file = tmp_path / "rights.toml"
    if text is not None:
        file.write_text(text)
    done = commands.partita("site", "rights", "check", file)
    assert done.returncode == 2
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1


def test_explain_somebody_described() -> None:
    said = run("explain", SAMPLE, "--group", "/star/Role=VO-Admin", "--group", "/star")
    rows = {
        line.split()[0]: line.split()[1:] for line in said.splitlines() if line and line.split()[0] in list(SiteAction)
    }
    assert rows["read"] == ["yes", "yes", "no"]
    assert rows["deploy"] == ["no"]
    assert "BY THE GRANT" not in said
    found = told("explain", SAMPLE, "--group", "/star/vm-deployers")
    assert found["actions"]["deploy"] == {"own": True, "vo": False, "all": False}
    assert found["actions"]["cancel"] == {"own": True, "vo": False, "all": False}
    assert found["shares"][0]["grant"] == "star deployers"
    assert "BY THE GRANT" in run("explain", SAMPLE, "--group", "/star/vm-deployers")
    security = told("explain", SAMPLE, "--issuer", "https://login.site.example.org/", "--group", "/site/security")
    assert security["actions"]["cancel"] == {"own": True, "vo": True, "all": True}
    assert security["actions"]["modify"] == {"own": False, "vo": False, "all": False}
    assert security["actions"]["audit"]["own"]


def test_explain_one_action() -> None:
    said = run("explain", SAMPLE, "--group", "/star", "--action", "deploy", code=3)
    assert "no grant of this site lets someone deploy" in said
    assert "is for the role vm-deployers in /star" in said
    assert told("explain", SAMPLE, "--group", "/star/production", "--action", "deploy")["by"] == "star production"
    found = told("explain", SAMPLE, "--vo", "star", "--capability", "compute.read", "--action", "deploy", code=3)
    assert found["needs"] == "compute.create"
    assert "lacks compute.create" in found["reason"]


def test_explain_a_token(tmp_path: Path) -> None:
    issuers = tmp_path / "issuers.toml"
    issuers.write_text(f'[[issuer]]\nissuer = "{STAR}"\nvo = "star"\n')
    token = tmp_path / "token"
    old = datetime(2026, 1, 1, tzinfo=UTC)  # it need not be good any more
    token.write_text(Signer(STAR, KEY).token(old, scope="compute.create storage.read:/") + "\n")
    said = run("explain", SAMPLE, "--token", token, issuers=issuers)
    assert said.startswith(f"ann of {STAR}, VO star")
    assert "capabilities: compute.create; groups do not count" in said
    assert told("explain", SAMPLE, "--token", token, issuers=issuers)["actions"]["deploy"]["own"]
    with pytest.raises(Exception, match="audience is https://site"):
        run("explain", SAMPLE, "--token", token, issuers=issuers, audience="https://else.example.org")
    with pytest.raises(Exception, match="is not in this file"):
        run("explain", SAMPLE, "--token", token, issuers=tmp_path / "none.toml")
    token.write_text("nonsense")
    with pytest.raises(Exception, match="not a signed JWT"):
        run("explain", SAMPLE, "--token", token, issuers=issuers)


def test_explain_a_proxy(tmp_path: Path) -> None:
    world = GridWorld.make(tmp_path / "grid", utc_now())
    proxy = tmp_path / "x509up"
    proxy.write_bytes(world.stock())
    places = {"grid_certificates": world.grid.path, "vomsdir": world.vomsdir}
    found = told("explain", SAMPLE, "--proxy", proxy, **places)
    assert found["principal"]["subject"] == ANN
    assert found["actions"]["cancel"] == {"own": True, "vo": True, "all": False}
    with pytest.raises(Exception, match="grid_certificates is not set"):
        run("explain", SAMPLE, "--proxy", proxy)
    proxy.write_text("nonsense")
    with pytest.raises(Exception, match="no PEM certificate"):
        run("explain", SAMPLE, "--proxy", proxy, **places)
    with pytest.raises(Exception, match="cannot be read"):
        run("explain", SAMPLE, "--proxy", tmp_path, **places)


def test_a_group_that_is_none_is_told() -> None:
    with pytest.raises(Exception, match="groups"):
        run("explain", SAMPLE, "--group", "star")
