"""Paths of Unix sockets: in the node's directory where the path is short enough, else in the runtime directory.

The path of a Unix socket has at most 107 bytes (unix(7)), and libvirt appends names to the directory that it is given.
"""

import hashlib
import os
from pathlib import Path

from catalog.errors import Misused

MAX_SOCKET = 107
"""Bytes in the path of a Unix socket: sun_path has 108, one of them a zero."""


def short_socket_path(directory: Path, name: str, max_bytes: int) -> Path:
    """`directory/name` if that has at most `max_bytes` bytes, else a path in the runtime directory that is unique to `directory`.

    The same directory always gives the same path, so that a process finds it again after a restart. Creates nothing.

    Raises:
        Misused: the path in the runtime directory is too long as well, or there is no such directory.
    """
    usual = directory.absolute() / name
    if len(bytes(usual)) <= max_bytes:
        return usual
    digest = hashlib.sha256(bytes(directory.absolute())).hexdigest()[:12]
    base = "/run" if os.geteuid() == 0 else os.environ.get("XDG_RUNTIME_DIR", "")
    place = Path(base) / "partita" / digest / name
    if not base or len(bytes(place)) > max_bytes:
        raise Misused(
            f"{usual}: the path has {len(bytes(usual))} bytes, more than the {max_bytes} of a socket; "
            "choose a shorter node.directory"
        )
    return place
