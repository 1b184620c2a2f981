"""Find the drivers for EC2 in an initrd, or in a filesystem's kernel modules; runs confined.

Imports nothing of Partita: the child sees this one file and the untrusted bytes. Decides nothing; prints JSON. An initrd
is one cpio archive or several, one after the other, each plain or compressed (Linux, Documentation/driver-api/
early-userspace/buffer-format.rst); an ext filesystem is read with debugfs.
"""

import bz2
import json
import lzma
import os
import re
import subprocess
import sys
import zlib
from collections.abc import Callable
from typing import Any

CHUNK = 1 << 20
MAX_LIST = 4 << 20
"""Bytes of modules.builtin or modules.dep: those of a kernel with all drivers have half a MiB."""

MAX_UNPACKED = 4 << 30
"""Bytes of all archives of an initrd; the child's time ends it long before."""

MAX_KERNELS = 16

HEADER = 110
"""Bytes of a "newc" header: six of magic and thirteen numbers of eight hex digits."""

_DRIVER = re.compile(r"(?:^|/)(nvme|ena)\.ko(?:\.gz|\.xz|\.zst)?$")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~-]{0,127}")


class Stream:
    """Bytes from a source of pieces; "" is its end."""

    def __init__(self, more: Callable[[], bytes]) -> None:
        self._more, self._held, self._ended, self.passed = more, b"", False, 0

    def _fill(self, count: int) -> None:
        pieces, there = [self._held], len(self._held)
        while there < count and not self._ended:
            piece = self._more()
            self._ended = not piece
            pieces.append(piece)
            there += len(piece)
        self._held = b"".join(pieces)

    def peek(self, count: int) -> bytes:
        """The next `count` bytes, or all that are left; they stay in the stream."""
        self._fill(count)
        return self._held[:count]

    def read(self, count: int) -> bytes:
        """The same, and advance behind them."""
        found = self.peek(count)
        self._held = self._held[len(found) :]
        self.passed += len(found)
        if self.passed > MAX_UNPACKED:
            raise ValueError(f"it has more than {MAX_UNPACKED} bytes unpacked")
        return found

    def skip(self, count: int) -> None:
        """Advance by `count` bytes; EOFError if fewer are left."""
        while count > 0:
            found = self.read(min(count, CHUNK))
            if not found:
                raise EOFError
            count -= len(found)

    def give_back(self, data: bytes) -> None:
        """Return bytes that were read last to the stream."""
        self._held = data + self._held


def find_drivers(lines: str) -> list[str]:
    """The drivers in a list of modules: one line each, the module's own path before a colon."""
    found = (_DRIVER.search(line.partition(":")[0].strip()) for line in lines.splitlines())
    return sorted({match[1] for match in found if match})


def read_archive(stream: Stream, found: dict[str, Any]) -> None:
    """Read one cpio archive: note its drivers and lists of built-in ones."""
    while True:
        header = stream.read(HEADER)
        if len(header) < HEADER or header[:6] not in (b"070701", b"070702"):
            raise ValueError("not a complete cpio archive")
        size, named = int(header[54:62], 16), int(header[94:102], 16)
        if not 0 < named <= 4096:
            raise ValueError("a name in a cpio archive has an invalid length")
        name = stream.read(named).rstrip(b"\0").decode("utf-8", "replace")
        stream.skip(-(HEADER + named) % 4)
        if name == "TRAILER!!!":
            return
        if match := _DRIVER.search(name):
            found["modules"].append(match[1])
        if name.endswith("/modules.builtin") and size <= MAX_LIST:
            found["builtin"] += find_drivers(stream.read(size).decode("utf-8", "replace"))
            found["listed"] = True
        else:
            stream.skip(size)
        stream.skip(-size % 4)


def decompress(outer: Stream, decompressor: Any) -> Stream:
    """The bytes of one compressed stream; the bytes after it are given back to the outer one."""

    def more() -> bytes:
        while not decompressor.eof:
            piece = outer.peek(CHUNK)
            if not piece:
                raise EOFError
            outer.read(len(piece))
            data: bytes = decompressor.decompress(piece)
            if decompressor.eof:
                outer.give_back(decompressor.unused_data)
            if data:
                return data
        return b""

    return Stream(more)


def read_archives(stream: Stream, found: dict[str, Any]) -> None:
    """Read all archives of an initrd."""
    while True:
        while stream.peek(1) == b"\0":
            held = stream.peek(CHUNK)
            stream.read(len(held) - len(held.lstrip(b"\0")) or len(held))
        magic = stream.peek(6)
        if not magic:
            return
        if magic[:5] == b"07070":
            read_archive(stream, found)
            continue
        if magic[:2] == b"\x1f\x8b":
            inner = decompress(stream, zlib.decompressobj(31))
        elif magic == b"\xfd7zXZ\0" or magic[:3] == b"\x5d\0\0":
            inner = decompress(stream, lzma.LZMADecompressor())
        elif magic[:3] == b"BZh":
            inner = decompress(stream, bz2.BZ2Decompressor())
        elif magic[:4] == b"\x28\xb5\x2f\xfd":
            decompress_zstd(stream, found)
            return
        else:
            raise ValueError(f"its compression is not supported (it begins with {magic.hex()})")
        read_archives(inner, found)


def decompress_zstd(stream: Stream, found: dict[str, Any]) -> None:
    """Read archives packed with Zstandard, through its own tool, from a file in memory; nothing is expected behind them."""
    scratch = "/scratch/packed" if os.path.isdir("/scratch") else "/dev/null"  # noqa: PTH112 - nothing else is here
    with open(scratch, "wb") as packed:  # noqa: PTH123
        while piece := stream.read(CHUNK):
            packed.write(piece)
    with subprocess.Popen(["zstd", "-dcq", scratch], stdout=subprocess.PIPE) as tool:
        output = tool.stdout
        read_archives(Stream(lambda: output.read(CHUNK) if output else b""), found)


def inspect_initrd(path: str) -> list[dict[str, Any]]:
    """The drivers in an initrd, as those of one kernel."""
    found: dict[str, Any] = {"version": "", "modules": [], "builtin": [], "listed": False}
    with open(path, "rb") as source:  # noqa: PTH123
        read_archives(Stream(lambda: source.read(CHUNK)), found)
    return [found]


def inspect_ext(path: str) -> list[dict[str, Any]]:
    """The drivers of the kernels in an ext filesystem."""
    kernels = []
    for place in ("/lib/modules", "/usr/lib/modules"):
        names = [
            line.split("/")[5] for line in run_debugfs(path, f"ls -p {place}").splitlines() if line.count("/") >= 6
        ]
        for version in sorted(name for name in names if _VERSION.fullmatch(name))[:MAX_KERNELS]:
            builtin, modules = (
                run_debugfs(path, f"cat {place}/{version}/modules.{name}") for name in ("builtin", "dep")
            )
            if not builtin and not modules:
                continue
            there = {"version": version, "modules": find_drivers(modules), "builtin": find_drivers(builtin)}
            kernels.append({**there, "listed": bool(builtin)})
        if kernels:
            break
    return kernels


def run_debugfs(path: str, request: str) -> str:
    """The output of debugfs for a request."""
    done = subprocess.run(["debugfs", "-R", request, path], capture_output=True, check=False, stdin=subprocess.DEVNULL)
    return done.stdout[:MAX_LIST].decode("utf-8", "replace")


def main() -> None:
    """Print the drivers in a file of a kind (initrd, ext), or why it cannot be read."""
    try:
        answer = {"kernels": {"initrd": inspect_initrd, "ext": inspect_ext}[sys.argv[1]](sys.argv[2]), "trouble": ""}
    except (EOFError, ValueError, OSError, zlib.error, lzma.LZMAError) as exc:
        answer = {"kernels": [], "trouble": str(exc)[:200] or "its data is truncated"}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
