"""Grants: who may do what to whose machines; what is not granted is refused."""

from pathlib import Path
from typing import Any

import pytest

from catalog.image.address import Address
from catalog.image.manifest import Manifest
from deployer.errors import PolicyUnusable
from deployer.site.auth.grants import (
    OWNER_ACTIONS,
    Allowed,
    Denied,
    Reach,
    SiteAction,
    SiteGrants,
    authorize,
    explain_denial,
    quota_of,
    reach_of,
)
from deployer.site.model.principal import LOCAL_OPERATOR, Capability, Principal
from deployer.site.model.quota import ResourceUsage
from tests.support.factories import manifest as made

STAR, ATLAS, SITE = "https://star.example.org/", "https://atlas.example.org/", "https://login.site.example.org/"


def person(name: str = "ann", *groups: str, issuer: str = STAR, vo: str = "star", **values: Any) -> Principal:
    return Principal(issuer=issuer, subject=name, vo=vo, groups=groups, **{"means": "token", **values})


def manifest(vo: str = "star") -> Manifest:
    """An image of a VO."""
    return made([Address.of(b"kernel")], vo=vo)


def rights(text: str) -> SiteGrants:
    return SiteGrants.parse(text.encode(), "rights test")


EACH = '[grant.each]\nmachines = 4\ncores = 8\nmemory = "16GiB"\nlifetime = "1d"\n'


def grant(text: str, *, over: str = "own", actions: str = "read") -> SiteGrants:
    return rights(f'[[grant]]\nname = "g"\nactions = ["{actions}"]\nover = "{over}"\n{text}\n')


WHO: list[tuple[str, str, Principal, bool]] = [
    ("a VO", 'vo = "star"', person(), True),
    ("another VO", 'vo = "star"', person(vo="atlas"), False),
    ("no VO", 'vo = "star"', person(vo=""), False),
    ("an issuer", f'issuer = "{STAR}"', person(), True),
    ("another issuer", f'issuer = "{STAR}"', person(issuer=ATLAS), False),
    ("an issuer without its slash", f'issuer = "{STAR[:-1]}"', person(), False),
    ("issuer and VO, one of them wrong", f'issuer = "{STAR}"\nvo = "atlas"', person(), False),
    ("a subject", f'issuer = "{STAR}"\nsubjects = ["bob", "ann"]', person(), True),
    ("another subject", f'issuer = "{STAR}"\nsubjects = ["bob"]', person(), False),
    ("the subject of another issuer", f'issuer = "{STAR}"\nsubjects = ["ann"]', person(issuer=ATLAS), False),
    ("a subject with a star in it", f'issuer = "{STAR}"\nsubjects = ["*"]', person(), False),
    ("a group", 'groups = ["/star/a"]', person("ann", "/star", "/star/a"), True),
    ("no group", 'groups = ["/star/a"]', person(), False),
    ("the group above", 'groups = ["/star/a"]', person("ann", "/star"), False),
    ("a group below", 'groups = ["/star"]', person("ann", "/star/a"), False),
    ("a group that begins alike", 'groups = ["/star/a"]', person("ann", "/star/ab"), False),
    ("any group right below", 'groups = ["/star/*"]', person("ann", "/star/a"), True),
    ("any group right below, not itself", 'groups = ["/star/*"]', person("ann", "/star"), False),
    ("any group right below, not two below", 'groups = ["/star/*"]', person("ann", "/star/a/b"), False),
    ("a group by its end", 'groups = ["/star/*-admins"]', person("ann", "/star/disk-admins"), True),
    ("one of several groups", 'groups = ["/x", "/star"]', person("ann", "/star"), True),
    ("the group of a role", 'groups = ["/star/a"]', person("ann", "/star/a/Role=x", means="certificate"), True),
    ("a role of VOMS", 'groups = ["/star"]\nroles = ["x"]', person("ann", "/star/Role=x", means="certificate"), True),
    ("a role of VOMS in a group below", 'groups = ["/star"]\nroles = ["x"]', person("ann", "/star/a/Role=x"), False),
    ("a role in any group", 'vo = "star"\nroles = ["x"]', person("ann", "/star/a/Role=x"), True),
    ("another role", 'vo = "star"\nroles = ["x"]', person("ann", "/star/Role=y", means="certificate"), False),
    ("a group and no role", 'vo = "star"\nroles = ["x"]', person("ann", "/star", means="certificate"), False),
    (
        "a role here, a group there",
        'groups = ["/star/a"]\nroles = ["x"]',
        person("ann", "/star/a", "/star/Role=x"),
        False,
    ),
    ("a token's group for a role", 'groups = ["/star"]\nroles = ["x"]', person("ann", "/star/x"), True),
    (
        "a group of VOMS for a role, which it is not",
        'groups = ["/star"]\nroles = ["x"]',
        person("ann", "/star/x", means="certificate"),
        False,
    ),
    ("a token's root group is no role", 'vo = "star"\nroles = ["star"]', person("ann", "/star"), False),
    ("any role of that kind", 'vo = "star"\nroles = ["vm-*"]', person("ann", "/star/vm-admin"), True),
    ("the operator", 'vo = "star"', LOCAL_OPERATOR, True),
]


@pytest.mark.parametrize(("what", "text", "who", "allowed"), WHO, ids=[row[0] for row in WHO])
def test_whom_a_grant_names(what: str, text: str, who: Principal, *, allowed: bool) -> None:
    assert authorize(grant(text), who, SiteAction.READ).allowed is allowed
    assert bool(reach_of(grant(text), who, SiteAction.READ).owner or who == LOCAL_OPERATOR) is allowed


ANN, BOB, EVE = person("ann", "/star"), person("bob", "/star"), person("eve", "/atlas", issuer=ATLAS, vo="atlas")


@pytest.mark.parametrize(
    ("over", "owner", "allowed"),
    [
        ("own", ANN, True),
        ("own", BOB, False),
        ("own", ANN.model_copy(update={"issuer": ATLAS}), False),
        ("own", LOCAL_OPERATOR, False),
        ("own", None, True),
        ("vo", ANN, True),
        ("vo", BOB, True),
        ("vo", EVE, False),
        ("vo", LOCAL_OPERATOR, False),
        ("all", EVE, True),
        ("all", LOCAL_OPERATOR, True),
    ],
)
@pytest.mark.parametrize("action", sorted(OWNER_ACTIONS))
def test_whose_machines_a_grant_reaches(
    action: SiteAction, over: str, owner: Principal | None, *, allowed: bool
) -> None:
    found = grant('vo = "star"', over=over, actions=action)
    assert authorize(found, ANN, action, owner).allowed is allowed
    if owner is not None:
        assert reach_of(found, ANN, action).covers(owner) is allowed


def test_people_without_a_vo_are_no_vo() -> None:
    nobody, other = person("x", vo="", issuer="/CN=CA"), person("y", vo="", issuer="/CN=CA")
    found = grant('issuer = "/CN=CA"', over="vo")
    assert authorize(found, nobody, SiteAction.READ, nobody).allowed
    assert not authorize(found, nobody, SiteAction.READ, other).allowed
    assert reach_of(found, nobody, SiteAction.READ) == Reach(owner=nobody.identity)


@pytest.mark.parametrize("action", [each for each in SiteAction if each is not SiteAction.AGENT])
def test_an_empty_file_is_the_operators_alone(action: SiteAction) -> None:
    assert authorize(SiteGrants(), LOCAL_OPERATOR, action, ANN) == Allowed("local")
    assert isinstance(authorize(SiteGrants(), ANN, action, ANN), Denied)
    assert reach_of(SiteGrants(), ANN, action) == Reach()
    assert reach_of(SiteGrants(), LOCAL_OPERATOR, action) == Reach(everything=True)


def test_a_node_speaks_for_itself_and_for_nothing_else() -> None:
    node = Principal(issuer="site", subject="0b8a2c9e", means="node")
    for action in SiteAction:
        assert authorize(SiteGrants(), node, action).allowed is (action is SiteAction.AGENT)
        assert reach_of(SiteGrants(), node, action) == Reach()
    for who in (LOCAL_OPERATOR, ANN):
        assert not authorize(grant('vo = "star"', over="all"), who, SiteAction.AGENT).allowed


def test_a_limited_proxy_looks_and_does_nothing() -> None:
    who = person("ann", "/star", means="limited-proxy")
    everything = ", ".join(f'"{each}"' for each in SiteAction if each is not SiteAction.AGENT)
    found = rights(f'[[grant]]\nname = "g"\nvo = "star"\nactions = [{everything}]\n{EACH}')
    for action in SiteAction:
        assert authorize(found, who, action, who).allowed is (action is SiteAction.READ)
        assert bool(reach_of(found, who, action).owner) is (action is SiteAction.READ)
    assert (
        quota_of(found, who).check(ResourceUsage(), ResourceUsage(machines=1))
        == "a limited proxy allows only reading; make a full one"
    )


CAPABLE = f"""
[[grant]]
name = "by capability"
vo = "star"
groups = ["/star/deployers"]
capabilities = true
actions = ["deploy", "read", "modify", "hold", "cancel", "console", "nodes", "save"]
{EACH}
"""


@pytest.mark.parametrize(
    ("capabilities", "actions"),
    [
        (frozenset(), set()),
        ({Capability.READ}, {SiteAction.READ, SiteAction.CONSOLE}),
        ({Capability.CREATE}, {SiteAction.DEPLOY}),
        ({Capability.MODIFY}, {SiteAction.MODIFY, SiteAction.HOLD}),
        ({Capability.CANCEL}, {SiteAction.CANCEL}),
        (None, set()),
    ],
)
def test_capabilities_come_before_groups(capabilities: set[Capability] | None, actions: set[SiteAction]) -> None:
    who = person(capabilities=None if capabilities is None else frozenset(capabilities))
    assert {action for action in SiteAction if authorize(rights(CAPABLE), who, action, who).allowed} == actions


def test_groups_count_for_nothing_beside_capabilities() -> None:
    who = person("ann", "/star/deployers", capabilities=frozenset({Capability.READ}))
    assert not authorize(rights(CAPABLE), who, SiteAction.DEPLOY).allowed
    assert authorize(rights(CAPABLE), who.model_copy(update={"capabilities": None}), SiteAction.DEPLOY).allowed
    strict = rights(CAPABLE.replace("capabilities = true", ""))
    said = authorize(strict, who, SiteAction.READ, who)
    assert isinstance(said, Denied)
    assert "which do not count for a token with capabilities" in said.reason


def test_a_capability_reaches_no_further_than_the_grant() -> None:
    who = person(capabilities=frozenset(Capability))
    assert not authorize(rights(CAPABLE), who, SiteAction.CANCEL, BOB).allowed
    assert not authorize(rights(CAPABLE), who.model_copy(update={"vo": "atlas"}), SiteAction.CANCEL).allowed
    assert not authorize(rights(CAPABLE), who, SiteAction.AUDIT).allowed


def test_a_refusal_names_the_grants_that_come_near() -> None:
    found = rights(
        '[[grant]]\nname = "admins"\ngroups = ["/star/admins"]\nactions = ["cancel"]\nover = "vo"\n'
        '[[grant]]\nname = "people"\nvo = "star"\nactions = ["cancel"]\n'
        '[[grant]]\nname = "readers"\nvo = "star"\nactions = ["read"]\n'
    )
    said = authorize(found, ANN, SiteAction.CANCEL, BOB)
    assert said == Denied(
        "no grant of this site lets ann cancel that machine: "
        "'admins' is for /star/admins; 'people' covers only one's own machines"
    )
    assert explain_denial(found, ANN, SiteAction.CANCEL, ANN) == [
        ("admins", "is for /star/admins"),
        ("people", ""),
        ("readers", "is not about cancel"),
    ]
    assert authorize(found, ANN, SiteAction.CANCEL, ANN) == Allowed("people")


BASE = '[[grant]]\nname = "g"\nvo = "star"\nactions = ["read"]\n'


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x = 1", "is not known here"),
        (BASE + "extra = 1\n", r"\$\.grant\[0\]\.extra: is not known here"),
        (BASE.replace('name = "g"\n', ""), "name: is missing"),
        (BASE.replace('["read"]', "[]"), "actions"),
        (BASE.replace('"read"', '"reed"'), "actions"),
        (BASE.replace('"read"', '"agent"'), "cannot be granted"),
        (BASE.replace('vo = "star"\n', ""), "does not say whom it is for"),
        (BASE.replace('vo = "star"\n', 'roles = ["x"]\n'), "does not say whom it is for"),
        (BASE + 'subjects = ["ann"]\n', "add issuer"),
        (BASE.replace("read", "deploy"), r"allows deploy without a quota; add \[grant.each\]"),
        (BASE + EACH, "does not allow deploy"),
        (BASE + 'over = "everything"\n', "over"),
        (BASE + 'groups = ["star"]\n', "is not a group"),
        (BASE + 'groups = ["/star/"]\n', "is not a group"),
        (BASE + 'groups = ["/star/Role=x"]\n', "is not a group"),
        (BASE + 'roles = ["a/b"]\n', "is not a role"),
        (BASE + "images = []\n", "images"),
        (BASE + 'images = ["star"]\n', "is not an image"),
        (BASE.replace("read", "deploy") + EACH.replace("16GiB", "16GB"), "memory"),
        (BASE.replace("read", "deploy") + EACH.replace("4", "-4"), "machines"),
        (BASE + BASE, "two grants are named 'g'"),
        ("\xff", "is not TOML"),
        ("#" * (1 << 20) + "#", "more than the 1048576 allowed"),
    ],
)
def test_files_that_are_refused(text: str, reason: str) -> None:
    with pytest.raises(PolicyUnusable, match=reason) as caught:
        rights(text)
    assert "rights test" in str(caught.value)


def test_a_file_that_is_not_there_grants_nothing(tmp_path: Path) -> None:
    assert SiteGrants.load(tmp_path / "rights.toml") == SiteGrants()
    with pytest.raises(PolicyUnusable, match="cannot be read"):
        SiteGrants.load(tmp_path)
    (tmp_path / "rights.toml").write_text(BASE)
    assert SiteGrants.load(tmp_path / "rights.toml").digest == rights(BASE).digest != SiteGrants().digest


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        ("", "only the operator"),
        (
            BASE.replace("read", "deploy") + '[grant.each]\nmachines = 1\ncores = 1\nmemory = "1GiB"\n',
            "each.lifetime is 0",
        ),
        (BASE.replace("read", "deploy") + EACH + "[grant.together]\nmachines = 9\n", "together.cores is 0"),
        (BASE.replace("read", "deploy") + EACH, "cannot see or delete their own deployments"),
        (BASE + 'over = "all"\n', "every member of star has access to all machines"),
        (
            BASE.replace('vo = "star"', 'issuer = "https://x"').replace("read", "deploy")
            + EACH
            + EACH.replace("each", "together"),
            "together counts by VO, but the grant names no VO",
        ),
    ],
)
def test_what_is_probably_not_meant_is_said(text: str, warning: str) -> None:
    assert any(warning in one for one in rights(text).warnings())


def test_a_sound_file_has_no_warnings() -> None:
    assert rights(CAPABLE).warnings() == []
