"""The cache's items as values: keys, entries, leases; and the cheap check that an entry is still the file verified.

A key names an item in the index and the directory: the address of a content, or `blank-` and the digest of a recipe.
"""

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

import xxhash

from catalog.image.address import LEAF, Address
from catalog.image.manifest import Blank
from signer.documents import canonical

CacheItem = Address | Blank
"""An item of the cache: a content or a blank."""

CacheKey = str

MAKER = 1
"""The version of how blanks are made (`catalog.image.blanks`): a new version must not find blanks of an old one."""

SAMPLE_LEAVES = 62
"""Leaves sampled besides the first and the last: with them, 1 MiB is read whatever the size of the entry."""


def cache_key(wanted: CacheItem | CacheKey) -> CacheKey:
    """Return the key of a content or a blank; a key stands for itself."""
    return blank_key(wanted) if isinstance(wanted, Blank) else str(wanted)


def blank_key(blank: Blank) -> CacheKey:
    """Return the key of a blank: equal recipes have equal keys."""
    return "blank-" + hashlib.sha256(canonical(blank) + b"\0%d" % MAKER).hexdigest()


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """A verified file in the cache.

    Attributes:
        key: its name in the cache.
        what: the item for people: an address, or the recipe of a blank.
        size: bytes.
        data_bytes: bytes in leaves that are not zero, which a transfer would have to move.
        allocated: bytes that it allocates on the disk.
        inode, mtime_ns, sample: the file's state when it was verified.
        digest: :func:`catalog.image.blanks.blank_digest` of a blank; empty for a content, whose key contains the root.
        verified_at, last_used: seconds since the epoch.
    """

    key: CacheKey
    what: str
    size: int
    data_bytes: int
    allocated: int
    inode: int
    mtime_ns: int
    sample: bytes
    digest: bytes
    verified_at: float
    last_used: float


@dataclass(frozen=True, slots=True)
class TrashedEntry:
    """A removed entry whose file is still in the trash.

    Attributes:
        name: of the file in `trash/`: the key, or `wrong-` and the key if the entry failed a check.
        since: when it was removed, in seconds since the epoch.
        reason: why, for people.
    """

    name: str
    entry: CacheEntry
    since: float
    reason: str


FOREVER = 253_402_300_799.0
"""The end of a pin's lease: the last second of the year 9999."""

PIN = "pin:"
"""Prefix of holders that are pins; the image ID follows."""


@dataclass(frozen=True, slots=True)
class CacheLease:
    """A holder's claim on an entry, present or to come, until an instant in seconds since the epoch."""

    holder: str
    key: CacheKey
    expires_at: float


@dataclass(frozen=True, slots=True)
class AcquireResult:
    """The result of leasing items: all are leased; on `fresh` ones the holder had no lease before."""

    present: tuple[CacheItem, ...]
    missing: tuple[CacheItem, ...]
    fresh: tuple[CacheItem, ...]


@dataclass(frozen=True, slots=True)
class CacheUsage:
    """Bytes: the quota, those that entries allocate, those reserved for entries to come, those of leased entries, and
    those in the trash."""

    quota: int
    allocated: int
    reserved: int
    leased: int
    trash: int = 0


def sample_offsets(key: CacheKey, size: int) -> tuple[int, ...]:
    """Return the offsets at which an entry is sampled, in bytes: first leaf, last leaf, and others that depend on its key."""
    leaves = -(-size // LEAF)
    seeds = (hashlib.sha256(f"{key} {number}".encode()).digest() for number in range(SAMPLE_LEAVES))
    chosen = {0, leaves - 1} | {int.from_bytes(seed[:8], "big") % leaves for seed in seeds}
    return tuple(leaf * LEAF for leaf in sorted(chosen))


def sample(descriptor: int, key: CacheKey, size: int) -> bytes:
    """Compute XXH3-128 over the sampled leaves of an open file. It detects accidents and careless changes, not attacks."""
    digest = xxhash.xxh3_128()
    for offset in sample_offsets(key, size):
        digest.update(os.pread(descriptor, min(LEAF, size - offset), offset))
    return bytes(digest.digest())


def find_difference(descriptor: int, entry: CacheEntry) -> str | None:
    """Say why an open file is not the one that was verified (size, inode, mtime, sample); None if it seems to be."""
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        return "is not a regular file"
    if found.st_size != entry.size:
        return f"has {found.st_size} bytes instead of {entry.size}"
    if found.st_ino != entry.inode:
        return "has been replaced by another file"
    if found.st_mtime_ns != entry.mtime_ns:
        return "has been written to"
    if sample(descriptor, entry.key, entry.size) != entry.sample:
        return "has other bytes"
    return None


@dataclass(frozen=True)
class Donor:
    """A cached content: its address and its file."""

    address: Address
    path: Path
