"""A site's own cases: what is expected of its policy, and cases that cannot be meant."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from deployer.errors import PolicyUnusable
from deployer.trials.expectations import read_cases, run_cases
from tests.support.node.policy_cases import ALICE, CAROL, rules

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def test_a_sites_own_cases(tmp_path: Path) -> None:
    file = tmp_path / "cases.toml"
    file.write_text(
        f"""
[[case]]
name = "two vouch, one of them our reviewer"
image = "star/worker@1.0"
expect = "accepted"
endorsed = [{{ by = "{ALICE}" }}, {{ by = "{CAROL}", role = "site-reviewer" }}]

[[case]]
name = "one is not enough"
image = "star/worker@1.0"
expect = "refused"
because = ["endorsements", "endorsements-site-reviewer"]
endorsed = [{{ by = "{ALICE}" }}]

[[case]]
name = "wrongly expected"
image = "star/worker@0.9"
expect = "accepted"
endorsed = [{{ by = "{ALICE}" }}, {{ by = "{CAROL}", role = "site-reviewer" }}]

[[case]]
name = "refused for another reason"
image = "star/worker@0.9"
expect = "refused"
because = ["network"]
endorsed = [{{ by = "{ALICE}" }}, {{ by = "{CAROL}", role = "site-reviewer" }}]
"""
    )
    results = run_cases(rules(tmp_path), read_cases(file).case, NOW)

    assert [bool(result.fault) for result in results] == [False, False, True, True]
    assert results[2].fault == "it is refused, not accepted (image-not-denied: images.deny has 'star/worker@0.9')"
    assert results[3].fault == "it is refused by image-not-denied, not by network"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "$.case: is missing"),
        ("case = []", "at least 1 item"),
        ('[[case]]\nname = "a"\nimage = "star/w@1"\nexpect = "maybe"', "$.case[0].expect"),
        ('[[case]]\nname = "a"\nimage = "star"\nexpect = "refused"', "$.case[0].image"),
        ('[[case]]\nname = "a"\nimage = "star/w@1"\nexpect = "refused"\ndisc = "1GiB"', "$.case[0].disc: is not known"),
        ('[[case]]\nname = "a"\nimage = "star/w@1"\nexpect = "refused"\nneeds_memory = "1B"', "case 'a'"),
        (
            '[[case]]\nname = "a"\nimage = "star/w@1"\nexpect = "refused"\n[case.ask]\nnetwork = "x"',
            "not a valid network",
        ),
        ("[[case", "is not TOML"),
    ],
)
def test_cases_that_cannot_be_meant(text: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "cases.toml"
    file.write_text(text)
    with pytest.raises(PolicyUnusable) as caught:
        read_cases(file)
    assert says in str(caught.value)
