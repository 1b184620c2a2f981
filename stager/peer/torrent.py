"""One content in the peer process: libtorrent's handle, and what of it has not been said yet.

Handles, statuses and peer IDs are libtorrent's own; this module asks them and does not import it (`stager.peer.process` does).
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
"""Of the time, what may go into seeing who sends."""


@dataclass
class PeerTorrent:
    """One content in the session, and what of it has not been said yet."""

    handle: Any
    path: Path
    complete: bool
    broken: bool = False
    fresh: list[int] = field(default_factory=list)
    said: ContentProgress | None = None
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
        """Have everything written that has come; `cache_flushed_alert` answers."""
        if not self.complete:
            self.flushing += 1
            self.handle.flush_cache()

    def fed_by(self, status: Any) -> tuple[PeerStats, ...]:
        """Who has sent what, by libtorrent's status of the torrent; asked for only while something is to come."""
        if not status.total_payload_download:
            return ()
        self._look()
        return self.feeding.told(int(status.total_payload_download))

    def glance(self, now: float) -> None:
        """See who sends while pieces come: a peer may be here for less than the time between two looks at everything."""
        if not self.fed and now >= self.glance_at:
            began = time.monotonic()
            self._look()
            self.glance_at = now + (time.monotonic() - began) / GLANCE_SHARE

    def _look(self) -> None:
        seen = (
            PeerSample(name, endpoint_text(peer.ip), int(peer.total_download), int(peer.payload_down_speed))
            for peer in self.handle.get_peer_info()
            if (name := peer_name(peer.pid))
        )
        self.feeding.look(seen)


def add_pieces(torrent: PeerTorrent, order: PiecesWritten) -> None:
    """Hand pieces that are in the file to libtorrent, which checks them and writes the same bytes once more."""
    length, size = piece_length(order.address.size), order.address.size
    with torrent.path.open("rb", buffering=0) as file:
        for piece in order.pieces:
            content = os.pread(file.fileno(), min(length, size - piece * length), piece * length)
            torrent.handle.add_piece(piece, content, 0)


def unfinished_pieces(handle: Any) -> list[tuple[int, tuple[int, ...]]]:
    """What is on disk of unfinished pieces."""
    found = []
    for piece in handle.get_download_queue():
        leaves = tuple(number for number, block in enumerate(piece["blocks"]) if int(block["state"]) == _WRITTEN)
        if leaves:
            found.append((int(piece["piece_index"]), leaves))
    return found


def peer_name(peer_id: Any) -> str:
    """A peer ID as text, without what cannot be printed; empty for one that has not said it yet."""
    return "".join(chr(byte) for byte in peer_id.to_bytes() if 0x20 < byte < 0x7F)


def endpoint_text(endpoint: tuple[str, int]) -> str:
    ip, port = endpoint
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"
