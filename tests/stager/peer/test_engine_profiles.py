"""Which settings a session gets, and that libtorrent knows every one of them."""

import libtorrent as lt
import pytest

from stager.peer.engine_profiles import Profile, choose_profile, settings


@pytest.mark.parametrize("profile", list(Profile))
def test_libtorrent_knows_every_setting_and_its_type(profile: Profile) -> None:
    known = lt.default_settings()
    for name, value in settings(profile, "127.0.0.1:0", 5, 7).items():
        assert name in known, name
        assert type(known[name]) is type(value), name


def test_nothing_looks_for_peers_by_itself() -> None:
    chosen = settings(Profile.SWARM, "127.0.0.1:0", 0, 0)
    assert not any(chosen[name] for name in ("enable_dht", "enable_lsd", "enable_upnp", "enable_natpmp"))
    assert not any(chosen[name] for name in ("enable_outgoing_utp", "enable_incoming_utp"))
    assert chosen["dht_bootstrap_nodes"] == chosen["webtorrent_stun_server"] == ""


@pytest.mark.parametrize(
    ("what", "complete", "incomplete", "profile"),
    [
        ("nobody", 0, 0, Profile.BULK),
        ("one node alone", 0, 1, Profile.BULK),
        ("one seed and one leecher", 1, 1, Profile.BULK),
        ("two that start together", 0, 2, Profile.SWARM),
        ("six and one seed", 1, 6, Profile.SWARM),
        ("a late one among seeds", 5, 1, Profile.BULK),
        ("as many seeds as leechers", 3, 3, Profile.BULK),
    ],
)
def test_a_crowd_gets_shallow_queues(what: str, complete: int, incomplete: int, profile: Profile) -> None:
    assert choose_profile(complete, incomplete) is profile
