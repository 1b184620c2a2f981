"""Makes the golden vectors beside this file again: `python -m tests.vectors.generate [--creator FILE]`.

What is expected does not come from Partita alone. Roots and layers are asked of libtorrent, and, with --creator, of the
reference creator that BEP 52 links to (bep_0052_torrent_creator.py); without it the values it gave before are kept. A
test (tests/catalog/image/test_vectors.py) makes the vectors again and demands that nothing has changed.
"""

import argparse
import hashlib
import json
import random
import runpy
import tempfile
from pathlib import Path
from typing import Any

import libtorrent

from catalog.content.indexing import index_file
from catalog.disk.gpt import write_gpt
from catalog.image.address import LEAF, piece_length
from catalog.image.manifest import GptDisk, Manifest
from signer.documents import canonical, validate

HERE = Path(__file__).parent
KIB, MIB = 1 << 10, 1 << 20

Runs = list[tuple[str, int]]

CONTENTS: dict[str, Runs] = {
    "one byte": [("random", 1)],
    "64 bytes": [("random", 64)],
    "one zero byte": [("zero", 1)],
    "a leaf less one": [("random", LEAF - 1)],
    "a leaf": [("random", LEAF)],
    "a leaf and one": [("random", LEAF + 1)],
    "a leaf of zeros": [("zero", LEAF)],
    "three leaves": [("random", 3 * LEAF)],
    "64 KiB of zeros": [("zero", 64 * KIB)],
    "a piece and one": [("random", 64 * KIB + 1)],
    "data, hole, data": [("random", 20000), ("zero", 100000), ("random", 5000)],
    "1 MiB of zeros": [("zero", MIB)],
    "1 MiB, every other leaf": [("random", LEAF), ("zero", LEAF)] * 32,
    "ends in zeros": [("random", 100000), ("zero", 200001)],
    "five million and one": [("random", 5000001)],
    "the last of 64 KiB pieces": [("random", 100000), ("zero", 512 * MIB - 100000)],
    "the first of 128 KiB pieces": [("random", 100000), ("zero", 512 * MIB - 99999)],
    "the first of 256 KiB pieces": [("random", 100000), ("zero", 1024 * MIB - 99999)],
}
"""Name -> runs of (kind, bytes). "random" is `random.Random(name).randbytes`, drawn in order; "zero" is zeros."""

LIBTORRENT_REPOSITORY = {
    "64 KiB of zeros": "60aae9c7b428f87e0713e88229e18f0adf12cd7b22a0dd8a92bb2485eb7af242",
    "1 MiB of zeros": "515ea9181744b817744ded9d2e8e9dc6a8450c0b0c52e24b5077f302ffbd9008",
}
"""The `pieces root` in libtorrent's test_torrents/v2.torrent and v2_multipiece_file.torrent, whose files are zeros."""


def write(path: Path, name: str) -> None:
    """Write a content of CONTENTS; runs of zeros become holes."""
    source = random.Random(name)
    with path.open("wb") as file:
        for kind, length in CONTENTS[name]:
            if kind == "random":
                file.write(source.randbytes(length))
            else:
                file.seek(length, 1)
        file.truncate(sum(length for _, length in CONTENTS[name]))


def by_libtorrent(path: Path) -> tuple[str, str]:
    """Root and SHA-256 of the piece layer (the root's own, where there is no layer), as libtorrent has them."""
    size = path.stat().st_size
    torrent = libtorrent.create_torrent(
        [libtorrent.create_file_entry(path.name, size)], piece_length(size), libtorrent.create_torrent.v2_only
    )
    libtorrent.set_piece_hashes(torrent, str(path.parent))
    made = torrent.generate()
    root = made[b"info"][b"file tree"][path.name.encode()][b""][b"pieces root"]
    return root.hex(), hashlib.sha256(made[b"piece layers"].get(root, root)).hexdigest()


def by_bep52(path: Path, creator: dict[str, Any]) -> tuple[str, str]:
    """The same, as the reference creator of BEP 52 has them."""
    size = path.stat().st_size
    hasher = creator["FileHasher"](str(path), piece_length(size))
    layer = hasher.piecesv2 if size > piece_length(size) else hasher.root
    return hasher.root.hex(), hashlib.sha256(layer).hexdigest()


def addresses(creator: dict[str, Any] | None, peers: bool = True) -> dict[str, Any]:
    """All that is known of each content. Without `peers` only what Partita itself says."""
    made: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as directory:
        for name, runs in CONTENTS.items():
            path = Path(directory) / "content"
            write(path, name)
            found = index_file(path)
            made[name] = {
                "runs": [list(run) for run in runs]
                if len(runs) < 8
                else [*map(list, runs[:2]), ["times", len(runs) // 2]],
                "address": str(found.address),
                "piece_length": piece_length(found.address.size),
                "layer_sha256": hashlib.sha256(found.layer).hexdigest(),
                "data_map": found.data_map.hex() if len(found.data_map) < 64 else None,
                "data_map_sha256": hashlib.sha256(found.data_map).hexdigest(),
                "hints": found.hints.hex() if len(found.hints) < 256 else None,
                "hints_sha256": hashlib.sha256(found.hints).hexdigest(),
                "data_bytes": found.data_bytes,
            }
            if peers:
                made[name]["libtorrent"] = by_libtorrent(path)
            if creator:
                made[name]["bep52"] = by_bep52(path, creator)
    return made


GPT_DISK: dict[str, Any] = {
    "table": "gpt",
    "uuid": "5b4a1d36-9c4e-4f6c-8a39-0d2c2f6f7a10",
    "size": 16 * MIB,
    "first_lba": 2048,
    "last_lba": 32734,
    "partitions": [
        {
            "number": 1,
            "label": "base",
            "type": "root-x86-64",
            "uuid": "0f3c3f0e-7d9e-4a63-8f0b-0c6d6b1f1a01",
            "access": "read-only",
            "flags": ["read-only"],
            "offset": MIB,
            "content": "60aae9c7b428f87e0713e88229e18f0adf12cd7b22a0dd8a92bb2485eb7af242-65536",
        },
        {
            "number": 2,
            "label": "scratch",
            "type": "linux-generic",
            "uuid": "0f3c3f0e-7d9e-4a63-8f0b-0c6d6b1f1a02",
            "access": "copy-on-write",
            "flags": [],
            "offset": 2 * MIB,
            "blank": {"size": 8 * MIB, "filesystem": "ext4", "label": "scratch"},
        },
    ],
}

MANIFEST: dict[str, Any] = {
    "type": "urn:partita:image:v1",
    "vo": "star",
    "name": "worker",
    "version": "1.0",
    "architecture": "x86_64",
    "os": {"id": "debian", "version": "12"},
    "disks": [GPT_DISK],
    "boot": {
        "mode": "direct",
        "kernel": "515ea9181744b817744ded9d2e8e9dc6a8450c0b0c52e24b5077f302ffbd9008-1048576",
        "cmdline": "root=/dev/vda1 ro console=ttyS0",
    },
    "needs": {"memory": 128 * MIB, "cores": 1},
    "contextualization": "nocloud",
    "provenance": [{"rel": "source", "href": "https://example.org/star/worker"}],
}


def documents() -> dict[str, Any]:
    """A manifest with its canonical form and ID, and its disk's partition table."""
    manifest = validate(Manifest, MANIFEST, "manifest")
    disk = manifest.disks[0]
    assert isinstance(disk, GptDisk)
    head, tail = write_gpt(disk)
    return {
        "manifest": {
            "canonical": manifest.canonical().decode(),
            "image_id": manifest.image_id,
            "blobs": [str(address) for address in manifest.contents()],
        },
        "gpt": {
            "protective": head[440:512].hex(),
            "header": head[512:604].hex(),
            "entry_1": head[1024:1152].hex(),
            "backup_header": tail[-512:-420].hex(),
            "head_sha256": hashlib.sha256(head).hexdigest(),
            "tail_sha256": hashlib.sha256(tail).hexdigest(),
        },
    }


def read(name: str) -> dict[str, Any]:
    """The vectors as they stand."""
    found: dict[str, Any] = json.loads((HERE / name).read_text())
    return found


def main() -> None:
    """Write addresses.json and documents.json."""
    parser = argparse.ArgumentParser(description="Make the golden vectors again.")
    parser.add_argument("--creator", type=Path, help="bep_0052_torrent_creator.py, to ask it too")
    arguments = parser.parse_args()
    creator = runpy.run_path(str(arguments.creator)) if arguments.creator else None
    made = addresses(creator)
    for name, vector in made.items():
        if creator is None:
            vector["bep52"] = read("addresses.json")[name]["bep52"]
        if name in LIBTORRENT_REPOSITORY:
            vector["libtorrent_repository"] = LIBTORRENT_REPOSITORY[name]
    for file, vectors in (("addresses.json", made), ("documents.json", documents())):
        canonical(vectors)  # whatever is no plain JSON is found here
        (HERE / file).write_text(json.dumps(vectors, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
