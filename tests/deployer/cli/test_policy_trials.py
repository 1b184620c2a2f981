"""A policy is tried: on a site's cases, on requests that really came, and in the shadow of another."""

import json
from pathlib import Path
from typing import Any

import pytest

from catalog.errors import Misused
from deployer.errors import PolicyUnusable
from deployer.policy.store import RuleSet
from tests.support.node.tried_policy import SAMPLES, Site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("site"))


def test_a_stricter_policy_turns_the_requests_that_it_would_refuse(site: Site, tmp_path: Path) -> None:
    stricter = site.variant(tmp_path, 'memory = "4GiB"', 'memory = "2GiB"')
    text = site.output("diff", site.policy, stricter, code=1)

    assert "2 of the last 5 requests would be decided differently" in text
    assert "request 3 of" in text
    assert "would be refused instead of accepted because 3GiB is more than the 2GiB of limits.memory" in text
    told = json.loads(site.output("diff", site.policy, stricter, "--json", code=1))
    assert (told["requests"], told["turned"]) == (5, 2)
    assert [one["request"] for one in told["differences"]] == [3, 4]
    assert told["differences"][0]["new"] == {"accepted": False, "failed": ["limit-memory"]}
    assert "1 of the last 2 requests" in site.output("diff", site.policy, stricter, "--last", 2, code=1)


def test_a_laxer_policy_says_what_no_longer_refuses(site: Site, tmp_path: Path) -> None:
    laxer = site.variant(tmp_path, 'memory = "4GiB"', 'memory = "8GiB"')
    text = site.output("diff", site.policy, laxer, code=1)
    assert "would be accepted instead of refused, no longer because 5GiB is more than the 4GiB" in text


def test_signatures_are_verified_again_with_the_new_policys_anchors(site: Site, tmp_path: Path) -> None:
    nobody = tmp_path / "next.toml"
    nobody.write_text((SAMPLES / "development.toml").read_text())
    text = site.output("diff", site.policy, nobody, code=1)
    assert "4 of the last 5 requests would be decided differently, 1 refused for other reasons" in text
    assert "no endorser is trusted for VO star" in text


def test_the_same_policy_differs_nowhere(site: Site) -> None:
    assert "0 of the last 5 requests would be decided differently" in site.output("diff", site.policy, site.policy)


def test_requests_are_listed_and_explained(site: Site) -> None:
    text = site.output("requests")
    assert text.count("accepted") == 4
    assert "limit-memory" in text
    assert len(json.loads(site.output("requests", "--last", 2, "--json"))) == 2

    explained = site.output("explain", site.policy, "--request", 5, code=3)
    assert "It would be accepted if you asked for 4GiB of memory instead of 5GiB." in explained
    assert "may run here: all" in site.output("explain", site.policy, "--request", 1)
    assert isinstance(site.run("explain", site.policy, "--request", 99).exception, Misused)
    assert isinstance(site.run("explain", site.policy).exception, Misused)


def test_the_image_itself_is_explained(site: Site) -> None:
    told = json.loads(
        site.output("explain", site.policy, "--bundle", site.image.root, "--memory", "8GiB", "--json", code=3)
    )
    assert told["explanation"]["changes"] == [
        {"who": "requester", "if": "you asked for 4GiB of memory instead of 8GiB"}
    ]


def test_cases_are_decided(site: Site, tmp_path: Path) -> None:
    cases = tmp_path / "cases.json"
    case: dict[str, Any] = {
        "name": "Alice's images run",
        "image": "star/any@1",
        "expect": "accepted",
        "endorsed": [{"by": site.alice}],
    }
    cases.write_text(json.dumps({"case": [case]}))
    assert "1 of 1 cases are decided as expected" in site.output("test", site.policy, cases)

    cases.write_text(json.dumps({"case": [case, case | {"name": "huge", "ask": {"memory": "1TiB"}}]}))
    text = site.output("test", site.policy, cases, code=1)
    assert "FAILED  huge: it is refused, not accepted (limit-memory: 1TiB is more" in text
    told = json.loads(site.output("test", site.policy, cases, "--json", code=1))
    assert [one["passed"] for one in told["cases"]] == [True, False]
    assert isinstance(site.run("test", site.policy, tmp_path / "none").exception, PolicyUnusable)


def test_the_samples_and_their_cases_agree(site: Site) -> None:
    """policies/ has cases for its own samples: what the README promises is tried."""
    found = sorted(SAMPLES.glob("*.cases.toml"))
    assert found
    for cases in found:
        site.output("test", cases.with_name(cases.name.replace(".cases", "")), cases)


def test_check_warns_of_what_is_not_read(site: Site, tmp_path: Path) -> None:
    policy = site.variant(tmp_path, "[networks]", '[shadow]\npolicy = "none.toml"\n[networks]')
    (tmp_path / "stray.cedar").write_text("permit(")
    text = site.output("check", policy)
    assert "warning: stray.cedar is beside the policy but not in cedar.files" in text
    assert "warning: the shadow policy: policy" in text


def test_cedar_rules_are_checked_and_shown(site: Site, tmp_path: Path) -> None:
    policy = site.variant(tmp_path, "[networks]", '[cedar]\nfiles = ["site.cedar"]\n[networks]')
    (tmp_path / "site.cedar").write_text('@id("all") @reason("as we say") permit(principal, action, resource);')
    assert "Cedar rules: 1, digest: sha256:" in site.output("check", policy)
    assert "all: as we say" in site.output("show", policy)
    assert json.loads(site.output("show", policy, "--json"))["digest"] == RuleSet.load(policy).digest
    (tmp_path / "site.cedar").write_text("permit(")
    assert isinstance(site.run("check", policy).exception, PolicyUnusable)
    assert "entity Image" in site.output("schema")


# ---- the record of requests
