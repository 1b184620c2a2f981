"""Decisions: each rule by itself, all of them always, and what no policy can be made to accept."""

import re
from collections.abc import Sequence
from datetime import timedelta

import pytest

from catalog.image.address import Address
from catalog.image.manifest import Blank
from deployer.errors import Refused
from deployer.machine.network import Network
from deployer.policy.decision import Decision, Request
from deployer.policy.model import Policy
from deployer.policy.rules.amounts import total_blank_size, total_disk_size
from deployer.policy.rules.endorsements import MAX_SHOWN
from signer.documents import canonical, parse
from signer.verification.trust import EndorsementCheck
from tests.support.factories import manifest
from tests.support.node.policy_values import (
    GIB,
    IMAGE,
    MIB,
    NOW,
    ORDER,
    TWO,
    A,
    B,
    C,
    anchors,
    decide,
    failed,
    ordered,
    policy,
    vouched,
)


def test_what_everything_speaks_for_is_accepted_with_all_rules_listed() -> None:
    decision = decide(policy(), ORDER, IMAGE, [vouched()], NOW)

    assert decision.accepted
    assert [rule.name for rule in decision.rules] == [
        "anchors",
        "vo-allowed",
        "vo-not-denied",
        "image-allowed",
        "image-not-denied",
        "endorsements",
        "request",
        "enough-memory",
        "enough-cores",
        "limit-memory",
        "limit-cores",
        "limit-disk",
        "limit-blank",
        "limit-lifetime",
        "limit-machines",
        "user-data",
        "network",
    ]
    assert not any(rule.change for rule in decision.rules)
    assert (decision.image, decision.title, decision.at) == (IMAGE.image_id, IMAGE.title, NOW)
    assert decision.policy == policy().digest


ENDORSEMENTS = [
    ("nobody vouches", {}, [], "0 of 1 endorsers vouch for the image", f"1 more endorsement by one of {A}, {B}"),
    ("two must and one does", {"endorsements": "threshold=2"}, [vouched()], "1 of 2 endorsers", f"1 more endorsement by one of {B}"),
    ("one vouches twice", {"endorsements": "threshold=2"}, [vouched(), vouched(comment="again")], "1 of 2", f"one of {B}"),
    (
        "one vouches in two roles",
        {"trusted": anchors((A, "admin"), (A, "reviewer")), "endorsements": "threshold=2"},
        [vouched(), vouched(role="reviewer")],
        "1 of 2 endorsers",
        "the site trusts more endorsers of star: 1 can count, 2 must",
    ),
    ("a signature that does not count", {}, [vouched(counts=False, reason="It expired.")], rf"\(the endorsement by {A}: It expired\)", A),
    ("a statement that cannot be read", {}, [EndorsementCheck(counts=False, reason="endorsement: $: no.")], r"\(endorsement: \$: no\)", A),
    ("somebody without an anchor", {}, [vouched(C)], f"{C} is not trusted as admin of star", A),
    ("another VO's endorser", {}, [vouched(vo="atlas")], "is not trusted as admin of atlas", A),
    ("a role that the anchor has not", {}, [vouched(role="owner")], "is not trusted as owner", A),
    ("an endorsement of another image", {}, [vouched(image_id="sha256:" + "0" * 64)], "is of star/worker@1.0", A),
    ("an endorsement of another name", {}, [vouched(title="star/base@1.0")], "is of star/base@1.0", A),
    ("expired since it was verified", {}, [vouched(expires=NOW)], "holds from 2026-11-12 to 2026-11-22 only", A),
    ("not yet issued", {}, [vouched(issued=NOW + timedelta(minutes=6))], "only", A),
    ("too old for this site", {"endorsements": "max_age='9d'"}, [vouched()], "issued on 2026-11-12, longer ago than 9d", A),
    ("no times", {}, [vouched(issued=None)], "It counts", A),
    ("a denied endorser", {"endorsers": f"deny=['{A}']"}, [vouched()], f"{A} is in endorsers.deny", f"by one of {B}$"),
    (
        "all endorsers denied",
        {"endorsers": f"deny=['{A}','{B}']"},
        [vouched(), vouched(B)],
        "0 of 1",
        "the site trusts more endorsers of star: 0 can count, 1 must",
    ),
    (
        "a VO's own quorum",
        {"endorsements": "threshold=1\n[endorsements.vo.star]\nthreshold=2"},
        [vouched()],
        "1 of 2 endorsers",
        B,
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("sentence", "rules", "checks", "reason", "change"), ENDORSEMENTS, ids=[r[0] for r in ENDORSEMENTS]
)
def test_who_does_not_count(
    sentence: str, rules: dict[str, str], checks: Sequence[EndorsementCheck], reason: str, change: str
) -> None:
    decision = decide(policy(**rules), ORDER, IMAGE, checks, NOW)

    assert set(failed(decision)) == {"endorsements"}
    said, instead = failed(decision)["endorsements"]
    assert re.search(reason, said), said
    assert re.search(change, instead), instead


@pytest.mark.parametrize(
    ("sentence", "rules", "checks"),
    [
        ("two vouch", {"endorsements": "threshold=2"}, [vouched(), vouched(B)]),
        ("one counts beside many that do not", {}, [vouched(C), vouched(B, counts=False), vouched()]),
        ("another one is denied", {"endorsers": f"deny=['{B}']"}, [vouched(), vouched(B)]),
        ("a clock that is a little ahead", {}, [vouched(issued=NOW + timedelta(minutes=4))]),
        ("exactly as old as may be", {"endorsements": "max_age='10d'"}, [vouched()]),
        (
            "another VO must have more",
            {"endorsements": "threshold=1\n[endorsements.vo.atlas]\nthreshold=9"},
            [vouched()],
        ),
        (
            "each role is there",
            {"trusted": anchors((A, "admin"), (B, "reviewer")), "endorsements": "threshold=2\nroles={reviewer=1}"},
            [vouched(), vouched(B, role="reviewer")],
        ),
    ],
)
def test_who_counts(sentence: str, rules: dict[str, str], checks: Sequence[EndorsementCheck]) -> None:
    decision = decide(policy(**rules), ORDER, IMAGE, checks, NOW)

    assert decision.accepted, decision.text()


def test_a_role_that_is_asked_for_is_a_rule_of_its_own() -> None:
    rules = policy(anchors((A, "admin"), (B, "reviewer")), endorsements="threshold=1\nroles={reviewer=1, owner=1}")

    decision = decide(rules, ORDER, IMAGE, [vouched()], NOW)

    assert failed(decision) == {
        "endorsements-owner": (
            "0 of 1 endorsers as owner vouch for the image",
            "the site trusts more endorsers of star as owner: 0 can count, 1 must",
        ),
        "endorsements-reviewer": (
            "0 of 1 endorsers as reviewer vouch for the image",
            f"1 more endorsement by one of {B}",
        ),
    }


def test_many_that_do_not_count_cannot_bury_the_reason() -> None:
    checks = [vouched(f"{n:040X}") for n in range(60)]

    (rule,) = decide(policy(), ORDER, IMAGE, checks, NOW).failed

    assert rule.reason.count("is not trusted") == MAX_SHOWN
    assert "52 more" in rule.reason


SCRATCH = Blank(size=50 * MIB, filesystem="ext4")


REQUESTS = [
    (
        "less memory than the image needs",
        ordered(memory=64 * MIB),
        "enough-memory",
        "ask for at least 128MiB of memory",
    ),
    ("no core", ordered(cores=0), "enough-cores request", "ask for at least 1 core"),
    ("memory that no hypervisor gives", ordered(memory=200 * MIB + 1), "request", "ask for memory in whole 1MiB"),
    ("no machine", ordered(count=0), "request", "ask for a count of at least 1"),
    ("no time", ordered(lifetime=0), "request", "ask for a lifetime of at least 1"),
    ("too much memory", ordered(memory=2 * GIB), "limit-memory", "ask for at most 1GiB of memory"),
    ("too many cores", ordered(cores=3), "limit-cores", "ask for at most 2 cores"),
    ("too long", ordered(lifetime=43201), "limit-lifetime", "ask for at most 12h"),
    ("too many machines", ordered(count=4), "limit-machines", "ask for at most 3 machines"),
    (
        "too much scratch",
        ordered(blanks=(SCRATCH,)),
        "limit-blank",
        "choose an image whose blanks have at most 100MiB in all",
    ),
    ("far too much scratch", ordered(blanks=(SCRATCH,) * 20), "limit-blank limit-disk", "at most 1GiB in all"),
    ("a script", ordered(user_data="script"), "user-data", "give cloud-config instead"),
    ("a bridge", ordered(network=Network.parse("bridge:br0")), "network", "ask for none or user or network:g*"),
    ("a network nobody allowed", ordered(network=Network.parse("network:office")), "network", "ask for none or user"),
]


@pytest.mark.parametrize(("sentence", "request_", "rules", "change"), REQUESTS, ids=[row[0] for row in REQUESTS])
def test_what_is_asked_for(sentence: str, request_: Request, rules: str, change: str) -> None:
    decision = decide(policy(), request_, IMAGE, [vouched()], NOW)

    assert " ".join(sorted(failed(decision))) == rules
    assert any(change in instead for _, instead in failed(decision).values())


@pytest.mark.parametrize(
    "request_",
    [
        ordered(memory=GIB, cores=2, lifetime=43200, count=3),
        ordered(user_data="cloud-config"),
        ordered(network=Network.parse("user")),
        ordered(network=Network.parse("network:guests")),
        ordered(blanks=(Blank(size=36 * MIB, filesystem="ext4"),)),
    ],
)
def test_all_that_is_allowed_can_be_asked_for(request_: Request) -> None:
    assert decide(policy(), request_, IMAGE, [vouched()], NOW).accepted


def test_machines_that_run_count() -> None:
    assert decide(policy(), ordered(count=1), IMAGE, [vouched()], NOW, running=2).accepted
    (rule,) = decide(policy(), ordered(count=2), IMAGE, [vouched()], NOW, running=2).failed
    assert (rule.name, rule.change) == ("limit-machines", "ask for at most 1 machine")
    (rule,) = decide(policy(), ordered(count=1), IMAGE, [vouched()], NOW, running=3).failed
    assert rule.change == "ask again when others have ended"


def test_an_image_that_reads_no_user_data_gets_none() -> None:
    deaf = manifest([Address(bytes(32), MIB)], contextualization="none")

    decision = decide(
        policy(),
        ordered(user_data="cloud-config"),
        deaf,
        [vouched(image_id=deaf.image_id)],
        NOW,
    )

    assert failed(decision) == {
        "user-data": (
            "star/worker@1.0 reads no user-data",
            "ask without user-data, or choose an image with contextualization",
        )
    }


@pytest.mark.parametrize(
    ("sentence", "rules", "rule"),
    [
        ("the VO is denied", {"vos": "deny=['s*']"}, "vo-not-denied"),
        ("the image is denied by name", {"images": "deny=['star/worker@1.0']"}, "image-not-denied"),
        ("the image is denied by ID", {"images": f"deny=['{IMAGE.image_id}']"}, "image-not-denied"),
        ("every image is denied", {"images": "deny=['*/*']"}, "image-not-denied"),
    ],
)
def test_deny_wins_over_allow(sentence: str, rules: dict[str, str], rule: str) -> None:
    decision = decide(policy(**rules), ORDER, IMAGE, [vouched(), vouched(B)], NOW)

    assert set(failed(decision)) == {rule}


def test_what_no_list_names_is_refused() -> None:
    other = manifest([Address(bytes(32), MIB)], vo="atlas", name="base")

    decision = decide(policy(), ORDER, other, [], NOW)

    assert set(failed(decision)) == {"anchors", "vo-allowed", "image-allowed", "endorsements"}
    assert failed(decision)["anchors"] == (
        "no endorser is trusted for VO atlas",
        "the site adds an [[anchor]] for atlas to its policy",
    )


def test_an_empty_policy_accepts_nothing() -> None:
    decision = decide(Policy(), ordered(user_data="script", network=Network.parse("user")), IMAGE, [vouched()], NOW)

    assert {rule.name for rule in decision.rules if rule.passed} == {
        "vo-not-denied",
        "image-not-denied",
        "request",
        "enough-memory",
        "enough-cores",
    }
    assert failed(decision)["limit-memory"][1] == "the site sets limits.memory"


def test_a_decision_without_rules_is_a_refusal() -> None:
    assert not Decision(image=IMAGE.image_id, title=IMAGE.title, at=NOW, policy="", rules=()).accepted


def test_a_decision_is_kept_sent_and_shown() -> None:
    decision = decide(policy(), ordered(memory=2 * GIB), IMAGE, [vouched(counts=False, reason="\x1b[2J.")], NOW)

    assert parse(Decision, canonical(decision), "decision") == decision
    assert decision.as_json()["accepted"] is False
    assert decision.as_json()["at"] == "2026-11-22T12:00:00Z"
    text = decision.text()
    assert "star/worker@1.0 is refused by the policy sha256:" in text
    assert text.count("FAILED") == 2
    assert "-> ask for at most 1GiB of memory" in text
    assert "\x1b" not in text
    with pytest.raises(
        Refused, match=r"the policy refuses star/worker@1\.0: .*ask for at most 1GiB of memory"
    ) as refused:
        raise decision.refusal()
    assert refused.value.decision == decision.as_json()
    assert refused.value.exit_code == 3


def test_sizes_of_an_image() -> None:
    assert (total_disk_size(IMAGE), total_blank_size(IMAGE)) == (68 * MIB, 64 * MIB)
    gpt = manifest(
        [Address(bytes(32), MIB)],
        disks=[
            {
                "table": "gpt",
                "uuid": "00000000-0000-4000-8000-00000000000a",
                "size": 100 * MIB,
                "first_lba": 34,
                "last_lba": 100 * 2048 - 34,
                "partitions": [
                    {
                        "number": 1,
                        "offset": MIB,
                        "label": "",
                        "type": "swap",
                        "uuid": "00000000-0000-4000-8000-00000000000b",
                        "access": "copy-on-write",
                        "blank": {"size": 10 * MIB, "filesystem": "swap"},
                    }
                ],
            }
        ],
    )
    assert (total_disk_size(gpt), total_blank_size(gpt)) == (100 * MIB, 10 * MIB)


def test_a_verdict_says_who_signed_who_did_not_and_who_does_not_count() -> None:
    void = vouched(C, counts=False, reason="Its key was revoked as compromised.")
    decision = decide(policy(TWO + anchors((C, "admin"))), ORDER, IMAGE, [vouched(), void], NOW)
    assert decision.accepted
    (rule,) = (rule for rule in decision.rules if rule.name == "endorsements")
    assert rule.reason == (
        f"endorsed by {A}, not by {B}, {C} (the endorsement by {C}: Its key was revoked as compromised)"
    )
