"""What the cache keeps beside each content: its piece layer and its hints, in `beside/`.

Both follow from the content and were made while it was read back. The layer proves itself against the root, so it lets a
node share content at once after a start; hints find blocks for other contents, and cost time alone when they are wrong. So
nothing here is made durable, and what is missing is made again when the content is next read as a whole.
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
    """Keep both; a full disk or another fault leaves them away."""
    with contextlib.suppress(OSError):
        disk.put(root / SIDECARS / (key + LAYER), layer)
        disk.put(root / SIDECARS / (key + HINTS), hints)


def remove_sidecars(disk: DiskOperations, root: Path, key: CacheKey) -> None:
    """Remove both, and the journal of a transfer."""
    for suffix in (LAYER, HINTS, JOURNAL):
        disk.remove(root / SIDECARS / (key + suffix))


def key_of_file(name: str) -> CacheKey:
    """The key to which a file there belongs."""
    key, _, suffix = name.rpartition(".")
    return key if "." + suffix in (LAYER, HINTS, JOURNAL) else ""


def journal_path(root: Path, key: CacheKey) -> Path:
    """Where the state of a transfer is kept."""
    return root / SIDECARS / (key + JOURNAL)


def read_layer(root: Path, address: Address) -> bytes | None:
    """The piece layer, proved against the root; None when it is not there or not right."""
    try:
        found = (root / SIDECARS / (str(address) + LAYER)).read_bytes()
        return found if layer_root(found, address.size) == address.root else None
    except (OSError, ValueError):
        return None


def read_hints(root: Path, address: Address) -> Hints:
    """The hints of all whole blocks; none when they are not there."""
    try:
        with (root / SIDECARS / (str(address) + HINTS)).open("rb") as file:
            if file.seek(0, 2) != 8 * -(-address.size // HINT_BLOCK):
                return ()
            return decode_hints(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), address.size)
    except (OSError, ValueError):
        return ()


def decode_hints(stored: bytes | mmap.mmap, size: int) -> Hints:
    """Hints as numbers, without that of a short block at the end: it could stand anywhere in another content."""
    whole = size // HINT_BLOCK
    if sys.byteorder == "big":
        numbers = array("Q", bytes(stored))
        numbers.byteswap()
        return numbers[:whole]
    return memoryview(stored).cast("Q")[:whole]
