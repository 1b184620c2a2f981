"""Explanations: the nearest change is found, tried, and said as a site's administrator would say it."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from deployer.policy.explanation import DecisionExplanation, explain_decision
from deployer.policy.store import RuleSet
from tests.support.node.policy_cases import ALICE, BOB, BOTH, CAROL, POLICY, TEAM, anchors, case, rules

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def explained(ruleset: RuleSet, **values: Any) -> DecisionExplanation:
    """The explanation of a case; whatever it promises is tried again here."""
    asked = case(**values).policy_case(ruleset.policy, NOW)
    found = explain_decision(ruleset, asked)
    after = asked
    for change in found.changes:
        after = change.apply(after)
    assert ruleset.decide(after).accepted is not bool(found.unresolved)
    for change in found.changes:
        without = asked
        for other in found.changes:
            without = without if other is change else other.apply(without)
        assert len(ruleset.decide(without).failed) > len(found.unresolved), f"{change.text} is not needed"
    return found


def test_what_passes_needs_no_change(tmp_path: Path) -> None:
    found = explained(rules(tmp_path))
    assert found.decision.accepted
    assert found.changes == ()
    assert found.sentence().startswith("star/worker@1.0 may run here: all ")


NEAREST = [
    ("too much memory", {"ask": {"memory": "8GiB"}}, ["you asked for 4GiB of memory instead of 8GiB"]),
    ("too little memory", {"ask": {"memory": "128MiB"}}, ["you asked for 4GiB of memory instead of 128MiB"]),
    (
        "memory in odd bytes",
        {"ask": {"memory": "1073741825B"}},
        ["you asked for 4GiB of memory instead of 1073741825B"],
    ),
    ("too many cores", {"ask": {"cores": 9}}, ["you asked for 4 cores instead of 9"]),
    ("too long", {"ask": {"lifetime": "30d"}}, ["you asked for 12h instead of 30d"]),
    ("too many machines", {"ask": {"count": 9}}, ["you asked for 8 machines instead of 9"]),
    ("a full node", {"running": 8}, ["you asked again when 1 machine here has ended"]),
    ("a nearly full node", {"running": 6, "ask": {"count": 3}}, ["you asked for 2 machines instead of 3"]),
    ("user-data", {"ask": {"user_data": "boothook"}}, ["you gave no user-data instead of boothook"]),
    ("a network", {"ask": {"network": "bridge:br0"}}, ["you asked for the network user instead of bridge:br0"]),
    ("one endorsement too few", {"endorsed": BOTH[1:]}, [f"it were endorsed by {ALICE} as image-administrator"]),
    ("the reviewer is missing", {"endorsed": BOTH[:1]}, [f"it were endorsed by {CAROL} as site-reviewer"]),
    (
        "the reviewer is missing among two",
        {"endorsed": [{"by": ALICE}, {"by": BOB}]},
        [f"it were endorsed by {CAROL} as site-reviewer"],
    ),
    (
        "an old endorsement",
        {"endorsed": [BOTH[0], BOTH[1] | {"age": "31d"}]},
        [f"it were endorsed by {CAROL} as site-reviewer"],
    ),
    (
        "nobody",
        {"endorsed": []},
        [f"it were endorsed by {CAROL} as site-reviewer", f"it were endorsed by {ALICE} as image-administrator"],
    ),
    ("a large disk", {"disk": "20GiB"}, ["the site raised limits.disk from 10GiB to 20GiB"]),
    ("large blanks", {"blank": "2GiB"}, ["the site raised limits.blank from 1GiB to 2GiB"]),
    (
        "needs more than is given",
        {"needs_memory": "8GiB", "ask": {"memory": "2GiB"}},
        ["the site raised limits.memory to 8GiB and you asked for as much"],
    ),
    (
        "needs more cores than are given",
        {"needs_cores": 6, "ask": {"cores": 2}},
        ["the site raised limits.cores to 6 and you asked for as much"],
    ),
    ("a denied image", {"image": "star/worker@0.9"}, ["the site took 'star/worker@0.9' out of images.deny"]),
    (
        "several at once",
        {"ask": {"memory": "8GiB", "cores": 9, "network": "bridge:x"}, "endorsed": BOTH[:1]},
        [
            f"it were endorsed by {CAROL} as site-reviewer",
            "you asked for 4GiB of memory instead of 8GiB",
            "you asked for 4 cores instead of 9",
            "you asked for the network user instead of bridge:x",
        ],
    ),
    (
        "a VO that nobody here knows",
        {"image": "atlas/worker@1.0", "endorsed": []},
        [
            "the site added 'atlas' to vos.allow",
            "the site added 'atlas/worker' to images.allow",
            "the site trusted 1 endorser as site-reviewer and 1 endorser as image-administrator of atlas who vouch for it",
        ],
    ),
]


@pytest.mark.parametrize(("what", "values", "changes"), NEAREST, ids=[one[0] for one in NEAREST])
def test_the_nearest_change_is_found(what: str, values: dict[str, Any], changes: list[str], tmp_path: Path) -> None:
    found = explained(rules(tmp_path), **values)

    assert [change.text for change in found.changes] == changes, what
    assert found.unresolved == ()
    assert "It would be accepted if " in found.sentence()
    assert found.as_json()["suffices"] is True


def test_a_partition_that_the_site_must_vouch_for(tmp_path: Path) -> None:
    site = anchors((BOB, "site-reviewer")).replace('vo = "star"', 'vo = "site"')
    text = POLICY + '[[partition]]\nlabel = "root"\nvo = "site"\n' + TEAM + site
    found = explained(rules(tmp_path, text))
    assert [change.text for change in found.changes] == [
        f"its partition 'root' were endorsed by {BOB} as site-reviewer of site"
    ]


def test_a_denied_vo(tmp_path: Path) -> None:
    found = explained(rules(tmp_path), image="cms/reco@1")
    assert "the site took 'cms' out of vos.deny" in [change.text for change in found.changes]


def test_one_sentence_reads_as_people_speak(tmp_path: Path) -> None:
    found = explained(rules(tmp_path), endorsed=BOTH[:1], ask={"memory": "8GiB"})

    assert found.sentence() == (
        "star/worker@1.0 may not run here: 1 of 2 endorsers vouch for the image; 0 of 1 endorsers as site-reviewer vouch "
        f"for the image; 8GiB is more than the 4GiB of limits.memory. It would be accepted if it were endorsed by {CAROL} "
        "as site-reviewer and you asked for 4GiB of memory instead of 8GiB."
    )


PERMIT = '@id("all") permit(principal, action, resource);'


def test_a_rule_in_cedar_that_a_requester_can_meet(tmp_path: Path) -> None:
    night = PERMIT + '@id("net") forbid(principal, action, resource) when { context.resources.network != "none" };'
    found = explained(rules(tmp_path, cedar=night), ask={"network": "user"})
    assert [change.text for change in found.changes] == ["you asked for no network instead of user"]


def test_a_rule_in_cedar_that_an_endorser_can_meet(tmp_path: Path) -> None:
    both = PERMIT + (
        f'@id("bob") forbid(principal, action, resource) unless {{ resource.endorsers.contains("{BOB}") }};'
    )
    found = explained(rules(tmp_path, cedar=both))
    assert [change.text for change in found.changes] == [f"it were endorsed by {BOB} as image-administrator"]


def test_a_rule_that_nothing_helps_against(tmp_path: Path) -> None:
    never = PERMIT + (
        '@id("arch") @reason("we run no such processors") @change("choose another site") '
        'forbid(principal, action, resource) when { resource.architecture == "x86_64" };'
    )
    found = explained(rules(tmp_path, cedar=never), ask={"memory": "8GiB"})

    assert [rule.name for rule in found.unresolved] == ["cedar-arch"]
    assert "come nearer if you asked for 4GiB" in found.sentence()
    assert "we run no such processors (choose another site)" in found.sentence()
    assert found.as_json()["suffices"] is False


def test_a_name_from_strangers_drives_no_terminal(tmp_path: Path) -> None:
    found = explained(rules(tmp_path), endorsed=[{"by": "\x1b[2J"}])
    assert "\x1b" not in found.sentence()


def test_cases_are_values(tmp_path: Path) -> None:
    ruleset = rules(tmp_path)
    asked = case().policy_case(ruleset.policy, NOW)
    explain_decision(ruleset, replace(asked, running=100))
    assert ruleset.decide(asked).accepted
