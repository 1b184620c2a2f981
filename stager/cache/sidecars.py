"""Sidecar files of cached contents in `beside/`: the piece layer, the hints, and the journal of a transfer.

Layer and hints follow from the content and are made while it is read back. The layer is proved by the root, so a node can
share the content at once after a start; hints find blocks for other contents, and wrong ones only cost time. So they are
not made durable, and missing ones are made again when the whole content is next read.
"""

import contextlib
import mmap
import sys
from array import array
from pathlib import Path

from catalog.content.indexing import HINT_BLOCK
from catalog.image.address import Address, layer_root
from stager.cache.disk import DiskOperations
from stager.cache.entries import CacheKey
from stager.content.block_matching import Hints

SIDECARS = "beside"
LAYER, HINTS, JOURNAL = ".layer", ".hints", ".journal"


def write_sidecars(disk: DiskOperations, root: Path, key: CacheKey, layer: bytes, hints: bytes) -> None:
    """Write layer and hints; on a full disk or another error they are left out."""
    with contextlib.suppress(OSError):
        disk.put(root / SIDECARS / (key + LAYER), layer)
        disk.put(root / SIDECARS / (key + HINTS), hints)


def remove_sidecars(disk: DiskOperations, root: Path, key: CacheKey) -> None:
    """Remove layer, hints and journal."""
    for suffix in (LAYER, HINTS, JOURNAL):
        disk.remove(root / SIDECARS / (key + suffix))


def key_of_file(name: str) -> CacheKey:
    """Return the key of a sidecar file."""
    key, _, suffix = name.rpartition(".")
    return key if "." + suffix in (LAYER, HINTS, JOURNAL) else ""


def journal_path(root: Path, key: CacheKey) -> Path:
    """Return the path of a transfer's journal."""
    return root / SIDECARS / (key + JOURNAL)


def read_layer(root: Path, address: Address) -> bytes | None:
    """Read the piece layer, proved by the root; None if it is missing or wrong."""
    try:
        found = (root / SIDECARS / (str(address) + LAYER)).read_bytes()
        return found if layer_root(found, address.size) == address.root else None
    except (OSError, ValueError):
        return None


def read_hints(root: Path, address: Address) -> Hints:
    """Read the hints of all whole blocks; empty if they are missing."""
    try:
        with (root / SIDECARS / (str(address) + HINTS)).open("rb") as file:
            if file.seek(0, 2) != 8 * -(-address.size // HINT_BLOCK):
                return ()
            return decode_hints(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), address.size)
    except (OSError, ValueError):
        return ()


def decode_hints(stored: bytes | mmap.mmap, size: int) -> Hints:
    """Decode hints to numbers, without that of a short last block, which would match at any offset of another content."""
    whole = size // HINT_BLOCK
    if sys.byteorder == "big":
        numbers = array("Q", bytes(stored))
        numbers.byteswap()
        return numbers[:whole]
    return memoryview(stored).cast("Q")[:whole]
