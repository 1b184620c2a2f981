"""Anchors as text in a policy: read as they were written, and nothing else slips in."""

from pathlib import Path

import pytest

from deployer.errors import PolicyUnusable
from deployer.policy.anchors import anchor_block, certificate_anchor
from deployer.policy.model import Policy
from tests.support.grid_ca import Grid, utc_now
from tests.support.node.policy_site import ADMIN, Site
from tests.support.node.policy_texts import ANCHOR, ARMORED, FPR, parse
from tests.support.node.policy_values import load_policy


def test_an_anchor_block_is_read_as_it_was_written() -> None:
    text = "[vos]\nallow=['*']\n" + anchor_block("star", "image-administrator", FPR, ARMORED.replace("\n", "\r\n"))

    assert parse(text).anchor == parse(ANCHOR).anchor
    assert len(parse(text + anchor_block("atlas", "r", FPR, ARMORED)).anchor) == 2


@pytest.mark.parametrize(
    ("sentence", "changes"),
    [
        ("a VO that closes its quotes", {"vo": 'star"\n[vos]\nallow=["*"]\n#'}),
        ("a role that closes its quotes", {"role": 'r"\n[[anchor]]'}),
        ("a key id", {"fingerprint": FPR[-16:]}),
        ("a key that closes its quotes", {"key": ARMORED.replace("=2Ypd", "'''\n[vos]\nallow=['*']\nx='''")}),
        ("a private key", {"key": ARMORED.replace("PUBLIC", "PRIVATE")}),
    ],
)
def test_nothing_slips_into_a_policy_with_an_anchor(sentence: str, changes: dict[str, str]) -> None:
    fields = {"vo": "star", "role": "image-administrator", "fingerprint": FPR, "key": ARMORED} | changes

    with pytest.raises(PolicyUnusable):
        anchor_block(**fields)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("site"))


def test_an_anchor_is_what_its_certificate_says(site: Site, tmp_path: Path) -> None:
    good = certificate_anchor("star", ADMIN, site.bob.pem)[1]
    (anchor,) = Policy.parse(good.encode(), "p").anchor
    assert (anchor.scheme, anchor.fingerprint, anchor.issuer) == ("x509", "/DC=org/CN=Bob O'Neill", "/DC=org/CN=Root")
    (tmp_path / "bob.pem").write_bytes(site.bob.pem)
    inline = good[good.index('"""') : good.rindex('"""') + 3]
    (tmp_path / "p.toml").write_text(good.replace(inline, '"bob.pem"'))
    assert load_policy(tmp_path / "p.toml").anchor == (anchor,)
    table = [
        ("another subject", good.replace("Bob", "Rob"), r"is that of /DC=org/CN=Bob"),
        ("another issuer", good.replace("CN=Root", "CN=Loot"), r"is that of /DC=org/CN=Bob"),
        ("no issuer", good.replace("issuer =", "#"), "subject, issuer and certificate"),
        (
            "with a fingerprint",
            good.replace("subject =", 'fingerprint = "x"\nsubject ='),
            "subject, issuer and certificate",
        ),
        ("no certificate", good.replace("MII", "MIX"), "not a readable X.509 certificate"),
        (
            "a subject as a key's fingerprint",
            good.replace("subject", "fingerprint").replace("certificate", "key").replace("issuer", "#"),
            "either fingerprint and key",
        ),
    ]
    for what, text, says in table:
        with pytest.raises(PolicyUnusable, match=says):
            Policy.parse(text.encode(), what)
    with pytest.raises(PolicyUnusable, match="cannot be used in a policy"):
        certificate_anchor("Star!", ADMIN, site.bob.pem)
    with pytest.raises(PolicyUnusable, match="cannot be used in a policy"):
        certificate_anchor("star", ADMIN, b"none")


def test_a_name_of_any_characters_is_read_back(tmp_path: Path) -> None:
    """Beyond U+FFFF, quotes and backslashes: what is written is what TOML reads."""
    grid = Grid(tmp_path / "grid", utc_now())
    holder = grid.person(grid.root("/DC=org/CN=Root"), '/DC=org/CN=Ann \U0001d538 "quoted"')
    names, block = certificate_anchor("star", ADMIN, holder.pem)
    (anchor,) = Policy.parse(block.encode(), "p").anchor
    assert anchor.fingerprint == names["subject"]
    assert "\U0001d538" in anchor.fingerprint
