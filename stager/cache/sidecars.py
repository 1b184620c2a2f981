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
from catalog.image.address import Address, root_of_layer
from stager.cache.disk import Disk
from stager.cache.entries import Key
from stager.content.block_matching import Hints

BESIDE = "beside"
LAYER, HINTS, JOURNAL = ".layer", ".hints", ".journal"


def keep(disk: Disk, root: Path, key: Key, layer: bytes, hints: bytes) -> None:
    """Keep both; a full disk or another fault leaves them away."""
    with contextlib.suppress(OSError):
        disk.put(root / BESIDE / (key + LAYER), layer)
        disk.put(root / BESIDE / (key + HINTS), hints)


def forget(disk: Disk, root: Path, key: Key) -> None:
    """Remove both, and the journal of a transfer."""
    for suffix in (LAYER, HINTS, JOURNAL):
        disk.remove(root / BESIDE / (key + suffix))


def key_of(name: str) -> Key:
    """The key to which a file there belongs."""
    key, _, suffix = name.rpartition(".")
    return key if "." + suffix in (LAYER, HINTS, JOURNAL) else ""


def journal(root: Path, key: Key) -> Path:
    """Where the state of a transfer is kept."""
    return root / BESIDE / (key + JOURNAL)


def layer(root: Path, address: Address) -> bytes | None:
    """The piece layer, proved against the root; None when it is not there or not right."""
    try:
        found = (root / BESIDE / (str(address) + LAYER)).read_bytes()
        return found if root_of_layer(found, address.size) == address.root else None
    except (OSError, ValueError):
        return None


def hints(root: Path, address: Address) -> Hints:
    """The hints of all whole blocks; none when they are not there."""
    try:
        with (root / BESIDE / (str(address) + HINTS)).open("rb") as file:
            if file.seek(0, 2) != 8 * -(-address.size // HINT_BLOCK):
                return ()
            return as_numbers(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), address.size)
    except (OSError, ValueError):
        return ()


def as_numbers(stored: bytes | mmap.mmap, size: int) -> Hints:
    """Hints as numbers, without that of a short block at the end: it could stand anywhere in another content."""
    whole = size // HINT_BLOCK
    if sys.byteorder == "big":
        numbers = array("Q", bytes(stored))
        numbers.byteswap()
        return numbers[:whole]
    return memoryview(stored).cast("Q")[:whole]
