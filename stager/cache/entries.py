"""What the cache holds, as values: keys, entries, leases; and the cheap proof that an entry is still the one verified.

A key is how the ledger and the directory call a thing: the address of content, or `blank-` and the digest of a recipe.
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
"""What can be asked of a cache."""

CacheKey = str

MAKER = 1
"""Counts the changes to how blanks are made (`stager.content.blanks`): a new way must not find what the old one left."""

SAMPLE_LEAVES = 62
"""Leaves sampled besides the first and the last: with them, 1 MiB is read whatever the size of the entry."""


def cache_key(wanted: CacheItem) -> CacheKey:
    """The key of content or of a blank."""
    return str(wanted) if isinstance(wanted, Address) else blank_key(wanted)


def blank_key(blank: Blank) -> CacheKey:
    """The key of a blank: equal recipes, equal keys."""
    return "blank-" + hashlib.sha256(canonical(blank) + b"\0%d" % MAKER).hexdigest()


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """A verified file in the cache.

    Attributes:
        key: what it is.
        what: the same for people: an address, or the recipe of a blank.
        size: bytes.
        data_bytes: bytes in leaves that are not zero: what a transfer would have to move.
        allocated: bytes that it takes on the disk.
        inode, mtime_ns, sample: what it was when it was verified.
        digest: of a blank, :func:`stager.content.blanks.blank_digest` its bytes; of content empty, for its key has the root.
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
    """An entry that has left and whose file is still there.

    Attributes:
        name: of the file in `trash/`: the key, or for what was found wrong `wrong-` and the key.
        since: when it left, in seconds since the epoch.
        reason: why, for people.
    """

    name: str
    entry: CacheEntry
    since: float
    reason: str


FOREVER = 253_402_300_799.0
"""The end of a pin's lease: the last second of the year 9999."""

PIN = "pin:"
"""Holders that begin so are pins; the image ID follows."""


@dataclass(frozen=True, slots=True)
class CacheLease:
    """A holder's claim on an entry (or on what is about to become one) until an instant, in seconds since the epoch."""

    holder: str
    key: CacheKey
    expires_at: float


@dataclass(frozen=True, slots=True)
class AcquireResult:
    """The answer to "I need these": leased are all; `fresh` are those that the holder had no lease on before."""

    present: tuple[CacheItem, ...]
    missing: tuple[CacheItem, ...]
    fresh: tuple[CacheItem, ...]


@dataclass(frozen=True, slots=True)
class CacheUsage:
    """Bytes: the quota, what entries take, what is reserved for entries to come, what of the entries is leased, and what
    lies in the trash."""

    quota: int
    allocated: int
    reserved: int
    leased: int
    trash: int = 0


def sample_offsets(key: CacheKey, size: int) -> tuple[int, ...]:
    """Where an entry is sampled, in bytes: first leaf, last leaf, and places that follow from its key."""
    leaves = -(-size // LEAF)
    seeds = (hashlib.sha256(f"{key} {number}".encode()).digest() for number in range(SAMPLE_LEAVES))
    chosen = {0, leaves - 1} | {int.from_bytes(seed[:8], "big") % leaves for seed in seeds}
    return tuple(leaf * LEAF for leaf in sorted(chosen))


def sample(descriptor: int, key: CacheKey, size: int) -> bytes:
    """XXH3-128 over the sampled leaves of an open file. It finds accidents and careless hands, not an attacker."""
    digest = xxhash.xxh3_128()
    for offset in sample_offsets(key, size):
        digest.update(os.pread(descriptor, min(LEAF, size - offset), offset))
    return bytes(digest.digest())


def find_difference(descriptor: int, entry: CacheEntry) -> str | None:
    """Why an open file is not the one that was verified, or None if it seems to be: size, inode, mtime, sample."""
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        return "is no regular file"
    if found.st_size != entry.size:
        return f"has {found.st_size} bytes instead of {entry.size}"
    if found.st_ino != entry.inode:
        return "has been replaced by another file"
    if found.st_mtime_ns != entry.mtime_ns:
        return "has been written to"
    if sample(descriptor, entry.key, entry.size) != entry.sample:
        return "has other bytes than when it was verified"
    return None


@dataclass(frozen=True)
class Donor:
    """A cached content: its address and its file."""

    address: Address
    path: Path
