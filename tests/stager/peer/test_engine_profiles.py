"""Which settings a session gets, and that libtorrent knows every one of them."""

import libtorrent as lt
import pytest

from stager.peer.engine_profiles import EngineProfile, choose_profile, session_settings


@pytest.mark.parametrize("profile", list(EngineProfile))
def test_libtorrent_knows_every_setting_and_its_type(profile: EngineProfile) -> None:
    known = lt.default_settings()
    for name, value in session_settings(profile, "127.0.0.1:0", 5, 7).items():
        assert name in known, name
        assert type(known[name]) is type(value), name


def test_nothing_looks_for_peers_by_itself() -> None:
    chosen = session_settings(EngineProfile.SWARM, "127.0.0.1:0", 0, 0)
    assert not any(chosen[name] for name in ("enable_dht", "enable_lsd", "enable_upnp", "enable_natpmp"))
    assert not any(chosen[name] for name in ("enable_outgoing_utp", "enable_incoming_utp"))
    assert chosen["dht_bootstrap_nodes"] == chosen["webtorrent_stun_server"] == ""


@pytest.mark.parametrize(
    ("what", "complete", "incomplete", "profile"),
    [
        ("nobody", 0, 0, EngineProfile.BULK),
        ("one node alone", 0, 1, EngineProfile.BULK),
        ("one seed and one leecher", 1, 1, EngineProfile.BULK),
        ("two that start together", 0, 2, EngineProfile.SWARM),
        ("six and one seed", 1, 6, EngineProfile.SWARM),
        ("a late one among seeds", 5, 1, EngineProfile.BULK),
        ("as many seeds as leechers", 3, 3, EngineProfile.BULK),
    ],
)
def test_a_crowd_gets_shallow_queues(what: str, complete: int, incomplete: int, profile: EngineProfile) -> None:
    assert choose_profile(complete, incomplete) is profile
