"""Which running machines a revocation or a block list concerns."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from deployer.node.machines.exposure import BootFacts, exposure_reason
from deployer.policy.evaluation import effective_revocations, policy_case
from deployer.policy.revocations import BlockList, RevocationState
from tests.support.grid_ca import DAY
from tests.support.node.policy_site import IMAGE, Site
from tests.support.node.withdrawn_signatures import anns_key, by_officer, case, rules


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Ann and Bob may endorse, Kim is the security officer."""
    return Site(tmp_path_factory.mktemp("site"))


ANN, BOB = "x509:/DC=org/CN=Ann", "x509:/DC=org/CN=Bob O'Neill"


def test_which_running_machines_are_affected(site: Site, tmp_path: Path) -> None:
    two = "[endorsements]\nthreshold = 2"
    booted = site.now + timedelta(hours=1)
    facts = BootFacts(IMAGE, policy_case(rules(site).policy, case(site), site.now).checks)
    facts.write(tmp_path)
    kept = BootFacts.read(tmp_path)
    assert kept is not None
    assert (kept.manifest, len(kept.checks)) == (IMAGE, 2)
    retired_before = by_officer(site, reason="retired", since=booted - DAY)
    retired_after = by_officer(site, reason="retired", since=booted + DAY)
    table: list[tuple[str, str, tuple[Any, ...], dict[str, Any], str]] = [
        ("nothing", "", (), {}, ""),
        ("the image", "", (by_officer(site),), {}, "was revoked as compromised"),
        ("retired before it was booted", "", (retired_before,), {}, "was revoked as retired"),
        ("retired after it was booted", "", (retired_after,), {}, ""),
        ("one key of two", "", (anns_key(site),), {}, ""),
        ("one key where both must", two, (anns_key(site),), {}, "1 of 2 endorsers"),
        ("blocked", "", (), {"images": (IMAGE.image_id,)}, "block list"),
        ("keys blocked", "", (), {"keys": (ANN, BOB)}, "0 of 1 endorsers"),
        ("the policy asks for more than it did", "[endorsements]\nthreshold = 3", (anns_key(site),), {}, ""),
    ]
    wrong = []
    for what, said, pairs, block, expected in table:
        mine = rules(site, said)
        held = effective_revocations(mine.policy, RevocationState(pairs), site.now)
        reason = exposure_reason(mine.policy, kept, booted, held, BlockList(**block))
        if (expected not in reason) if expected else reason:
            wrong.append((what, reason))
    assert not wrong
    # What has expired since was good when it counted.
    assert exposure_reason(rules(site).policy, kept, booted, (), BlockList()) == ""


@pytest.mark.parametrize("target", [IMAGE.image_id, IMAGE.title, "star/worker", ANN, "/DC=org/CN=Ann"])
def test_machines_are_found_by_image_and_by_key(site: Site, target: str) -> None:
    facts = BootFacts(IMAGE, policy_case(rules(site).policy, case(site), site.now).checks)
    assert facts.names(target)
    assert not facts.names(target + "x")
