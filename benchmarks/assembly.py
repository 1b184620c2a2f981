"""Putting a machine's disks together: a 32 GiB image against a 64 MiB one, and what is written for it."""

import resource
import shutil
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from catalog.content.indexing import index_file
from catalog.image.address import Address
from catalog.image.manifest import MANIFEST_TYPE, Blank, Manifest
from deployer.hypervisor.disks import assemble_disks
from signer.documents import validate

MIB = 1 << 20
SMALL, LARGE = 64 * MIB, 32 << 30
ROUNDS = 31


@dataclass(frozen=True)
class Parts:
    """Contents and blanks as files."""

    files: dict[Address | Blank, Path]

    def path(self, address: Address) -> Path:
        """The file of a content."""
        return self.files[address]

    def blank(self, blank: Blank) -> Path:
        """The file of a blank."""
        return self.files[blank]


def run(workdir: Path, rounds: int = ROUNDS) -> dict[str, list[dict[str, Any]]]:
    """Measure; see benchmarks.__main__ for the form of a row."""
    small, large = _image(workdir / "small", SMALL), _image(workdir / "large", LARGE)
    times: dict[int, list[float]] = {SMALL: [], LARGE: []}
    written = {SMALL: 0, LARGE: 0}
    cpu = 0.0
    for number in range(rounds):
        for size, (manifest, parts) in ((SMALL, small), (LARGE, large)):
            directory = workdir / f"machine-{size}-{number}"
            directory.mkdir()
            busy = _busy()
            began = time.perf_counter()
            made = assemble_disks(manifest, parts, directory)
            times[size].append(time.perf_counter() - began)
            cpu += _busy() - busy
            written[size] = made.written
            shutil.rmtree(directory)
    ours, peer = statistics.median(times[LARGE]), statistics.median(times[SMALL])
    rows = [
        {
            "name": "assembling a 32 GiB image, against a 64 MiB one",
            "ours": ours * 1000,
            "peer": peer * 1000,
            "unit": "ms",
            "ratio": ours / peer,
            "target": "<= 1.2x",
            "bound": 1.2,
            "met": ours / peer <= 1.2,
            "cpu_s": cpu / rounds / 2,
            "rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
        },
        {
            # What is written are tables, descriptors and empty overlays: the same bytes for either image.
            "name": "bytes written to assemble 32 GiB, against 64 MiB: none is content",
            "ours": written[LARGE] / 1024,
            "peer": written[SMALL] / 1024,
            "unit": "KiB",
            "ratio": written[LARGE] / written[SMALL],
            "target": "<= 1.0x",
            "bound": 1.0,
            "met": written[LARGE] <= written[SMALL] and written[LARGE] < MIB,
        },
    ]
    return {"rows": rows}


def _image(place: Path, size: int) -> tuple[Manifest, Parts]:
    """A worker's image: a GPT disk with the root, a read-only application, a blank for scratch."""
    place.mkdir()
    files: dict[Address | Blank, Path] = {}

    def content(name: str, length: int) -> str:
        path = place / name
        with path.open("wb") as file:
            file.write(name.encode() * 1000)
            file.truncate(length)
        address = index_file(path).address
        files[address] = path
        return str(address)

    blank = Blank(size=16 * MIB, filesystem="none")
    files[blank] = place / "blank"
    with files[blank].open("wb") as file:
        file.truncate(blank.size)

    def part(number: int, access: str, **source: Any) -> dict[str, Any]:
        uuid = f"00000000-0000-4000-8000-{number:012x}"
        return {"label": f"part{number}", "type": "linux-generic", "uuid": uuid, "access": access, **source}

    root = part(1, "copy-on-write", content=content("root", size)) | {"number": 1, "offset": MIB}
    document = {
        "type": MANIFEST_TYPE,
        "vo": "star",
        "name": "worker",
        "version": "1",
        "architecture": "x86_64",
        "os": {"id": "debian", "version": "12"},
        "disks": [
            {
                "table": "gpt",
                "uuid": "11111111-1111-4111-8111-111111111111",
                "size": size + 2 * MIB,
                "first_lba": 34,
                "last_lba": (size + 2 * MIB) // 512 - 34,
                "partitions": [root],
            },
            {"table": "none", "partition": part(2, "read-only", content=content("application", SMALL))},
            {"table": "none", "partition": part(3, "copy-on-write", blank=blank.model_dump())},
        ],
        "boot": {"mode": "direct", "kernel": content("kernel", MIB)},
        "needs": {"memory": 256 * MIB, "cores": 1},
        "contextualization": "nocloud",
    }
    return validate(Manifest, document, "manifest"), Parts(files)


def _busy() -> float:
    """Processor seconds of this process and of the tools that it has run."""
    mine, tools = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return mine.ru_utime + mine.ru_stime + tools.ru_utime + tools.ru_stime
