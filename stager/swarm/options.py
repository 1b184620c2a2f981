"""The options of a node's part in swarms."""

from dataclasses import dataclass
from pathlib import Path

MEMORY = 1 << 30
"""Bytes of memory that the peer process may use. It uses 40 MB, and 100 MB for blocks that wait for the disk."""


@dataclass(frozen=True)
class SwarmOptions:
    """A node's part in swarms.

    Attributes:
        listen: `ADDRESS:PORT` for peers; port 0 takes a free one. All addresses by default: peers are on other hosts, and
            only those that the tracker named may connect.
        upload_limit, download_limit: bytes per second over all contents; 0 is no limit.
        memory: bytes of memory that the peer process may use.
        log: file for the peer process's standard error; None for that of this process.
        name: our peer ID, 20 printable characters; empty for a new one at each connection.
    """

    listen: str = "0.0.0.0:0"
    upload_limit: int = 0
    download_limit: int = 0
    memory: int = MEMORY
    log: Path | None = None
    name: str = ""
