"""What holds for every policy, request and set of endorsements."""

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from deployer.policy.model import Policy
from signer.verification.trust import EndorsementCheck
from tests.support.node.policy_values import (
    GIB,
    IMAGE,
    MIB,
    NOW,
    ORDER,
    A,
    B,
    C,
    anchors,
    decide,
    ordered,
    policy,
    vouched,
)

# What holds for every policy, request and set of endorsements.
PEOPLE = [A, B, C]


ROLES = ["admin", "reviewer"]


CHECKS = st.builds(
    vouched,
    st.sampled_from(PEOPLE),
    counts=st.booleans(),
    role=st.sampled_from(ROLES),
    vo=st.sampled_from(["star", "star", "atlas"]),
    issued=st.sampled_from([NOW - timedelta(days=d) for d in (-1, 0, 1, 40)]),
    expires=st.sampled_from([NOW + timedelta(days=d) for d in (-1, 1)]),
)


POLICIES = st.builds(
    lambda trusted, threshold, role, vos, images, endorsers: policy(
        anchors(*trusted),
        endorsements=f"threshold={threshold}\nmax_age='30d'" + (f"\nroles={{{role}=1}}" if role else ""),
        vos=f"deny={vos}",
        images=f"deny={images}",
        endorsers=f"deny={endorsers}",
    ),
    st.sets(st.tuples(st.sampled_from(PEOPLE), st.sampled_from(ROLES)), max_size=5),
    st.integers(1, 3),
    st.sampled_from(["", *ROLES]),
    st.sampled_from([[], [], ["atlas"], ["star"], ["*"]]),
    st.sampled_from([[], [], ["star/other"], ["star/worker"], ["*/*@1.*"], [IMAGE.image_id]]),
    st.lists(st.sampled_from(PEOPLE), max_size=2),
)


@given(POLICIES, st.lists(CHECKS, max_size=6))
def test_nothing_denied_and_nothing_short_of_the_quorum_is_ever_accepted(
    rules: Policy, checks: list[EndorsementCheck]
) -> None:
    """Against the plainest statement of the law that there is."""
    decision = decide(rules, ORDER, IMAGE, checks, NOW)

    counting = {
        (check.fingerprint, check.role)
        for check in checks
        if check.counts
        and check.vo == "star"
        and check.fingerprint not in rules.endorsers.deny
        and any((a.fingerprint, a.role) == (check.fingerprint, check.role) for a in rules.anchor)
        and check.issued is not None
        and check.expires is not None
        and NOW - timedelta(days=30) <= check.issued <= NOW < check.expires
    }
    quorum = rules.endorsements
    enough = len({who for who, _ in counting}) >= quorum.threshold and all(
        len({who for who, as_role in counting if as_role == role}) >= least for role, least in quorum.roles.items()
    )
    denied = bool({"star", "*"} & set(rules.vos.deny)) or bool(
        {"star/worker", "*/*@1.*", IMAGE.image_id} & set(rules.images.deny)
    )
    assert decision.accepted == (enough and not denied)
    assert all(bool(rule.change) != rule.passed for rule in decision.rules)


@given(POLICIES, st.lists(CHECKS, max_size=4), CHECKS)
def test_one_more_endorsement_never_refuses_what_was_accepted(
    rules: Policy, checks: list[EndorsementCheck], more: EndorsementCheck
) -> None:
    """Anybody may add endorsements to an image; nobody may keep it from running that way."""
    if decide(rules, ORDER, IMAGE, checks, NOW).accepted:
        assert decide(rules, ORDER, IMAGE, [*checks, more], NOW).accepted


@given(
    st.integers(0, 1200).map(lambda mib: mib * MIB) | st.integers(0, 4 * GIB),
    st.integers(-1, 5),
    st.integers(-1, 90000),
    st.integers(-1, 6),
    st.integers(0, 4),
)
def test_no_request_beyond_a_limit_is_ever_accepted(
    memory: int, cores: int, lifetime: int, count: int, running: int
) -> None:
    request = ordered(count=count, memory=memory, cores=cores, lifetime=lifetime)

    accepted = decide(policy(), request, IMAGE, [vouched()], NOW, running).accepted

    assert accepted == (
        128 * MIB <= memory <= GIB
        and memory % MIB == 0
        and 1 <= cores <= 2
        and 1 <= lifetime <= 43200
        and count >= 1
        and count + running <= 3
    )
