"""A guest that boots in a second: 208 bytes of boot code on a GPT disk assembled from partitions.

It says on the serial port what the first sector of the first partition holds (so the assembly is right), writes a sector
of that partition and reads it back (so writes go somewhere), then halts until its power button is pressed, and powers off.
"""

import base64
from pathlib import Path
from typing import Any

from catalog.content.indexing import index_file
from catalog.image.address import Address
from catalog.image.bundle import Bundle
from catalog.image.manifest import MANIFEST_TYPE, Manifest
from signer.documents import validate
from tests.support.factories import content

MIB = 1 << 20

# 16-bit, at 0x7c00, AT&T syntax (as --32, objcopy -O binary):
#   xor ax,ax; ds = es = ss = ax; sp = 0x7c00; keep dl as the drive
#   print "boot sector guest"; int 13h/42h: LBA 2048 to 0x8000; print 0x8000
#   [0x8000] = 'W'; int 13h/43h: 0x8000 to LBA 4095; [0x8000] = 0; int 13h/42h: back again; print 0x8000
#   PM1_EN (0x602) = power button; sti; hlt until PM1_STS (0x600) says that it was pressed
#   print "powering off"; PM1_CNT (0x604) = sleep type 0, enable
BOOT_CODE = bytes.fromhex(
    "31c08ed88ec08ed0bc007cfc88168e7cbe8f7ce86000b442e84900be0080e85500c606008057c706c87cff0fb80043e83200c606008000b442e8"
    "2800be0080e83400ba0206b80001effbf4ba0006edf6c40174f6bea37ce81c00ba0406b80020eff4ebfdbec07c8a168e7ccd137306beb27ce801"
    "00c3ac84c0741288c3bafd03eca82074f888d8baf803eeebe9c300626f6f7420736563746f722067756573740d0a00706f776572696e67206f66"
    "660d0a004449534b204552524f520d0a009010000100008000000008000000000000"
)

# 16-bit, too: [0x8000] = 0; sti; then for ever: [0x8000] += 1; print it as eight hex digits and a line feed; hlt; hlt
# (the BIOS's timer wakes it up, 18 times a second). It never looks at its disk again, and has its count in memory alone.
COUNTING_CODE = bytes.fromhex(
    "31c08ed88ec08ed0bc007c66c706008000000000fb66ff060080b90800668b1e008066c1c30488d8240f04303c3a72020427bafd0388c4eca82074"
    "fb88e0baf803eee2deb00abaf803eef4f4ebc7"
)
GREETING = b"content of the first partition\r\n"
SAID = (b"boot sector guest", b"content of the first partition", b"Wontent of the first partition")
GOODBYE = b"powering off"


def _partition(number: int, offset: int, source: dict[str, Any], access: str = "copy-on-write") -> dict[str, Any]:
    return {
        "label": f"part{number}",
        "type": "linux-generic",
        "uuid": f"00000000-0000-4000-8000-{number:012x}",
        "access": access,
        "number": number,
        "offset": offset,
        **source,
    }


def _bare(label: str, number: int, source: dict[str, Any], access: str) -> dict[str, Any]:
    part = _partition(number, 0, source, access)
    del part["number"], part["offset"]
    return {"table": "none", "partition": part | {"label": label}}


def _blob(root: Path, size: int, seed: int, beginning: bytes = b"") -> Address:
    fresh = root / "blobs" / "fresh"
    content(fresh, size, seed=seed)
    with fresh.open("r+b") as file:
        file.write(beginning)
    address = index_file(fresh).address
    fresh.rename(root / "blobs" / str(address))
    return address


def boot_sector_image(
    root: Path,
    *,
    vo: str = "star",
    name: str = "hello",
    version: str = "1.0",
    seed: int = 1,
    size: int = 4 * MIB,
    boot_code: bytes = BOOT_CODE,
) -> Bundle:
    """An image directory: a GPT disk of two contents and a blank, a bare read-only content, a bare blank."""
    (root / "blobs").mkdir(parents=True)
    first = _blob(root, size, seed, GREETING + b"\0")
    second = _blob(root, MIB, seed + 1)
    data = _blob(root, 2 * MIB, seed + 2)
    gap = _blob(root, 16 << 10, seed + 3)
    end = MIB + size
    disk = {
        "table": "gpt",
        "uuid": "11111111-1111-4111-8111-111111111111",
        "size": end + 12 * MIB,
        "first_lba": 34,
        "last_lba": (end + 12 * MIB) // 512 - 34,
        "boot_code": base64.b64encode(boot_code.ljust(440, b"\0")).decode(),
        "gaps": [{"offset": 64 << 10, "content": str(gap)}],
        "partitions": [
            _partition(1, MIB, {"content": str(first)}),
            _partition(2, end, {"blank": {"size": 4 * MIB, "filesystem": "ext4", "label": "scratch"}}),
            _partition(3, end + 6 * MIB, {"content": str(second)}, "read-only"),
        ],
    }
    document = {
        "type": MANIFEST_TYPE,
        "vo": vo,
        "name": name,
        "version": version,
        "architecture": "x86_64",
        "os": {"id": "none", "version": "1"},
        "disks": [
            disk,
            _bare("data", 10, {"content": str(data)}, "read-only"),
            _bare("scratch", 11, {"blank": {"size": 8 * MIB, "filesystem": "none"}}, "copy-on-write"),
        ],
        "boot": {"mode": "bios"},
        "needs": {"memory": 32 * MIB, "cores": 1},
        "contextualization": "nocloud",
    }
    return Bundle.create(root, validate(Manifest, document, "manifest"))
