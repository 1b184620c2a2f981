"""StratusLab policies become ours: never more is allowed, and no prohibition gets lost."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

import partita
from deployer.errors import PolicyUnusable
from deployer.policy.model import Policy
from deployer.policy.stratuslab import parse_policy, translate_policy
from signer.openpgp.keyring import Keyring

OLD = "MMZu9WvwKIro-rtBQfDk4PsKO7_"
NEXT = "NMZu9WvwKIro-rtBQfDk4PsKO7_"
FULL = f"""[endorsers]
whitelistendorsers=ann@star.example
    bob@star.example
blacklistendorsers=

[images]
whitelistimages={OLD}
    {NEXT}
blacklistimages=

[checksums]
whitelistchecksums=
blacklistchecksums=
"""


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The keys of Ann and Bob by their addresses."""
    keyring = Keyring(tmp_path_factory.mktemp("keys") / "home")
    people = ("ann@star.example", "bob@star.example")
    return {who: keyring.export(keyring.generate(f"Somebody <{who}>")) for who in people}


def ours(text: str, keys: dict[str, bytes], **images: str) -> tuple[Policy, tuple[str, ...]]:
    """The policy that a file becomes, and the notes."""
    made = translate_policy(text.encode(), "policy.cfg", "star", "image-administrator", keys, images)
    return Policy.parse(made.text.encode(), "test"), made.notes


def test_white_lists_become_anchors_and_images(keys: dict[str, bytes]) -> None:
    policy, notes = ours(FULL, keys, **{OLD: "star/worker@1.0", NEXT: "star/worker@1.1"})
    assert [anchor.vo for anchor in policy.anchor] == ["star", "star"]
    assert policy.images.allow == ("star/worker@1.0", "star/worker@1.1")
    assert policy.vos.allow == ("star",)
    assert notes == ()


def test_of_two_denied_neighbours_both_stay_denied(keys: dict[str, bytes]) -> None:
    """Their loop left one of them."""
    text = FULL.replace("blacklistendorsers=", "blacklistendorsers=ann@star.example\n    bob@star.example")
    policy, notes = ours(text, keys, **{OLD: "star/a", NEXT: "star/b"})
    assert len(policy.endorsers.deny) == 2
    assert policy.anchor == ()
    assert notes == ("no endorser is trusted, so nothing is accepted",)


def test_active_lists_all_apply(keys: dict[str, bytes]) -> None:
    digest = "ab" * 20
    text = FULL.replace("whitelistchecksums=", f"whitelistchecksums={digest}")
    policy, _ = ours(text, keys, **{OLD: "star/a", NEXT: "star/b", digest: "star/b"})
    assert policy.images.allow == ("star/b",)


def test_what_is_allowed_and_stands_for_nothing_is_noted(keys: dict[str, bytes]) -> None:
    policy, notes = ours(FULL, {"ann@star.example": keys["ann@star.example"]}, **{OLD: "star/a"})
    assert len(policy.anchor) == 1
    assert policy.images.allow == ("star/a",)
    assert [NEXT in note or "bob" in note for note in notes] == [True, True]


@pytest.mark.parametrize("color", ["blacklistendorsers", "blacklistimages", "blacklistchecksums"])
def test_a_prohibition_never_gets_lost(keys: dict[str, bytes], color: str) -> None:
    with pytest.raises(PolicyUnusable, match="denies mallory, which stands for nothing here"):
        ours(FULL.replace(f"{color}=", f"{color}=mallory"), keys, **{OLD: "star/a", NEXT: "star/b"})


def test_a_policy_that_allowed_everybody_allows_nobody() -> None:
    policy, notes = ours("[endorsers]\nwhitelistendorsers=\n", {})
    assert policy.anchor == ()
    assert any("everybody" in note for note in notes)


@pytest.mark.parametrize(
    "text",
    [
        "no section",
        "[endorsers]\nwhitelistendorsers=a\n[endorsers]\n",
        "[other]\nx=1\n",
        "[DEFAULT]\nx=1\n",
        "[images]\nwhitelistendorsers=a\n",
        "[images]\nwhitelistimages=a\nwhitelistimages=b\n",
        "\x00\xff",
    ],
)
def test_what_is_not_understood_is_refused(text: str) -> None:
    with pytest.raises(PolicyUnusable):
        parse_policy(text.encode("latin-1"), "policy.cfg")


def test_the_command(keys: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "policy.cfg").write_text(FULL)
    (tmp_path / "ann.asc").write_bytes(keys["ann@star.example"])
    words = ["policy", "import-stratuslab", str(tmp_path / "policy.cfg"), "--vo", "star"]
    words += ["--key", f"ann@star.example={tmp_path / 'ann.asc'}", "--image", f"{OLD}=star/worker"]
    ended = CliRunner().invoke(partita.app, words)
    assert ended.exit_code == 0, repr(ended.exception)
    assert Policy.parse(ended.stdout.encode(), "test").images.allow == ("star/worker",)
