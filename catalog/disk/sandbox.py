"""A sandbox for child processes that read untrusted bytes: no network, only named files, limited memory and time.

Bubblewrap, which only this module calls, gives the child empty namespaces, no capabilities, a read-only system and the
files that the caller names; prlimit bounds memory, processor time and the size of files that it writes. Bytes that take
over the tool which reads them find no data to steal and no way to send any.
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

from catalog.errors import DiskRefused, Unavailable

MIB = 1 << 20

MAX_OUTPUT = 16 * MIB
"""Bytes that a child may print; the listing of a large image needs a hundredth of it."""

MAX_ERRORS = 64 << 10
"""Bytes of a child's standard error that are kept."""

NOBODY = "65534"
"""The user and group of the child inside its namespace."""


@dataclass(frozen=True)
class ResourceLimits:
    """Limits of a child. The defaults are those of OpenStack Nova for `qemu-img info`.

    Attributes:
        memory: bytes of address space.
        cpu: seconds of processor time.
        wall: seconds of real time after which it is killed.
        file_size: bytes of the largest file that it may write.
        scratch: bytes of the directory /scratch, which is in memory and ends with the child; 0 for no such directory.
    """

    memory: int = 1 << 30
    cpu: int = 30
    wall: float = 60
    file_size: int = MAX_OUTPUT
    scratch: int = 0


@dataclass(frozen=True)
class ChildResult:
    """The result of a child: exit code (negative for a signal), standard output, standard error."""

    code: int
    output: bytes
    errors: str


def run_confined(
    command: Sequence[str],
    *,
    reads: Mapping[str, Path],
    writes: Mapping[str, Path] | None = None,
    limits: ResourceLimits | None = None,
    watch: Callable[[bytes], None] | None = None,
) -> ChildResult:
    """Run a command in the sandbox.

    Args:
        command: program and arguments; the child sees /usr and the files named next.
        reads: path in the child -> the file or directory that appears there, read-only.
        writes: the same, writable.
        limits: its limits.
        watch: called with each chunk of output, which is then not kept.

    Raises:
        DiskRefused: the child exceeded its time or its output limit.
        Unavailable: this machine cannot run a sandbox.
    """
    limits = limits or ResourceLimits()
    argv = [*_bwrap(), *(("--size", str(limits.scratch), "--tmpfs", "/scratch") if limits.scratch else ())]
    for inside, path in reads.items():
        argv += ["--ro-bind", str(path.resolve()), inside]
    for inside, path in (writes or {}).items():
        argv += ["--bind", str(path.resolve()), inside]
    bounds = (
        ("as", resource.RLIMIT_AS, limits.memory),
        ("cpu", resource.RLIMIT_CPU, limits.cpu),
        ("fsize", resource.RLIMIT_FSIZE, limits.file_size),
    )
    argv += ["--", "prlimit", *(f"--{name}={_within(kind, wanted)}" for name, kind, wanted in bounds)]
    argv += ["--core=0", "--nofile=256", "--", *command]
    null, pipe, env = subprocess.DEVNULL, subprocess.PIPE, {"LC_ALL": "C.UTF-8"}
    with subprocess.Popen(argv, stdin=null, stdout=pipe, stderr=pipe, cwd="/", env=env) as child:
        try:
            output, errors = _communicate(child, limits, watch)
            code = child.wait()
        finally:
            child.kill()  # when bubblewrap ends, everything inside ends
    return ChildResult(code - 256 if code > 128 else code, output, errors)


def python_command(script: Path, *arguments: str) -> tuple[list[str], dict[str, Path]]:
    """The command and the readable files with which one of our scripts runs in the sandbox: interpreter, libraries, script."""
    reads = {f"/partita/{script.name}": script}
    for prefix in {sys.prefix, sys.base_prefix}:
        if not Path(prefix).is_relative_to("/usr") or Path(prefix).is_relative_to("/usr/local"):
            reads[prefix] = Path(prefix)
    return [sys.executable, "-I", f"/partita/{script.name}", *arguments], reads


def _within(kind: int, wanted: int) -> int:
    """A limit that this process may set: none can be raised above its own hard limit."""
    hard = resource.getrlimit(kind)[1]
    return wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)


def _communicate(
    child: "subprocess.Popen[bytes]", limits: ResourceLimits, watch: Callable[[bytes], None] | None
) -> tuple[bytes, str]:
    """Read both pipes until their ends or a limit."""
    deadline = time.monotonic() + limits.wall
    output, errors = bytearray(), bytearray()
    with selectors.DefaultSelector() as selector:
        for pipe in (child.stdout, child.stderr):
            assert pipe is not None  # noqa: S101 - both are pipes
            selector.register(pipe, selectors.EVENT_READ)
        while selector.get_map():
            ready = selector.select(max(0.0, deadline - time.monotonic()))
            if not ready:
                raise DiskRefused(f"reading the disk took longer than the {limits.wall:.0f} s allowed")
            for key, _ in ready:
                data = os.read(key.fd, 1 << 16)
                if not data:
                    selector.unregister(key.fileobj)
                elif key.fileobj is child.stderr:
                    errors += data[: MAX_ERRORS - len(errors)]
                elif watch:
                    watch(data)
                else:
                    output += data
                    if len(output) > MAX_OUTPUT:
                        raise DiskRefused(f"describing the disk takes more than the {MAX_OUTPUT} bytes allowed")
    return bytes(output), errors.decode("utf-8", "replace").strip()


@cache
def _bwrap() -> tuple[str, ...]:
    """Bubblewrap's arguments on this machine, with a separate user namespace where the kernel allows one."""
    if shutil.which("bwrap") is None:
        raise Unavailable("foreign disks are read in a sandbox, which needs bwrap; install bubblewrap")
    base = ["bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL", "--clearenv"]
    base += ["--setenv", "PATH", "/usr/sbin:/usr/bin", "--setenv", "LC_ALL", "C.UTF-8", "--ro-bind", "/usr", "/usr"]
    for name in ("lib", "lib64", "bin", "sbin"):
        path = Path("/", name)
        if path.is_symlink():
            base += ["--symlink", str(path.readlink()), f"/{name}"]
        elif path.is_dir():
            base += ["--ro-bind", f"/{name}", f"/{name}"]
    base += ["--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache", "--proc", "/proc", "--dev", "/dev"]
    errors = ""
    for owner in (["--unshare-user", "--uid", NOBODY, "--gid", NOBODY], []):
        done = subprocess.run([*base, *owner, "--", "true"], capture_output=True, check=False, timeout=60)
        if done.returncode == 0:
            return (*base, *owner)
        errors = errors or done.stderr.decode("utf-8", "replace").strip()
    raise Unavailable(
        f"foreign disks are read in a sandbox, which bwrap cannot make here ({errors[:200]}); "
        "allow user namespaces, or run as root"
    )
