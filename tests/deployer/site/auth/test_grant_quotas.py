"""Quotas of grants, and what holds for all grants and principals."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployer.site.auth.grants import (
    OWNER_ACTIONS,
    Grant,
    SiteAction,
    SiteGrants,
    authorize,
    quota_of,
    reach_of,
)
from deployer.site.model.principal import LOCAL_OPERATOR, Capability, Principal
from deployer.site.model.quota import Quota, QuotaLimits, QuotaShare, ResourceUsage
from tests.deployer.site.auth.test_grants import ANN, ATLAS, EACH, EVE, STAR, manifest, person, rights

QUOTAS = f"""
[[grant]]
name = "members"
vo = "star"
actions = ["deploy", "read", "cancel"]
images = ["star/*"]
{EACH}
[grant.together]
machines = 10
cores = 20
memory = "40GiB"
lifetime = "1d"

[[grant]]
name = "production"
groups = ["/star/production"]
actions = ["deploy"]
images = ["star/worker@*", "atlas/*"]
[grant.each]
machines = 2
cores = 64
memory = "256GiB"
lifetime = "30d"
"""
GIB = 1 << 30


@pytest.mark.parametrize(
    ("what", "usage", "ask", "together", "said"),
    [
        ("all there is", ResourceUsage(), ResourceUsage(4, 8, 16 * GIB, 86400), None, None),
        ("what is left", ResourceUsage(3, 7, 15 * GIB), ResourceUsage(1, 1, GIB, 60), None, None),
        ("nothing more", ResourceUsage(9, 99, 99 * GIB), ResourceUsage(lifetime=60), None, None),
        (
            "too many machines",
            ResourceUsage(3),
            ResourceUsage(2, 2, GIB, 60),
            None,
            "4 machines at a time; 3 taken, 2 more",
        ),
        (
            "too many cores",
            ResourceUsage(1, 7),
            ResourceUsage(1, 2, GIB, 60),
            None,
            "8 cores at a time; 7 taken, 2 more",
        ),
        (
            "too much memory",
            ResourceUsage(1, 1, GIB),
            ResourceUsage(1, 1, 16 * GIB, 60),
            None,
            "16GiB of memory at a time; 1GiB taken",
        ),
        (
            "too long",
            ResourceUsage(),
            ResourceUsage(1, 1, GIB, 86401),
            None,
            "machines for 1d at most, and 86401s was asked for",
        ),
        ("extended too long", ResourceUsage(4), ResourceUsage(lifetime=86401), None, "for 1d at most"),
        (
            "a VO that has room",
            ResourceUsage(1, 1, GIB),
            ResourceUsage(1, 1, GIB, 60),
            ResourceUsage(9, 19, 39 * GIB),
            None,
        ),
        (
            "a VO that is full",
            ResourceUsage(1),
            ResourceUsage(1, 1, GIB, 60),
            ResourceUsage(10, 10, GIB),
            "the whole VO 10 machines at a time",
        ),
        (
            "a VO without cores",
            ResourceUsage(1),
            ResourceUsage(1, 2, GIB, 60),
            ResourceUsage(5, 19, GIB),
            "the whole VO 20 cores",
        ),
        (
            "a VO without memory",
            ResourceUsage(1),
            ResourceUsage(1, 1, GIB, 60),
            ResourceUsage(5, 5, 40 * GIB),
            "the whole VO 40GiB",
        ),
    ],
)
def test_quotas(
    what: str, usage: ResourceUsage, ask: ResourceUsage, together: ResourceUsage | None, said: str | None
) -> None:
    found = quota_of(rights(QUOTAS), ANN, manifest()).check(usage, ask, together)
    assert (found is None) if said is None else (said in str(found))
    if found is not None:
        assert found.startswith("the grant 'members' allows ")


def test_one_grant_must_allow_the_whole_request() -> None:
    who = person("ann", "/star", "/star/production")
    found = quota_of(rights(QUOTAS), who, manifest())
    assert [share.grant for share in found.shares] == ["members", "production"]
    assert found.check(ResourceUsage(), ResourceUsage(2, 64, 200 * GIB, 30 * 86400)) is None
    assert found.check(ResourceUsage(), ResourceUsage(4, 4, GIB, 60)) is None
    said = found.check(ResourceUsage(), ResourceUsage(4, 4, GIB, 30 * 86400))
    assert said is not None
    assert "'members'" in said
    assert "'production'" in said


def test_quotas_are_for_the_images_that_a_grant_names() -> None:
    who = person("ann", "/star/production")
    assert quota_of(rights(QUOTAS), who, manifest(vo="atlas")).shares[0].grant == "production"
    said = quota_of(rights(QUOTAS), who, manifest(vo="alice")).check(ResourceUsage(), ResourceUsage(1, 1, GIB, 60))
    assert said is not None
    assert "lets ann deploy alice/" in said
    assert len(quota_of(rights(QUOTAS), who).shares) == 2


def test_the_operator_has_no_quota_and_a_stranger_nothing() -> None:
    enormous = ResourceUsage(10**6, 10**6, 1 << 60, 10**9)
    assert quota_of(SiteGrants(), LOCAL_OPERATOR, manifest()).check(enormous, enormous) is None
    assert "no grant" in str(quota_of(rights(QUOTAS), EVE, manifest()).check(ResourceUsage(), ResourceUsage(1)))
    assert Quota().check(ResourceUsage(), ResourceUsage(1)) is not None


amounts = st.integers(0, 20)
usages = st.builds(ResourceUsage, amounts, amounts, amounts, amounts)


@given(usages, usages, usages, usages)
def test_more_is_never_allowed_where_less_is_not(
    usage: ResourceUsage, ask: ResourceUsage, more: ResourceUsage, together: ResourceUsage
) -> None:
    found = Quota(
        (
            QuotaShare(
                "g",
                QuotaLimits(machines=10, cores=10, memory="10B", lifetime="10s"),  # type: ignore[arg-type]
                QuotaLimits(machines=15, cores=15, memory="15B", lifetime="15s"),  # type: ignore[arg-type]
            ),
        )
    )
    larger = ResourceUsage(
        ask.machines + more.machines, ask.cores + more.cores, ask.memory + more.memory, ask.lifetime + more.lifetime
    )
    if found.check(usage, ask, together) is not None:
        assert found.check(usage, larger, together) is not None
    elif ask.machines:
        assert usage.machines + ask.machines <= 10
        assert together.machines + ask.machines <= 15


principals = st.builds(
    person,
    st.sampled_from(["ann", "bob"]),
    issuer=st.sampled_from([STAR, ATLAS]),
    vo=st.sampled_from(["", "star", "atlas"]),
    means=st.sampled_from(["token", "certificate", "limited-proxy"]),
    capabilities=st.none() | st.frozensets(st.sampled_from(list(Capability))),
).map(lambda each: each.model_copy(update={"groups": (f"/{each.vo}",) if each.vo else ()}))
grants = st.lists(
    st.builds(
        Grant,
        name=st.uuids().map(str),
        issuer=st.sampled_from([None, STAR]),
        vo=st.sampled_from(["star", "atlas"]),
        groups=st.sampled_from([(), ("/star",)]),
        capabilities=st.booleans(),
        actions=st.lists(st.sampled_from(sorted(OWNER_ACTIONS)), min_size=1, max_size=3).map(tuple),
        over=st.sampled_from(["own", "vo", "all"]),
    ),
    max_size=4,
).map(lambda each: SiteGrants(grant=tuple(each)))


@settings(max_examples=60)
@given(grants, principals, st.sampled_from(sorted(OWNER_ACTIONS)), principals)
def test_a_list_shows_exactly_what_may_be_seen_one_by_one(
    found: SiteGrants, who: Principal, action: SiteAction, owner: Principal
) -> None:
    assert reach_of(found, who, action).covers(owner) is authorize(found, who, action, owner).allowed


@settings(max_examples=60)
@given(grants, grants, principals, st.sampled_from(sorted(SiteAction)), principals)
def test_another_grant_takes_nothing_away(
    found: SiteGrants, more: SiteGrants, who: Principal, action: SiteAction, owner: Principal
) -> None:
    if authorize(found, who, action, owner).allowed:
        assert authorize(SiteGrants(grant=(*more.grant, *found.grant)), who, action, owner).allowed
