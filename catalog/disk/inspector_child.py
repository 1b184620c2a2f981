"""Script that runs in the sandbox: reads the beginning of a disk and prints its formats as JSON. Decides nothing.

It imports nothing of Partita: the child sees this one file. The inspector of oslo.utils recognises the formats, as when
OpenStack accepts an image; only this script calls it. Properties of qcow2 that the inspector does not report (encryption,
internal snapshots, single feature bits) are read here from the header (QEMU docs/interop/qcow2.txt).
"""

import json
import logging
import struct
import sys
from typing import Any

from oslo_utils.imageutils import format_inspector

HEAD = 4 << 20
"""Bytes that the inspector gets. All headers that it knows lie in the first half; it gets the last MiB too."""

TAIL = 1 << 20

LARGE = 2**53 - 1
"""The largest integer that JSON carries exactly; a larger size is absurd anyway."""

CHUNK = 64 << 10


def detect_formats(path: str) -> dict[str, Any]:
    """The size of a file, the formats that its content matches, and which of their safety checks it fails."""
    with open(path, "rb") as file:  # noqa: PTH123 - the script needs no pathlib
        size = file.seek(0, 2)
        file.seek(0)
        wrapper = format_inspector.InspectWrapper(file)
        while file.tell() < min(HEAD, size):
            wrapper.read(CHUNK)
        if size > HEAD + TAIL:
            file.seek(size - TAIL)
        while wrapper.read(CHUNK):
            pass
        wrapper.close()
    found = {}
    for inspector in wrapper.formats or []:
        try:
            inspector.safety_check()
            failures = []
        except format_inspector.SafetyCheckFailed as exc:
            failures = sorted(str(failure) for failure in exc.failures.values())
        except format_inspector.ImageFormatError as exc:
            failures = [str(exc)]
        found[str(inspector)] = {"failures": failures, "virtual_size": min(inspector.virtual_size, LARGE)}
    return {"size": size, "formats": found}


def read_qcow2_header(path: str) -> dict[str, Any] | None:
    """The fields of a qcow2 header, or None if there is no such header."""
    with open(path, "rb") as file:  # noqa: PTH123 - as above
        head = file.read(104)
    if head[:4] != b"QFI\xfb" or len(head) < 72:
        return None
    version, backing, _, cluster_bits, size, crypt, l1_size = struct.unpack_from(">IQIIQII", head, 4)
    incompatible = struct.unpack_from(">Q", head, 72)[0] if version >= 3 and len(head) >= 80 else 0
    return {
        "version": version,
        "backing": backing != 0,
        "cluster_bits": cluster_bits,
        "size": min(size, LARGE),
        "crypt": crypt,
        "l1_size": l1_size,
        "snapshots": struct.unpack_from(">I", head, 60)[0],
        "incompatible": [bit for bit in range(64) if incompatible >> bit & 1],
    }


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    json.dump({**detect_formats(sys.argv[1]), "qcow2": read_qcow2_header(sys.argv[1])}, sys.stdout)
