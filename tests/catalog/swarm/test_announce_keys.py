"""Announce keys open one swarm to one node until one instant, and nothing else."""

from datetime import UTC, datetime, timedelta

import pytest

from catalog.errors import NotEntitled
from catalog.swarm.announce_keys import KEY_LIFE, AnnounceKeys, KeyHolder

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
SECRET = b"s" * 32
SWARM = b"h" * 20
HOLDER = KeyHolder("node-7", "lyon")


def test_a_key_names_its_holder_until_it_expires() -> None:
    keys = AnnounceKeys(SECRET)
    key = keys.issue(HOLDER, SWARM, NOW)
    assert keys.check(key, SWARM, NOW) == HOLDER
    assert keys.check(key, SWARM, NOW + KEY_LIFE - timedelta(seconds=1)) == HOLDER
    with pytest.raises(NotEntitled, match="expired at 2026-11-23T00:00:00Z"):
        keys.check(key, SWARM, NOW + KEY_LIFE)


@pytest.mark.parametrize(
    ("what", "forge"),
    [
        ("a key for another swarm", lambda key: (key, b"g" * 20)),
        ("another node's name on it", lambda key: (key.replace("node-7", "node-8"), SWARM)),
        ("another site's name on it", lambda key: (key.replace("lyon", "bern"), SWARM)),
        ("a dot moved between the fields", lambda key: (key.replace("node-7.lyon", "node-7lyon."), SWARM)),
        ("a later expiry", lambda key: (key.replace(".1795", ".1895"), SWARM)),
        (
            "one character of the MAC changed",
            lambda key: (key[:-2] + ("A" if key[-2] != "A" else "B") + key[-1], SWARM),
        ),
        ("no MAC", lambda key: (key.rpartition(".")[0] + ".", SWARM)),
        ("an expiry that is no number", lambda key: (key.replace(".1795", ".x795"), SWARM)),
        ("a MAC that is not ASCII", lambda key: (key + "\u00e9", SWARM)),
        ("nothing", lambda _: ("", SWARM)),
        ("a very long text", lambda _: ("a" * 10_000, SWARM)),
    ],
)
def test_anything_but_the_key_as_issued_is_refused(what: str, forge) -> None:
    key, swarm = forge(AnnounceKeys(SECRET).issue(HOLDER, SWARM, NOW))
    with pytest.raises(NotEntitled):
        AnnounceKeys(SECRET).check(key, swarm, NOW)


def test_a_key_of_another_secret_is_refused() -> None:
    with pytest.raises(NotEntitled):
        AnnounceKeys(b"t" * 32).check(AnnounceKeys(SECRET).issue(HOLDER, SWARM, NOW), SWARM, NOW)


@pytest.mark.parametrize("name", ["a.b", "a b", "-a", "a" * 64, "é"])
def test_names_that_would_blur_the_form_are_not_issued(name: str) -> None:
    with pytest.raises(ValueError, match="is not a valid label"):
        AnnounceKeys(SECRET).issue(KeyHolder(name, ""), SWARM, NOW)


def test_a_short_secret_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 32 bytes"):
        AnnounceKeys(b"short")
