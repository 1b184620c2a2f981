"""Roles, thresholds, partitions and certificates in policies: real signatures by both schemes, judged as a node does."""

from pathlib import Path

import pytest

from catalog.image.address import Address
from deployer.policy.anchors import certificate_anchor
from deployer.policy.model import Policy
from signer.verification.endorsements import endorse
from signer.verification.signers import Signer
from tests.support.grid_ca import DAY
from tests.support.node.policy_site import ADMIN, BASE, IMAGE, MIB, OFFICER, REST, Site, failing


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("site"))


def test_two_of_these_one_of_them_a_security_officer_none_older_than_30_days(site: Site) -> None:
    said = f'[endorsements]\nthreshold = 2\nmax_age = "30d"\nroles = {{ {OFFICER} = 1 }}'
    trusted = (site.ann.anchor(), site.bob.anchor(role=OFFICER), site.kim.anchor("star", ADMIN))
    policy = site.policy(said, *trusted)
    ann, bob, kim = site.image(site.ann), site.image(site.bob, OFFICER), site.image(site.kim)
    table = [
        ("a certificate and an officer's", [ann, bob], set()),
        ("a key and an officer's certificate", [kim, bob], set()),
        ("all three", [bob, kim, ann], set()),
        ("two without an officer", [ann, kim], {f"endorsements-{OFFICER}"}),
        ("the officer alone", [bob], {"endorsements"}),
        ("the officer twice", [bob, site.image(site.bob, OFFICER)], {"endorsements"}),
        (
            "in a role that is not theirs",
            [ann, site.image(site.ann, OFFICER)],
            {"endorsements", f"endorsements-{OFFICER}"},
        ),
        ("nobody", [], {"endorsements", f"endorsements-{OFFICER}"}),
    ]
    wrong = [
        (what, failing(decision), decision.text())
        for what, pairs, expected in table
        if failing(decision := site.decide(policy, pairs)) != expected
    ]
    assert not wrong


def test_one_that_is_too_old_does_not_count(site: Site) -> None:
    grid = site.grid
    old = grid.person(site.root, "/DC=org/CN=Old", start=grid.now - 90 * DAY)
    policy = site.policy('[endorsements]\nmax_age = "30d"', old.anchor())
    lax = policy.model_copy(update={"endorsements": policy.endorsements.model_copy(update={"max_age": 80 * 86400})})
    # A certificate that signs for the first time: its signature is dated now, the statement as long ago as it says.
    assert failing(site.decide(policy, [site.image(old, days=20)])) == set()
    assert failing(site.decide(policy, [site.image(old, days=31)])) == {"endorsements"}
    # The CA itself is younger than the statement.
    assert failing(site.decide(lax, [site.image(old, days=31)])) == {"endorsements"}


def test_the_base_is_endorsed_by_the_site_and_the_rest_by_the_vo(site: Site) -> None:
    label = next(part.label for part in IMAGE.partitions() if part.content == BASE)
    said = f'[[partition]]\nlabel = "{label}"\nvo = "site"\nroles = {{ site-reviewer = 1 }}\n'
    policy = site.policy(
        said, site.ann.anchor(), site.kim.anchor("site", "site-reviewer"), site.bob.anchor("site", ADMIN)
    )
    vo = site.image(site.ann)

    def base(
        signer: Signer, address: Address = BASE, title: str = "site/debian@12", role: str = "site-reviewer"
    ) -> tuple[bytes, bytes]:
        return endorse(signer, str(address), title, site.now, kind="partition", role=role)

    rule = f"partition-{label}"
    other = Address(bytes([9]) * 32, 4 * MIB)
    table = [
        ("both", [vo, base(site.kim)], set()),
        ("the VO alone", [vo], {rule, f"{rule}-site-reviewer"}),
        ("the site alone", [base(site.kim)], {"endorsements"}),
        ("the site, of other bytes", [vo, base(site.kim, other)], {rule, f"{rule}-site-reviewer"}),
        (
            "the site, of the same root with another size",
            [vo, base(site.kim, Address(BASE.root, BASE.size + 4096))],
            {rule, f"{rule}-site-reviewer"},
        ),
        ("the site, in another role", [vo, base(site.bob.signer(), role=ADMIN)], {f"{rule}-site-reviewer"}),
        (
            "the VO, of the base",
            [vo, base(site.ann.signer(), title="star/debian@12", role=ADMIN)],
            {rule, f"{rule}-site-reviewer"},
        ),
    ]
    wrong = [
        (what, failing(decision), decision.text())
        for what, pairs, expected in table
        if failing(decision := site.decide(policy, pairs)) != expected
    ]
    assert not wrong
    # A partition that is called otherwise is no way round.
    elsewhere = site.policy(said.replace(label, "no-such"), *policy.anchors)
    assert failing(site.decide(elsewhere, [vo, base(site.kim)])) == {"partition-no-such"}
    # The rule is for other images only.
    others = site.policy(said + 'images = ["atlas/*"]\n', *policy.anchors)
    assert failing(site.decide(others, [vo])) == set()


def test_partitions_do_not_vouch_for_images(site: Site) -> None:
    policy = site.policy("", site.ann.anchor())
    pair = endorse(site.ann.signer(), str(BASE), IMAGE.title, site.now, kind="partition", role=ADMIN)
    assert failing(site.decide(policy, [pair])) == {"endorsements"}


def test_without_lists_a_site_must_say_so(site: Site, tmp_path: Path) -> None:
    grid = site.grid.copy(tmp_path / "ca")
    for file in grid.path.glob("*.r0"):
        file.unlink()
    pair = site.image(site.ann)
    text = f'[x509]\ndirectory = "{grid.path}"\n{REST}' + certificate_anchor("star", ADMIN, site.ann.pem)[1]
    strict = Policy.parse(text.encode(), "p")
    lax = Policy.parse(text.replace("[x509]", '[x509]\ncrls = "if-present"').encode(), "p")
    assert failing(site.decide(strict, [pair])) == {"endorsements"}
    assert "run fetch-crl" in site.decide(strict, [pair]).text()
    assert failing(site.decide(lax, [pair])) == set()
