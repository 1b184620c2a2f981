"""Valid values, sized to order, for tests of every package."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path

from catalog.content.indexing import index_file
from catalog.image.address import Address
from catalog.image.bundle import Bundle
from catalog.image.manifest import MANIFEST_TYPE, Manifest
from signer.documents import validate

MIB = 1 << 20


def content(
    path: Path, size: int, *, seed: int = 0, holes: Callable[[int], bool] = lambda mib: mib % 4 == 3
) -> Address:
    """A file of pseudo-random bytes with holes (every fourth MiB unless said otherwise); returns its address."""
    bytes_of = random.Random(seed)
    with path.open("wb") as file:
        for start in range(0, size, MIB):
            if not holes(start // MIB):
                file.seek(start)
                file.write(bytes_of.randbytes(min(MIB, size - start)))
        file.truncate(size)
    return index_file(path).address


def manifest(
    addresses: Sequence[Address], *, vo: str = "star", name: str = "worker", version: str = "1.0", **changes: object
) -> Manifest:
    """A direct-boot image: the first address is its kernel, every other one a bare read-only partition; one blank."""
    disks: list[object] = [
        {
            "table": "none",
            "partition": {
                "label": f"part{number}",
                "type": "linux-generic",
                "uuid": f"00000000-0000-4000-8000-{number:012x}",
                "access": "read-only",
                "content": str(address),
            },
        }
        for number, address in enumerate(addresses[1:], 1)
    ]
    blank = {"size": 64 * MIB, "filesystem": "ext4", "label": "scratch"}
    disks.append(
        {
            "table": "none",
            "partition": {
                "label": "scratch",
                "type": "linux-generic",
                "uuid": "00000000-0000-4000-8000-ffffffffffff",
                "access": "copy-on-write",
                "blank": blank,
            },
        }
    )
    document: dict[str, object] = {
        "type": MANIFEST_TYPE,
        "vo": vo,
        "name": name,
        "version": version,
        "architecture": "x86_64",
        "os": {"id": "debian", "version": "12"},
        "disks": disks,
        "boot": {"mode": "direct", "kernel": str(addresses[0]), "cmdline": "console=ttyS0"},
        "needs": {"memory": 128 * MIB, "cores": 1},
        "contextualization": "nocloud",
    }
    return validate(Manifest, document | changes, "manifest")


def bundle(root: Path, *, partitions: int = 2, size: int = 4 * MIB, seed: int = 0, **identity: str) -> Bundle:
    """An image directory whose blobs really have their addresses."""
    blobs = root / "blobs"
    blobs.mkdir(parents=True)
    addresses = []
    for number in range(partitions + 1):
        fresh = blobs / f"new{number}"
        address = content(fresh, size if number else MIB, seed=seed * 1000 + number)
        fresh.rename(blobs / str(address))
        addresses.append(address)
    return Bundle.create(root, manifest(addresses, **identity))
