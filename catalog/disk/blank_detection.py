"""Detection of partitions that a recipe of a few bytes can make again: swap, and filesystems that were never used.

The decision is made on the bytes alone, without tools or mounting. A filesystem counts as freshly made when it was never
mounted and its root directory is as mkfs left it; in any doubt the partition is content. The filesystem's UUID is not
kept: guests find a blank by partition UUID or label.

Sources: mkswap(8) and Linux include/linux/swap.h; Linux Documentation/filesystems/ext4; Microsoft FAT specification
(fatgen103); XFS Algorithms & Data Structures, 3rd edition.
"""

import struct

from pydantic import ValidationError

from catalog.disk.gpt import ReadAt
from catalog.image.manifest import Blank

PAGE = 4096
"""Bytes of a memory page, which determines the position of a swap signature: 4096 on all supported architectures."""

MAX_FAT = 128 << 20
"""Bytes of one file allocation table that are read: the largest FAT32 of 32 KiB clusters takes less."""

_DIRECTORY_755 = 0o040755


def detect_blank(read: ReadAt, size: int) -> Blank | None:
    """The recipe that makes such a partition again, or None if it is content.

    Args:
        read: reads the partition.
        size: its size in bytes.
    """

    def inside(offset: int, length: int) -> bytes:
        """Read within the partition only: offsets come from its own bytes, and may be arbitrary."""
        return read(offset, min(length, size - offset)) if 0 <= offset < size and length > 0 else b""

    for kind in (_swap, _ext4, _xfs, _vfat):
        try:
            found = kind(inside, size)
        except (struct.error, IndexError, ZeroDivisionError):  # truncated, or an invalid field: not freshly made
            continue
        if found is not None:
            try:
                return Blank(size=size, filesystem=found[0], label=found[1])  # type: ignore[arg-type]
            except ValidationError:  # a label or size that no recipe may have: the partition stays content
                return None
    return None


def _swap(read: ReadAt, size: int) -> tuple[str, str] | None:
    page = read(0, PAGE)
    if page[PAGE - 10 :] != b"SWAPSPACE2":
        return None
    version, last_page, bad_pages = struct.unpack_from("<III", page, 1024)
    if version != 1 or bad_pages or not 0 < last_page < size // PAGE:
        return None
    return "swap", _text(page[1052:1068])


_EXT4_INCOMPAT = 0x2 | 0x40 | 0x80 | 0x200 | 0x2000
"""filetype, extents, 64bit, flex_bg, metadata_csum_seed: what mke2fs sets by default."""
_HAS_JOURNAL, _ORPHAN_FILE = 0x4, 0x1000
_EXTENTS = 0x40


def _ext4(read: ReadAt, size: int) -> tuple[str, str] | None:
    super_block = read(1024, 1024)
    (magic,) = struct.unpack_from("<H", super_block, 56)
    if magic != 0xEF53:
        return None
    inodes, blocks, _, _, free_inodes, first_block, log_size = struct.unpack_from("<7I", super_block)
    mounted_at, _, mounts = struct.unpack_from("<IIH", super_block, 44)
    state, first_inode, inode_size = (
        struct.unpack_from(f, super_block, at)[0] for f, at in (("<H", 58), ("<I", 84), ("<H", 88))
    )
    compat, incompat = struct.unpack_from("<II", super_block, 92)
    own = first_inode + (1 if compat & _ORPHAN_FILE else 0)
    plain = compat & _HAS_JOURNAL and incompat & _EXTENTS and not incompat & ~_EXT4_INCOMPAT
    if not plain or mounted_at or mounts or state != 1 or inodes - free_inodes != own or log_size > 6:
        return None
    block_size = 1024 << log_size
    if blocks * block_size > size:
        return None
    (wide,) = struct.unpack_from("<H", super_block, 254)
    group = read((first_block + 1) * block_size, 64)
    (table,) = struct.unpack_from("<I", group, 8)
    if incompat & 0x80 and wide >= 64:
        table |= struct.unpack_from("<I", group, 0x28)[0] << 32
    inode = read(table * block_size + inode_size, 128)  # inode 2, the root directory
    mode, owner, _ = struct.unpack_from("<HHI", inode)
    owners = owner, struct.unpack_from("<H", inode, 24)[0], struct.unpack_from("<I", inode, 104)[0]
    extent_magic, entries, _, depth = struct.unpack_from("<4H", inode, 40)
    if mode != _DIRECTORY_755 or any(owners) or (extent_magic, entries, depth) != (0xF30A, 1, 0):
        return None
    _, _, high, low = struct.unpack_from("<IHHI", inode, 52)
    names = _ext4_names(read((high << 32 | low) * block_size, block_size))
    return ("ext4", _text(super_block[120:136])) if names == {b".", b"..", b"lost+found"} else None


def _ext4_names(block: bytes) -> set[bytes]:
    names, at = set(), 0
    while at + 8 <= len(block):
        inode, length, name_length = struct.unpack_from("<IHB", block, at)
        if inode:
            names.add(block[at + 8 : at + 8 + name_length])
        if length < 8:
            break
        at += length
    return names


def _xfs(read: ReadAt, size: int) -> tuple[str, str] | None:
    sector = read(0, 512)
    if not sector.startswith(b"XFSB"):
        return None
    block_size, blocks = struct.unpack_from(">IQ", sector, 4)
    log_start, root_inode = struct.unpack_from(">QQ", sector, 48)
    group_blocks, _, _, log_blocks = struct.unpack_from(">4I", sector, 84)
    (inode_size,) = struct.unpack_from(">H", sector, 104)
    per_block_log, group_log = sector[123], sector[124]
    inodes, free_inodes = struct.unpack_from(">QQ", sector, 128)
    # mkfs uses three inodes: root directory, realtime bitmap and realtime summary.
    if inodes - free_inodes != 3 or blocks * block_size > size or not log_start:
        return None

    def position(block: int) -> int:
        return int(((block >> group_log) * group_blocks + (block & ((1 << group_log) - 1))) * block_size)

    index = root_inode & ((1 << per_block_log) - 1)
    inode = read(position(root_inode >> per_block_log) + index * inode_size, 256)
    magic, mode, version, kind, _, uid, gid, links = struct.unpack_from(">2sHBBHIII", inode)
    if (magic, mode, version, kind, uid, gid, links) != (b"IN", _DIRECTORY_755, 3, 1, 0, 0, 2):
        return None
    entries, has_attributes = inode[176], inode[82]
    # A used journal may hold files that the superblock does not count yet; mkfs leaves one record in it.
    used = _any(read, position(log_start) + PAGE, log_blocks * block_size - PAGE)
    return None if entries or has_attributes or used else ("xfs", _text(sector[108:120]))


def _vfat(read: ReadAt, size: int) -> tuple[str, str] | None:
    sector = read(0, 512)
    if sector[510:] != b"\x55\xaa" or sector[0] not in (0xEB, 0xE9):
        return None
    sector_size, per_cluster, reserved, fats, roots, small = struct.unpack_from("<HBHBHH", sector, 11)
    (fat_sectors,) = struct.unpack_from("<H", sector, 22)
    (large,) = struct.unpack_from("<I", sector, 32)
    wide = fat_sectors == 0
    if wide:
        (fat_sectors,) = struct.unpack_from("<I", sector, 36)
    if sector_size not in (512, 1024, 2048, 4096) or fats not in (1, 2) or not per_cluster or not reserved:
        return None
    fat_size = fat_sectors * sector_size
    if (small or large) * sector_size > size or not 0 < fat_size <= MAX_FAT:
        return None
    fat, root = reserved * sector_size, (reserved + fats * fat_sectors) * sector_size
    if wide:
        (cluster,) = struct.unpack_from("<I", sector, 44)
        if cluster != 2 or sector[82:90] != b"FAT32   ":
            return None
        used, length = 12, per_cluster * sector_size  # entries 0 and 1, and the root directory's only cluster
    elif sector[54:59] in (b"FAT12", b"FAT16"):
        used, length = (3 if sector[54:59] == b"FAT12" else 4), roots * 32
    else:
        return None
    if _any(read, fat + used, fat_size - used):
        return None
    label = ""
    for at in range(0, length, 32):
        entry = read(root + at, 32)
        if not entry[0]:
            break
        if entry[11] != 0x08 or label:  # anything but one volume label is a file, or was one
            return None
        label = _text(entry[:11].rstrip(b" "))
    return "vfat", label


def _any(read: ReadAt, offset: int, length: int) -> bool:
    """Whether a range holds anything but zeros."""
    step = 1 << 20
    return any(any(read(at, min(step, offset + length - at))) for at in range(offset, offset + length, step))


def _text(raw: bytes) -> str:
    """A label; bytes that are not ASCII become a character that no recipe may have."""
    return raw.partition(b"\0")[0].decode("ascii", "replace")
