"""One content in the peer process: libtorrent's handle, and the state that has not been reported yet.

Handles, statuses and peer IDs are libtorrent's own; this module uses them without importing it (`stager.peer.process`
does).
"""

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from catalog.image.address import piece_length
from stager.content.peer_stats import PeerSample, PeerStats, PeerStatsRecorder
from stager.peer.protocol import ContentProgress, PiecesWritten

_WRITTEN = 3
"""`block_info::finished`: the block is on disk."""

GLANCE_SHARE = 0.01
"""The share of time for sampling the peers that send."""


@dataclass
class PeerTorrent:
    """One content in the session, and its unreported state.

    Attributes:
        broken: writing to its file failed.
        fresh: verified pieces that have not been reported.
        reported: the progress that was reported last.
        partial: (piece, leaves) on disk of unfinished pieces.
        flushing: flushes that libtorrent has not confirmed.
        finished: all pieces are verified, perhaps not written.
        sources: the sender of each block, by piece.
        fed: no more bytes are expected from peers.
        look_at, flush_at, glance_at: when to query blocks, to flush, and to sample peers next.
    """

    handle: Any
    path: Path
    complete: bool
    broken: bool = False
    fresh: list[int] = field(default_factory=list)
    reported: ContentProgress | None = None
    partial: tuple[tuple[int, tuple[int, ...]], ...] = ()
    look_at: float = 0.0
    flush_at: float = 0.0
    flushing: int = 0
    finished: bool = False
    sources: dict[int, dict[int, str]] = field(default_factory=dict)
    feeding: PeerStatsRecorder = field(default_factory=PeerStatsRecorder)
    feeders: tuple[PeerStats, ...] = ()
    fed: bool = False
    glance_at: float = 0.0

    def flush(self) -> None:
        """Have libtorrent write all received blocks; `cache_flushed_alert` confirms it."""
        if not self.complete:
            self.flushing += 1
            self.handle.flush_cache()

    def fed_by(self, status: Any) -> tuple[PeerStats, ...]:
        """Return bytes by peer, by libtorrent's status of the torrent; called only while bytes are expected."""
        if not status.total_payload_download:
            return ()
        self._sample()
        return self.feeding.stats(int(status.total_payload_download))

    def glance(self, now: float) -> None:
        """Sample the peers while pieces arrive: a peer may be connected for less than the time between two reports."""
        if not self.fed and now >= self.glance_at:
            began = time.monotonic()
            self._sample()
            self.glance_at = now + (time.monotonic() - began) / GLANCE_SHARE

    def _sample(self) -> None:
        seen = (
            PeerSample(name, endpoint_text(peer.ip), int(peer.total_download), int(peer.payload_down_speed))
            for peer in self.handle.get_peer_info()
            if (name := peer_name(peer.pid))
        )
        self.feeding.sample(seen)


def add_pieces(torrent: PeerTorrent, command: PiecesWritten) -> None:
    """Pass pieces that are in the file to libtorrent, which checks them and writes the same bytes once more."""
    length, size = piece_length(command.address.size), command.address.size
    with torrent.path.open("rb", buffering=0) as file:
        for piece in command.pieces:
            content = os.pread(file.fileno(), min(length, size - piece * length), piece * length)
            torrent.handle.add_piece(piece, content, 0)


def unfinished_pieces(handle: Any) -> list[tuple[int, tuple[int, ...]]]:
    """Return (piece, leaves) on disk of unfinished pieces."""
    found = []
    for piece in handle.get_download_queue():
        leaves = tuple(number for number, block in enumerate(piece["blocks"]) if int(block["state"]) == _WRITTEN)
        if leaves:
            found.append((int(piece["piece_index"]), leaves))
    return found


def peer_name(peer_id: Any) -> str:
    """Return a peer ID as text, without unprintable characters; empty if the peer has not sent it yet."""
    return "".join(chr(byte) for byte in peer_id.to_bytes() if 0x20 < byte < 0x7F)


def endpoint_text(endpoint: tuple[str, int]) -> str:
    ip, port = endpoint
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"
