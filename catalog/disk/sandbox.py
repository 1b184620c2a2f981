"""A child that may look at bytes from strangers: no network, no files but those named, little memory, little time.

Bubblewrap (the only door to it is here) gives the child empty namespaces, no capabilities, a read-only system and the files that
the caller names; prlimit bounds memory, processor time and the size of what it writes. Whatever the bytes do to the
tool that reads them, nothing is left to take and nowhere to bring it.
"""

import os
import resource
import selectors
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO

from catalog.errors import DiskRefused, Unavailable

MIB = 1 << 20

MAX_OUTPUT = 16 * MIB
"""Bytes that a child may print; a listing of a large image takes a hundredth of it."""

MAX_COMPLAINT = 64 << 10
"""Bytes of its standard error that are kept."""

NOBODY = "65534"
"""The user and group that the child is to itself."""


@dataclass(frozen=True)
class ResourceLimits:
    """What a child gets. The defaults are those that OpenStack Nova gives to `qemu-img info`.

    Attributes:
        memory: bytes of address space.
        cpu: seconds of processor time.
        wall: seconds until it is ended whatever it does.
        file_size: bytes that any one file it writes may have.
        scratch: bytes of the directory /scratch that lies in memory and vanishes with the child; 0 for none.
    """

    memory: int = 1 << 30
    cpu: int = 30
    wall: float = 60
    file_size: int = MAX_OUTPUT
    scratch: int = 0


@dataclass(frozen=True)
class ChildResult:
    """What a child did: its exit code (negative for a signal), what it printed, what it complained of."""

    code: int
    output: bytes
    complaint: str


def run_confined(
    command: Sequence[str],
    *,
    reads: Mapping[str, Path],
    writes: Mapping[str, Path] | None = None,
    limits: ResourceLimits | None = None,
    watch: Callable[[bytes], None] | None = None,
) -> ChildResult:
    """Run a command in confinement.

    Args:
        command: program and arguments, in the child's view of the file system: /usr, and what is named next.
        reads: place in the child to the file or directory that is shown there, read-only.
        writes: the same, writable.
        limits: what it gets.
        watch: called with each piece of output instead of keeping it.

    Raises:
        DiskRefused: the child used up its time or printed without end.
        Unavailable: this machine cannot confine a child.
    """
    limits = limits or ResourceLimits()
    argv = [*_prison(), *(("--size", str(limits.scratch), "--tmpfs", "/scratch") if limits.scratch else ())]
    for place, path in reads.items():
        argv += ["--ro-bind", str(path.resolve()), place]
    for place, path in (writes or {}).items():
        argv += ["--bind", str(path.resolve()), place]
    bounds = [
        f"--as={_within(resource.RLIMIT_AS, limits.memory)}",
        f"--cpu={_within(resource.RLIMIT_CPU, limits.cpu)}",
        f"--fsize={_within(resource.RLIMIT_FSIZE, limits.file_size)}",
        "--core=0",
        "--nofile=256",
    ]
    argv += ["--", "prlimit", *bounds, "--", *command]
    with subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd="/",
        env={"LC_ALL": "C.UTF-8"},
    ) as child:
        try:
            output, complaint = _listen(child, limits, watch)
            code = child.wait()
        finally:
            child.kill()  # bubblewrap's end is the end of everything inside
    return ChildResult(code - 256 if code > 128 else code, output, complaint)


def python_command(script: Path, *arguments: str) -> tuple[list[str], dict[str, Path]]:
    """The command and the files that run one of our own scripts in confinement: this interpreter, its libraries, it."""
    reads = {f"/partita/{script.name}": script}
    for prefix in {sys.prefix, sys.base_prefix}:
        if not Path(prefix).is_relative_to("/usr") or Path(prefix).is_relative_to("/usr/local"):
            reads[prefix] = Path(prefix)
    return [sys.executable, "-I", f"/partita/{script.name}", *arguments], reads


def _within(kind: int, wanted: int) -> int:
    """A limit that may be set: no limit can be raised above the hard one of whoever runs this."""
    hard = resource.getrlimit(kind)[1]
    return wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)


def _listen(
    child: "subprocess.Popen[bytes]", limits: ResourceLimits, watch: Callable[[bytes], None] | None
) -> tuple[bytes, str]:
    """Read both pipes to their ends, or until a limit."""
    deadline = time.monotonic() + limits.wall
    output, complaint = bytearray(), bytearray()
    with selectors.DefaultSelector() as selector:
        pipes: tuple[IO[bytes] | None, ...] = (child.stdout, child.stderr)
        for pipe in pipes:
            assert pipe is not None  # noqa: S101 - both were asked for
            selector.register(pipe, selectors.EVENT_READ)
        while selector.get_map():
            ready = selector.select(max(0.0, deadline - time.monotonic()))
            if not ready:
                raise DiskRefused(f"reading it took more than the {limits.wall:.0f} s allowed")
            for key, _ in ready:
                data = os.read(key.fd, 1 << 16)
                if not data:
                    selector.unregister(key.fileobj)
                elif key.fileobj is child.stderr:
                    complaint += data[: MAX_COMPLAINT - len(complaint)]
                elif watch:
                    watch(data)
                else:
                    output += data
                    if len(output) > MAX_OUTPUT:
                        raise DiskRefused(f"describing it takes more than the {MAX_OUTPUT} bytes allowed")
    return bytes(output), complaint.decode("utf-8", "replace").strip()


@cache
def _prison() -> tuple[str, ...]:
    """Bubblewrap's arguments on this machine: with a user namespace of its own where the kernel allows one."""
    if shutil.which("bwrap") is None:
        raise Unavailable("foreign disks are read only in confinement, and bwrap is not installed: install bubblewrap")
    walls = ["bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL", "--clearenv"]
    walls += ["--setenv", "PATH", "/usr/sbin:/usr/bin", "--setenv", "LC_ALL", "C.UTF-8", "--ro-bind", "/usr", "/usr"]
    for name in ("lib", "lib64", "bin", "sbin"):
        place = Path("/", name)
        if place.is_symlink():
            walls += ["--symlink", str(place.readlink()), f"/{name}"]
        elif place.is_dir():
            walls += ["--ro-bind", f"/{name}", f"/{name}"]
    walls += ["--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache", "--proc", "/proc", "--dev", "/dev"]
    complaint = ""
    for owner in (["--unshare-user", "--uid", NOBODY, "--gid", NOBODY], []):
        done = subprocess.run([*walls, *owner, "--", "true"], capture_output=True, check=False, timeout=60)
        if done.returncode == 0:
            return (*walls, *owner)
        complaint = complaint or done.stderr.decode("utf-8", "replace").strip()
    raise Unavailable(
        f"foreign disks are read only in confinement, and bwrap cannot make it here ({complaint[:200]}); "
        "allow user namespaces, or run this as root"
    )
