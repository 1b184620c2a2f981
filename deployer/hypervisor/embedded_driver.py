"""The directory of a libvirt driver inside this process: what has to stand in it, and what must not."""

import os
import re
from pathlib import Path

from deployer.errors import BackendFailed

MAX_ROOT = 50
"""Bytes in the path of an embedded root. libvirt puts a socket at lib/qemu/domain-<id>-<20 bytes of name>/monitor.sock
beneath it, and the path of a Unix socket has at most 107 (unix(7)). Sockets of guests' agents would get longer ones:
those go to agents/<uuid> instead."""

QEMU_CONF = """\
# Written by partita node at every start.
# Files are made by this node for its own machines: libvirt must not change or remember their owners.
user = "{user}"
group = "{group}"
dynamic_ownership = 0
remember_owner = 0
# An embedded driver runs without virtlogd: QEMU writes its own log.
stdio_handler = "file"
"""

_UNBORN = re.compile(rb"<domstatus [^>]*\bpid='0'")
"""In libvirt's own record of a domain: no emulator yet. Its number is written there before it may begin."""


def prepare_root(root: Path) -> None:
    """Make the directory, or mend what a killed process left of it; BackendFailed where its path is too long."""
    if len(bytes(root)) > MAX_ROOT:
        raise BackendFailed(
            f"{root}: has {len(bytes(root))} bytes and libvirt's sockets beneath it allow {MAX_ROOT}; "
            "choose a shorter node.directory"
        )
    (root / "etc").mkdir(parents=True, exist_ok=True)
    user = "root" if os.geteuid() == 0 else str(os.geteuid())
    group = "root" if os.geteuid() == 0 else str(os.getegid())
    (root / "etc" / "qemu.conf").write_text(QEMU_CONF.format(user=user, group=group))
    (root / "agents").mkdir(mode=0o700, exist_ok=True)
    _forget_unborn(root / "run" / "qemu")


def _forget_unborn(place: Path) -> None:
    """Remove the files of domains that a killed process was about to start, before there was an emulator.

    libvirt 9.0 loads such a domain and never looks at it again: it seems to run, and a call to end it waits for a
    lock that is never released.
    """
    for file in place.glob("*.xml"):
        if _UNBORN.search(file.read_bytes()[:4096]):
            file.unlink()
