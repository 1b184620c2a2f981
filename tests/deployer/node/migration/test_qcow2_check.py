"""Overlays that come from another node: one that names another file is refused."""

import struct
import subprocess
from pathlib import Path

import pytest

from deployer.errors import MigrationFailed
from deployer.node.migration.qcow2_check import check_overlay

MIB = 1 << 20


def overlay(place: Path) -> Path:
    """One such as we make."""
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(place), "1M"], check=True)
    return place


HEADS: list[tuple[str, int, bytes]] = [
    ("it is of another format", 0, b"KDMV"),
    ("it is an older version", 4, struct.pack(">I", 2)),
    ("it is of another size", 24, struct.pack(">Q", 2 * MIB)),
    ("it is encrypted", 32, struct.pack(">I", 2)),
    ("it has snapshots", 60, struct.pack(">I", 1)),
    ("its data is in a file that it names", 72, struct.pack(">Q", 4)),
]


@pytest.mark.parametrize(("what", "at", "data"), HEADS, ids=[what for what, _, _ in HEADS])
def test_an_overlay_that_leads_elsewhere_is_refused(tmp_path: Path, what: str, at: int, data: bytes) -> None:
    """Whatever the other node wrote, this one reads no file because of it."""
    place = overlay(tmp_path / "disk0.qcow2")
    check_overlay(place, MIB)
    with place.open("r+b") as file:
        file.seek(at)
        file.write(data)
    with pytest.raises(MigrationFailed, match="is not an overlay as nodes make"):
        check_overlay(place, MIB)
