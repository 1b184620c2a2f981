"""Where sockets go: into the node's directory where the path is short enough, else into the runtime directory.

The path of a Unix socket has at most 107 bytes (unix(7)), and libvirt puts more below the directory that it is given.
"""

import hashlib
import os
from pathlib import Path

from catalog.errors import Misused

MAX_SOCKET = 107
"""Bytes in the path of a Unix socket: sun_path has 108, one of them a zero."""


def short_socket_path(directory: Path, name: str, room: int) -> Path:
    """`directory/name` if that has at most `room` bytes, else a place of its own for this directory in the runtime one.

    The same directory always gives the same place, so that whoever comes back finds what was left there. Nothing is made.

    Raises:
        Misused: there is no runtime directory that is short enough.
    """
    usual = directory.absolute() / name
    if len(bytes(usual)) <= room:
        return usual
    digest = hashlib.sha256(bytes(directory.absolute())).hexdigest()[:12]
    base = "/run" if os.geteuid() == 0 else os.environ.get("XDG_RUNTIME_DIR", "")
    place = Path(base) / "partita" / digest / name
    if not base or len(bytes(place)) > room:
        raise Misused(
            f"{usual}: has {len(bytes(usual))} bytes and the sockets there allow {room}; choose a shorter node.directory"
        )
    return place
