"""Rules in Cedar: what is validated, what each comes to, and that nothing that fails ever permits."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from catalog.image.address import Address
from catalog.image.manifest import Manifest
from deployer.errors import PolicyUnusable
from deployer.machine.network import Network
from deployer.policy.cedar import MAX_FILE, CedarRules
from deployer.policy.cedar_schema import SCHEMA, authorization_request, build_entities
from deployer.policy.decision import Request, Requester, RuleResult
from deployer.policy.model import Policy
from deployer.policy.rules.rule import PolicyCase
from signer.verification.trust import EndorsementCheck
from tests.support.factories import manifest

NOW = datetime(2026, 11, 22, 3, 30, tzinfo=UTC)
ALL = '@id("all") permit(principal, action, resource);\n'
IMAGE: Manifest = manifest([Address.parse(f"{'ab' * 32}-4096"), Address.parse(f"{'cd' * 32}-65536")])
VOUCHED = EndorsementCheck(
    counts=True,
    reason="",
    fingerprint="A" * 40,
    vo="star",
    role="site-reviewer",
    issued=NOW.replace(day=20),
    expires=NOW.replace(day=29),
    title=IMAGE.title,
    image_id=IMAGE.image_id,
)


def rules(text: str, name: str = "site.cedar") -> CedarRules:
    return CedarRules.parse([(name, text.encode())])


def judge(
    text: str, *, asked: Request | None = None, who: Requester | None = None, running: int = 0
) -> dict[str, RuleResult]:
    """The rules of a decision, by name."""
    asked = asked or Request.supposed(IMAGE.needs, memory=1 << 30, cores=2, network=Network(kind="user"))
    facts_of = replace(case(asked), running=running, requester=who or Requester(), node="here")
    facts = build_entities(facts_of, [VOUCHED])
    return {rule.name: rule for rule in rules(text).judge(authorization_request(facts_of), facts)}


def case(request: Request) -> PolicyCase:
    return PolicyCase(Policy(), request, IMAGE, (), NOW)


def forbid(when: str, name: str = "no") -> str:
    return f'@id("{name}") forbid(principal, action, resource) when {{ {when} }};\n'


@pytest.mark.parametrize(
    "when",
    [
        'resource.vo == "star" && resource.name == "worker" && resource.version == "1.0"',
        f'resource.id == "{IMAGE.image_id}" && resource.title == "star/worker@1.0"',
        'resource.architecture == "x86_64" && resource.os == "debian" && resource.osVersion == "12"',
        'resource.boot == "direct" && resource.contextualization == "nocloud" && resource.disks == 2',
        "resource.diskSize == 67174400 && resource.blankSize == 67108864",
        "resource.needsMemory == 134217728 && resource.needsCores == 1",
        'resource.labels.containsAll(["part1", "scratch"]) && resource.kinds.contains("linux-generic")',
        f'resource.contents.contains("{"cd" * 32}-65536") && resource.links.isEmpty()',
        f'resource.endorsers.contains("{"A" * 40}") && resource.roles.contains("site-reviewer")',
        f'resource.partitions.contains(Partition::"{IMAGE.image_id}/0")',
        f'Partition::"{IMAGE.image_id}/1" has blank && Partition::"{IMAGE.image_id}/1".blank == "ext4"',
        f'Partition::"{IMAGE.image_id}/0" in resource && Partition::"{IMAGE.image_id}/0".access == "read-only"',
        f'Endorsement::"{IMAGE.image_id}/0".age == 172800 && Endorsement::"{IMAGE.image_id}/0".left == 604800',
        'principal.name == "ann" && principal.vos.contains("star") && principal.roles.contains("operator")',
        "context.resources.count == 1 && context.resources.maxMemory == 1073741824 && context.resources.maxCores == 2",
        'context.resources.lifetime == 3600 && context.resources.network == "user" && !(context.resources has userData)',
        'context.site.hour == 3 && context.site.weekday == "sun" && context.site.running == 7',
        'context.site.node == "here" && context.site.now == 1795318200',
    ],
)
def test_every_fact_can_be_spoken_of(when: str) -> None:
    who = Requester(name="ann", vos=("star",), roles=("operator",))
    facts = judge(ALL + forbid(when), who=who, running=7)

    assert not facts["cedar-no"].passed, facts
    assert "cedar-errors" not in facts


def test_each_rule_is_one_rule_of_the_decision() -> None:
    found = judge(
        ALL
        + '@id("night") @reason("no large machines before six") @change("ask for less, or after six") '
        + "forbid(principal, action, resource) when { context.site.hour < 6 && context.resources.maxCores > 1 };"
        + forbid("context.resources.maxMemory > 99999999999", "huge")
    )

    assert list(found) == ["cedar-permit", "cedar-night", "cedar-huge"]
    assert found["cedar-permit"].passed
    assert found["cedar-permit"].reason == "permitted by 'all'"
    assert (found["cedar-night"].passed, found["cedar-huge"].passed) == (False, True)
    assert found["cedar-night"].reason == "no large machines before six"
    assert found["cedar-night"].change == "ask for less, or after six"


def test_nothing_is_permitted_by_default() -> None:
    found = judge('@id("ours") @change("use cms") permit(principal, action, resource) when { resource.vo == "cms" };')

    assert not found["cedar-permit"].passed
    assert found["cedar-permit"].reason == "no permit rule applies: 'ours'"
    assert found["cedar-permit"].change == "use cms"


@pytest.mark.parametrize(
    "text",
    [
        ALL + forbid("9223372036854775807 + context.resources.count > 1"),
        ALL + forbid("context.resources.count * 9223372036854775807 * 9 > 1"),
        '@id("maybe") permit(principal, action, resource) when { 9223372036854775807 + context.resources.count > 1 };'
        + ALL,
    ],
)
def test_a_rule_that_fails_refuses(text: str) -> None:
    """Cedar itself skips a forbid that fails: with a permit beside it, it would allow."""
    found = judge(text)

    assert not found["cedar-errors"].passed
    assert "overflow" in found["cedar-errors"].reason
    assert "cannot be evaluated refuses" in found["cedar-errors"].reason


def test_a_forbid_that_fails_is_named() -> None:
    found = judge(ALL + forbid("9223372036854775807 + context.resources.count > 1", "sum"))

    assert not found["cedar-sum"].passed
    assert "sum: " in found["cedar-errors"].reason


def test_facts_that_do_not_fit_the_schema_refuse() -> None:
    asked = case(Request.supposed(IMAGE.needs))
    facts: list[dict[str, Any]] = build_entities(asked, [])
    next(fact for fact in facts if fact["uid"]["type"] == "Site")["attrs"]["hour"] = "three"

    found = {
        rule.name: rule
        for rule in rules(ALL + forbid("context.site.hour < 6")).judge(authorization_request(asked), facts)
    }

    assert not found["cedar-errors"].passed
    assert not found["cedar-permit"].passed


UNUSABLE = [
    ("not Cedar", "permit(", "site.cedar: is not Cedar: "),
    ("not text", b"\xff", "is not UTF-8 at byte 0"),
    ("no id", "permit(principal, action, resource);", "rule 1: has no name"),
    ("an empty id", '@id("") permit(principal, action, resource);', "rule 1: has no name"),
    ("an id of another form", '@id("No Way") permit(principal, action, resource);', "the id 'No Way' is not"),
    ("one of ours", '@id("errors") permit(principal, action, resource);', "or is ours"),
    ("an id twice", ALL + ALL, "the id 'all' is already used in site.cedar"),
    ("an unknown annotation", '@id("a") @nope("x") permit(principal, action, resource);', "@nope is not known"),
    (
        "a control character",
        '@id("a") @reason("x\\u{1b}[2J") permit(principal, action, resource);',
        "cannot be printed",
    ),
    ("a misspelt attribute", ALL + forbid('resource.vx == "a"'), "attribute `vx` on entity type `Image` not found"),
    (
        "the name of before",
        ALL + forbid("context.resources.memory > 8"),
        "; how far a machine may grow is called maxMemory",
    ),
    ("a comparison of kinds", ALL + forbid("resource.vo == 3 && resource.vo < 4"), "site.cedar: "),
    ("an unknown entity", ALL + forbid('principal == User::"x"'), "User"),
    ("an optional fact unasked", ALL + forbid('context.resources.userData == "script"'), "userData"),
    ("an unknown action", '@id("a") permit(principal, action == Action::"boot", resource);', "boot"),
    ("a template", ALL + '@id("t") permit(principal == ?principal, action, resource);', "has a template"),
    ("nothing that permits", forbid("true"), "no Cedar rule permits"),
    ("no rule at all", "// nothing\n", "no Cedar rule permits"),
    ("too many bytes", b" " * (MAX_FILE + 1), "has more than"),
    (
        "too many rules",
        "".join(f'@id("p{n}") permit(principal, action, resource);' for n in range(2001)),
        "more than the",
    ),
]


@pytest.mark.parametrize(("what", "text", "says"), UNUSABLE, ids=[one[0] for one in UNUSABLE])
def test_what_cannot_be_meant_is_refused_as_a_whole(what: str, text: str | bytes, says: str) -> None:
    data = text if isinstance(text, bytes) else text.encode()

    with pytest.raises(PolicyUnusable) as caught:
        CedarRules.parse([("site.cedar", data)])

    assert says in str(caught.value), what
    assert "\n" not in str(caught.value)


def test_ids_are_told_apart_over_files_and_beyond_ten() -> None:
    """The engine counts its rules; what it counts must be what we named."""
    many = "".join(forbid(f"context.resources.maxCores == {number}", f"n{number}") for number in range(30))
    found = CedarRules.parse([("a.cedar", ALL.encode()), ("b.cedar", many.encode())])
    asked = case(Request.supposed(IMAGE.needs, cores=17))

    judged = found.judge(authorization_request(asked), build_entities(asked, []))

    assert [rule.name for rule in judged if not rule.passed] == ["cedar-n17"]
    assert "b.cedar" in next(rule.reason for rule in judged if rule.name == "cedar-n17")
    assert len(found.rules) == 31


def test_the_schema_explains_every_attribute_with_a_unit() -> None:
    for word in ("bytes", "seconds", "UTC"):
        assert word in SCHEMA
