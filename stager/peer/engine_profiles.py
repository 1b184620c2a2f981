"""Settings of libtorrent as values, and the pure choice between its two profiles.

The names are libtorrent's own (its manual, "settings_pack"). Each setting differs from the default for a measured reason;
docs/swarm.md has the figures.
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from types import MappingProxyType

EngineSettings = Mapping[str, int | bool | str]


class EngineProfile(StrEnum):
    """How deep request queues are.

    BULK: few peers and a fast link; deep queues keep one connection full.
    SWARM: many nodes start together; shallow queues let each piece be requested from a peer that is idle.
    """

    BULK = "bulk"
    SWARM = "swarm"


COMMON_SETTINGS: EngineSettings = MappingProxyType(
    {
        # Peers are found through the tracker only.
        "enable_dht": False,
        "dht_bootstrap_nodes": "",
        "enable_lsd": False,
        "enable_upnp": False,
        "enable_natpmp": False,
        "webtorrent_stun_server": "",
        # uTP on both sides moved 11 MB/s where TCP moved 312.
        "enable_outgoing_utp": False,
        "enable_incoming_utp": False,
        "mixed_mode_algorithm": 0,
        # The root proves content; obfuscation would cost time and protect nothing.
        "out_enc_policy": 2,
        "in_enc_policy": 2,
        # The tracker names one port: peers would not find a session on another.
        "max_retry_port_bind": 0,
        "listen_system_port_fallback": False,
        "unchoke_slots_limit": -1,
        "choking_algorithm": 0,
        "allowed_fast_set_size": 0,
        "connections_limit": 1000,
        "connection_speed": 200,
        "smooth_connects": False,
        "torrent_connect_boost": 50,
        # Nodes behind one address translation look like one address.
        "allow_multiple_connections_per_ip": True,
        # The period of libtorrent's regular work; the default of 500 ms costs 0.4 s with a small partition.
        "tick_interval": 100,
        # A peer that refuses us does not know us yet, and will within a second or two: retry soon, and often.
        "min_reconnect_time": 1,
        "max_failcount": 60,
        "peer_connect_timeout": 4,
        "handshake_timeout": 5,
        # Half-open peers: an unanswered request goes to another peer after so many seconds.
        "request_timeout": 10,
        "piece_timeout": 8,
        "peer_timeout": 30,
        "inactivity_timeout": 60,
        "aio_threads": 2,
        "hashing_threads": 1,
        "whole_pieces_threshold": 0,
        "prioritize_partial_pieces": True,
        "rate_limit_ip_overhead": False,
        "active_limit": 20_000,
        "active_downloads": -1,
        "active_seeds": -1,
        "file_pool_size": 500,
        "alert_queue_size": 10_000,
        "no_recheck_incomplete_resume": True,
        "enable_ip_notifier": False,
        "user_agent": "Partita",
    }
)

PROFILES: Mapping[EngineProfile, EngineSettings] = MappingProxyType(
    {
        EngineProfile.BULK: MappingProxyType(
            {
                "send_buffer_watermark": 4 << 20,
                "send_buffer_low_watermark": 512 << 10,
                "max_out_request_queue": 1500,
                "max_allowed_in_request_queue": 4000,
                "request_queue_time": 3,
            }
        ),
        EngineProfile.SWARM: MappingProxyType(
            {
                "send_buffer_watermark": 256 << 10,
                "send_buffer_low_watermark": 32 << 10,
                "max_out_request_queue": 64,
                "max_allowed_in_request_queue": 2000,
                "request_queue_time": 1,
            }
        ),
    }
)

CROWD = 2
"""The number of leechers that makes a swarm a crowd: they receive more from each other than from any seed."""


def choose_profile(complete: int, incomplete: int) -> EngineProfile:
    """Choose the profile for a swarm with so many complete and incomplete members, as the tracker reports.

    A crowd that has at least as many seeds as leechers needs no exchange between leechers: deep queues serve it best.
    """
    return EngineProfile.SWARM if incomplete >= CROWD and complete < incomplete else EngineProfile.BULK


def choose_common_profile(crowds: Iterable[tuple[int, int]]) -> EngineProfile:
    """Choose the profile for a session with several contents, by the (complete, incomplete) members of each swarm: shallow
    queues as soon as one has a crowd.
    """
    chosen = {choose_profile(*crowd) for crowd in crowds}
    return EngineProfile.SWARM if EngineProfile.SWARM in chosen else EngineProfile.BULK


def session_settings(
    profile: EngineProfile, listen: str, upload_limit: int, download_limit: int, name: str = ""
) -> dict[str, int | bool | str]:
    """Make all settings of a session.

    Args:
        profile: one of the two.
        listen: `ADDRESS:PORT` for connections.
        upload_limit: bytes per second to all peers together; 0 means no limit.
        download_limit: bytes per second from all peers together; 0 means no limit.
        name: our peer ID; empty for a new one for each connection.
    """
    return {
        **COMMON_SETTINGS,
        **PROFILES[profile],
        "listen_interfaces": listen,
        "upload_rate_limit": upload_limit,
        "download_rate_limit": download_limit,
        **({"peer_fingerprint": name} if name else {}),
    }
