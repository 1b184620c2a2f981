"""The registry of rules: every result has its rule, every rule explains, and the order is the one that is documented."""

import importlib
import re
from pathlib import Path
from pkgutil import iter_modules

import pytest

from deployer.machine.network import Network
from deployer.policy import rules as package
from deployer.policy.rules import registry
from deployer.policy.rules.registry import RULES, fixes_of, is_urgent, judge_rules, rule_of
from deployer.policy.rules.rule import PolicyCase, PolicyRule, RevocationFacts
from tests.support.node.policy_values import IMAGE, NOW, A, B, anchors, ordered, policy, vouched

PAGE = Path(__file__).parents[4] / "policies" / "README.md"

DEMANDS = """threshold = 2
roles = { reviewer = 1 }
[[partition]]
label = "part1"
vo = "star"
roles = { reviewer = 1 }
[[partition]]
label = "absent"
vo = "star"
"""


def case(**request: object) -> PolicyCase:
    """A request to a policy that says something for every rule; block list and revocations were looked at."""
    rules = policy(anchors((A, "admin"), (B, "reviewer")), endorsements=DEMANDS)
    return PolicyCase(rules, ordered(**request), IMAGE, (vouched(),), NOW, revocation=RevocationFacts())


def written() -> list[PolicyRule]:
    """The rules in the tables of all modules of the package but the registry."""
    modules = [importlib.import_module(f"{package.__name__}.{found.name}") for found in iter_modules(package.__path__)]
    tables = [vars(module).values() for module in modules if module is not registry]
    return [
        rule
        for table in tables
        for value in table
        if isinstance(value, tuple)
        for rule in value
        if isinstance(rule, PolicyRule)
    ]


def test_every_rule_that_is_written_is_judged() -> None:
    """A rule that is not registered would never refuse anything."""
    assert set(RULES) == set(written())
    assert len(RULES) == len(written())
    assert len({(rule.name, rule.several) for rule in RULES}) == len(RULES)


def test_a_rule_without_an_explanation_cannot_exist() -> None:
    """Nor one without a verdict."""
    with pytest.raises(TypeError, match="'fixes'"):
        PolicyRule("forgetful", lambda _: iter(()))  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="'judge'"):
        PolicyRule("forgetful", fixes=lambda _: iter(()))  # type: ignore[call-arg]


def test_every_result_is_of_exactly_one_rule() -> None:
    """By its name, so that what helps against it is found."""
    results = judge_rules(RULES, case())
    assert len({result.name for result in results}) == len(results)
    for rule in RULES:
        mine = [result.name for result in rule.judge(case())]
        assert mine
        assert all(rule_of(result) is rule for result in rule.judge(case())), mine
    for result in results:
        assert sum(rule.gives(result.name) for rule in RULES) == 1, result.name


def test_rules_give_the_same_results_whatever_is_asked() -> None:
    """So that a change is never taken for a help because a result went away."""
    odd = case(count=-1, memory=1, cores=0, lifetime=0, user_data="script", network=Network.parse("bridge:br0"))
    names = [result.name for result in judge_rules(RULES, case())]
    assert [result.name for result in judge_rules(RULES, odd)] == names


def test_the_page_has_the_rules_in_their_order() -> None:
    """Those who write policies read it there."""
    section = PAGE.read_text().split("## The rules of a decision")[1].split("\n## ")[0]
    documented = re.findall(r"`([a-z-]+(?:LABEL|ROLE)?)`", section)
    wanted = [rule.name for rule in RULES if not rule.several]
    assert [name for name in documented if name in wanted] == wanted
    for rule in RULES:
        if rule.several:
            assert any(name.startswith(f"{rule.name}-") for name in documented), rule.name


def test_what_only_the_author_knows_is_helped_by_what_a_requester_can_change() -> None:
    """A rule in Cedar says nothing of what would help; the site's own rules are not changed for it."""
    result = judge_rules(RULES, case())[0].model_copy(update={"name": "cedar-no"})
    asked = case(count=2, user_data="script", network=Network.parse("user"))
    who = [change.who for change in fixes_of(result, asked)]
    assert rule_of(result) is None
    assert not is_urgent(result)
    assert who[0] == "requester"
    assert "site" not in who


def test_roles_are_helped_first() -> None:
    """Somebody who vouches in a role counts in general too, and is not asked for twice."""
    urgent = [result.name for result in judge_rules(RULES, case()) if is_urgent(result)]
    assert urgent == ["endorsements-reviewer"]
