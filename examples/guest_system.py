"""Debian's kernel and busybox, unpacked without root, as the files of a guest."""

import fcntl
import gzip
import io
import lzma
import os
import re
import shutil
import stat
import subprocess
import textwrap
from pathlib import Path

SCRIPT = 0o755


MODULES = (
    "virtio_pci",
    "virtio_blk",
    "virtio_net",
    "erofs",
    "isofs",
    "nls_utf8",
    "nls_ascii",
    "nls_cp437",
    "vfat",
    "xfs",
    "evdev",
    "button",
)
"""What a worker needs beyond what the kernel has built in; those that a kernel has built in are not found and skipped."""


KERNELS = ("linux-image-cloud-amd64", "linux-image-virtual")
"""The kernel meta packages of Debian and of Ubuntu, in the order tried."""


INITRAMFS_INIT = """\
#!/bin/busybox sh
# Load drivers, find the partition named on the command line, and go on in it.
/bin/busybox mkdir -p /proc /sys /dev /new
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs dev /dev
for module in $(/bin/busybox cat /modules/order); do /bin/busybox insmod /modules/$module || echo "guest: no $module"; done
for word in $(/bin/busybox cat /proc/cmdline); do
  case $word in root=PARTLABEL=*) name=${word#root=PARTLABEL=} ;; esac
done
tries=0
while [ $tries -lt 100 ]; do
  device=$(/bin/busybox grep -l "^PARTNAME=$name\\$" /sys/class/block/*/uevent 2>/dev/null | /bin/busybox head -n 1)
  [ -n "$device" ] && break
  tries=$((tries + 1)); /bin/busybox usleep 50000
done
device=/dev/$(/bin/busybox basename $(/bin/busybox dirname $device))
/bin/busybox mount -t ext4 $device /new || { echo "guest: cannot mount $name from $device"; /bin/busybox poweroff -f; }
echo "$device ext4 rw" > /dev/.mounted
for place in proc sys dev; do /bin/busybox mount -o move /$place /new/$place; done
exec /bin/busybox switch_root /new /sbin/init
"""


class GuestError(Exception):
    """The guest cannot be built here; the message says what is missing."""


def kernel_release() -> str:
    values = dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', Path("/etc/os-release").read_text(), re.MULTILINE))
    return str(values.get("VERSION_ID", "12"))


def kernel_tree(packages: Path) -> Path:
    """The unpacked kernel package; downloaded once. The package is not installed: the host's own boot is not touched."""
    packages.mkdir(parents=True, exist_ok=True)
    with (packages / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests that run side by side share the directory
        return _unpacked(packages, packages / "kernel")


def _unpacked(packages: Path, tree: Path) -> Path:
    if (tree / "complete").exists():
        return tree
    shutil.rmtree(tree, ignore_errors=True)
    for meta in KERNELS:
        listed = subprocess.run(
            ["apt-cache", "depends", "--recurse", "--no-recommends", "--no-suggests", meta],
            capture_output=True,
            text=True,
        )
        wanted = sorted(set(re.findall(r"^(linux-(?:image|modules)-[0-9]\S+)$", listed.stdout, re.MULTILINE)))
        if wanted:
            break
    else:
        raise GuestError(f"no kernel package among {', '.join(KERNELS)} is known here; run apt-get update")
    fetched = subprocess.run(
        ["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", *wanted],
        cwd=packages,
        capture_output=True,
        text=True,
    )
    if fetched.returncode:
        raise GuestError(f"the kernel packages {' '.join(wanted)} cannot be downloaded: {fetched.stderr.strip()}")
    for package in packages.glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", package, tree], check=True)
    if not (tree / "lib").exists():
        (tree / "lib").symlink_to("usr/lib")
    version = next((tree / "lib/modules").iterdir()).name
    subprocess.run(["/sbin/depmod", "-b", tree, version], check=True)
    (tree / "complete").touch()
    return tree


def _modules(kernel: Path) -> list[tuple[str, bytes]]:
    """(file name, content) of the modules wanted and of all they depend on, in an order that loads."""
    root = next((kernel / "lib/modules").iterdir())
    needs = {}
    for line in (root / "modules.dep").read_text().splitlines():
        path, _, dependencies = line.partition(":")
        needs[path] = dependencies.split()
    by_name = {Path(path).name.split(".")[0].replace("-", "_"): path for path in needs}
    order: dict[str, None] = {}
    for name in MODULES:
        if found := by_name.get(name):
            for dependency in [*reversed(needs[found]), found]:
                order[dependency] = None
    return [(Path(path).name.removesuffix(".xz").removesuffix(".zst"), _decompressed(root / path)) for path in order]


def _decompressed(path: Path) -> bytes:
    match path.suffix:
        case ".xz":
            return lzma.decompress(path.read_bytes())
        case ".zst":
            return subprocess.run(["zstd", "-dcq", path], check=True, capture_output=True).stdout
        case _:
            return path.read_bytes()


def initramfs(kernel: Path) -> bytes:
    modules = _modules(kernel)
    archive = io.BytesIO()
    files: list[tuple[str, int, bytes]] = [("bin", stat.S_IFDIR | SCRIPT, b""), ("modules", stat.S_IFDIR | SCRIPT, b"")]
    files.append(("bin/busybox", stat.S_IFREG | SCRIPT, _busybox_binary().read_bytes()))
    files.append(("bin/sh", stat.S_IFLNK | 0o777, b"busybox"))
    files.append(("init", stat.S_IFREG | SCRIPT, INITRAMFS_INIT.encode()))
    files.append(("modules/order", stat.S_IFREG | 0o644, "\n".join(name for name, _ in modules).encode()))
    files += [(f"modules/{name}", stat.S_IFREG | 0o644, content) for name, content in modules]
    files.append(("TRAILER!!!", 0, b""))
    for number, (name, mode, content) in enumerate(files, 1):
        fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
        header = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
        archive.write(header + bytes(-len(header) % 4) + content + bytes(-len(content) % 4))
    return gzip.compress(archive.getvalue(), compresslevel=6, mtime=0)


def _busybox_binary() -> Path:
    for place in ("/bin/busybox", "/usr/bin/busybox"):
        if Path(place).exists():
            return Path(place)
    raise GuestError("busybox is missing; run ./dev setup")


def busybox_links(root: Path) -> None:
    for place in ("bin", "sbin"):
        (root / place).mkdir(exist_ok=True)
    binary = root / "bin/busybox"
    shutil.copyfile(_busybox_binary(), binary)
    binary.chmod(SCRIPT)
    for applet in subprocess.run([binary, "--list"], check=True, capture_output=True, text=True).stdout.split():
        link = root / "bin" / applet
        if applet != "busybox" and not os.path.lexists(link):
            link.symlink_to("busybox")
    for name in ("init", "poweroff", "reboot", "halt"):
        if not os.path.lexists(root / "sbin" / name):
            (root / "sbin" / name).symlink_to("../bin/busybox")


def write_file(path: Path, text: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text))
    path.chmod(mode)
