"""How a node takes part in swarms: what its operator may set."""

from dataclasses import dataclass
from pathlib import Path

MEMORY = 1 << 30
"""Bytes that the peer process may hold. It holds 40 MB, and 100 MB of blocks that wait for the disk."""


@dataclass(frozen=True)
class SwarmOptions:
    """How a node takes part.

    Attributes:
        listen: `ADDRESS:PORT` for peers; port 0 takes a free one. All addresses by default: peers come from other hosts,
            and only those that the tracker named are let in.
        upload_limit, download_limit: bytes per second over all contents; 0 is no limit.
        memory: bytes that the peer process may hold.
        log: where the peer process's complaints go; None is our standard error.
        name: what we call ourselves to peers: a peer ID, 20 printable characters; empty for a new one at each connection.
    """

    listen: str = "0.0.0.0:0"
    upload_limit: int = 0
    download_limit: int = 0
    memory: int = MEMORY
    log: Path | None = None
    name: str = ""
