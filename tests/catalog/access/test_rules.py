"""Who may read which image: the decision alone, and credentials."""

import hashlib

import pytest

from catalog.access.rules import (
    ANONYMOUS,
    AccessRule,
    AccessRules,
    ImageScope,
    RegisteredSite,
    format_credential,
    parse_credential,
)
from catalog.errors import Misused, NotEntitled

LYON, BNL, TUM = (
    RegisteredSite("lyon", frozenset({"star"})),
    RegisteredSite("bnl"),
    RegisteredSite("tum", frozenset({"atlas"})),
)
RIGHTS = AccessRules(
    {site.name: site for site in (LYON, BNL, TUM)},
    {
        ImageScope("star", "worker"): AccessRule(frozenset({"bnl"})),
        ImageScope("star", "worker", "2.0"): AccessRule(vos=frozenset({"star"})),
        ImageScope("star", "worker", "3.0"): AccessRule(frozenset({"bnl", "gone"}), frozenset({"atlas"})),
        ImageScope("alice"): AccessRule(),
    },
)


@pytest.mark.parametrize(
    ("what", "image", "who"),
    [
        ("no rule: everybody", ImageScope("star", "head", "1.0"), {"", "lyon", "bnl", "tum", "gone"}),
        ("the rule of the name", ImageScope("star", "worker", "1.0"), {"bnl"}),
        (
            "the narrower rule alone counts, even for whom the wider one admits",
            ImageScope("star", "worker", "2.0"),
            {"lyon"},
        ),
        (
            "sites and VOs add up; a site that is not registered is a stranger",
            ImageScope("star", "worker", "3.0"),
            {"bnl", "tum"},
        ),
        ("a rule for a whole VO that admits nobody", ImageScope("alice", "any", "1"), set()),
        (
            "another VO with the same name is another image",
            ImageScope("atlas", "worker", "1.0"),
            {"", "lyon", "bnl", "tum", "gone"},
        ),
    ],
)
def test_who_may_read(what: str, image: ImageScope, who: set[str]) -> None:
    asking = (ANONYMOUS, "lyon", "bnl", "tum", "gone")
    assert {site for site in asking if RIGHTS.may_read(site, image)} == who


@pytest.mark.parametrize("text", ["star", "star/worker", "star/worker@2.0"])
def test_scopes_have_one_text(text: str) -> None:
    assert str(ImageScope.parse(text)) == text


@pytest.mark.parametrize("text", ["", "/", "star/", "star@1", "Star", "star/worker@", "sha256:" + "0" * 64, "a/b/c"])
def test_what_is_no_scope_is_refused(text: str) -> None:
    with pytest.raises(Misused, match="does not name images"):
        ImageScope.parse(text)


def test_a_credential_names_its_site_and_only_its_digest_is_needed() -> None:
    secret = "s" * 43
    assert parse_credential(format_credential("lyon", secret) + "\n") == (
        "lyon",
        hashlib.sha256(secret.encode()).hexdigest(),
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "lyon",
        "lyon.",
        f"lyon.{'s' * 42}",
        f"lyon.{'s' * 44}",
        f"Lyon.{'s' * 43}",
        f".{'s' * 43}",
        f"l yon.{'s' * 43}",
    ],
)
def test_what_is_no_credential_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(NotEntitled, match=r"not SITE\.SECRET") as caught:
        parse_credential(text)
    assert "sss" not in str(caught.value)
