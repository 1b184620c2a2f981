"""A small real guest: the four kinds of partitions of the STAR worker of the 2007 paper, in miniature.

A Debian kernel, an initramfs, and four partitions: `base` (the root, copy-on-write, on a GPT disk), `star` (the
application, read-only), `data` (read-only), `scratch` (blank). Everything comes from Debian packages and is built without
root; the result is a recipe for `partita image build`. The same packages give the same bytes.

The guest finds its NoCloud seed by its label, takes the host name from it, runs the site's context agent that lies there and
user-data that is a script, and says on its console what it mounted. It ends when it is asked to by ACPI.
"""

import argparse
import fcntl
import gzip
import io
import lzma
import os
import random
import re
import shutil
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

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

SCRIPT = 0o755

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

INITTAB = """\
::sysinit:/etc/rc
::respawn:/bin/acpid -f -l /dev/null
::shutdown:/bin/umount -a -r
::ctrlaltdel:/sbin/reboot
"""

RC = """\
#!/bin/sh
# Mount what /etc/fstab names, take the identity from the seed, say so on the console.
exec >/dev/console 2>&1
mount -t tmpfs tmpfs /run && mkdir /run/seed
echo "partita-guest: mounted base on / ($(cat /dev/.mounted 2>/dev/null || echo root))"
grep -v '^#' /etc/fstab | while read device place type options; do
  mount -t $type -o $options $device $place && echo "partita-guest: mounted $(basename $place) on $place ($device $type $options, $(df -k $place | tail -n 1 | tr -s ' ' | cut -d ' ' -f 2) KiB)"
done
seed=$(findfs LABEL=cidata 2>/dev/null || findfs LABEL=CIDATA 2>/dev/null)
if [ -n "$seed" ] && mount -t iso9660 -o ro $seed /run/seed; then
  hostname "$(sed -n 's/^local-hostname: *//p' /run/seed/meta-data)"
  echo "partita-guest: instance $(sed -n 's/^instance-id: *//p' /run/seed/meta-data)"
fi
echo "partita-guest: host name $(hostname)"
ip link set lo up
if [ -d /sys/class/net/eth0 ]; then ip link set eth0 up; udhcpc -b -S -t 5 -i eth0 -s /etc/udhcpc.script >/dev/null 2>&1 && echo "partita-guest: network up"; fi
echo "partita-guest: star says $(sh /opt/star/bin/reconstruct)"
echo "written by $(hostname)" > /scratch/mark && echo "partita-guest: scratch holds: $(ls -A /scratch | tr '\\n' ' ')"
touch /star-was-here && echo "partita-guest: base is writable"
touch /srv/data/x 2>/dev/null && echo "partita-guest: DATA IS WRITABLE"
if [ -f /run/seed/partita-context.sh ]; then PARTITA_SEED=/run/seed sh /run/seed/partita-context.sh; echo "partita-guest: context ended with $?"; fi
if head -c 2 /run/seed/user-data 2>/dev/null | grep -q '#!'; then sh /run/seed/user-data; echo "partita-guest: user-data ended with $?"; fi
echo "partita-guest: ready"
"""

UDHCPC = """\
#!/bin/sh
# What to do with an address that the network gave.
case $1 in
  deconfig) ip addr flush dev $interface ;;
  bound | renew)
    ip addr replace $ip/$mask dev $interface
    [ -z "$router" ] || ip route replace default via ${router%% *}
    for server in $dns; do echo "nameserver $server"; done > /etc/resolv.conf ;;
esac
"""

POOL = """\
#!/bin/sh
# The head of a cluster offers a key to those that its site lets find it; a worker compares what the site's broker told it
# with what the head itself says.
case $PARTITA_ROLE in
  head)
    mkdir -p /www && head -c 16 /dev/urandom | md5sum | cut -c 1-12 >/www/key
    httpd -p 80 -h /www && "$PARTITA_CONTEXT" put pool.key /www/key && echo "partita-guest: offers the key $(cat /www/key)" ;;
  worker)
    for head in $(awk '$2 == "head" {print $1}' "$PARTITA_PEERS"); do
      [ "$(cat "$PARTITA_DATA/$head/pool.key")" = "$(wget -q -O - "http://$head/key")" ] || { echo "$head has another key"; exit 1; }
      echo "partita-guest: found $head at $(sed -n "s/ $head\\$//p" /etc/hosts), whose key is $(cat "$PARTITA_DATA/$head/pool.key")"
    done ;;
esac
"""

RECONSTRUCT = """\
#!/bin/sh
# The "application": proves that the data partition can be read whole.
echo "$(stat -c %s /srv/data/events.dat) bytes of events, checksum $(md5sum < /srv/data/events.dat | cut -c 1-8)"
"""

FSTAB = """\
/dev/vdb /opt/star erofs ro
/dev/vdc /srv/data erofs ro
/dev/vdd /scratch ext4 rw
"""

PARTS = ("base", "star", "data")
"""The partitions that come from trees of files."""

RECIPE = """\
# {title}: build with `partita image build {file} -o IMAGE`
[image]
vo = "{vo}"
name = "{name}"
version = "{version}"
architecture = "x86_64"
os = {{ id = "debian", version = "{release}" }}
needs = {{ memory = "{memory}", cores = 1 }}
contextualization = "nocloud"

[boot]
mode = "direct"
kernel = "kernel"
initrd = "initrd"
cmdline = "console=ttyS0 quiet panic=-1 root=PARTLABEL=base{cmdline}"

[[disk]]
table = "gpt"
[[disk.partition]]
label = "base"
type = "root-x86-64"
access = "copy-on-write"
{base}

[[disk]]
table = "none"
[[disk.partition]]
label = "star"
type = "linux-generic"
access = "read-only"
{star}

[[disk]]
table = "none"
[[disk.partition]]
label = "data"
type = "srv"
access = "read-only"
{data}

[[disk]]
table = "none"
[[disk.partition]]
label = "scratch"
type = "linux-generic"
access = "copy-on-write"
source = {{ blank = "ext4", size = "{scratch}", label = "scratch" }}
"""


def recipe_text(
    vo: str,
    name: str,
    version: str,
    *,
    title: str,
    file: str,
    release: str,
    memory: str,
    base: str,
    scratch: str,
    cmdline: str = "",
    uuid: str = "",
) -> str:
    """The recipe of an image with the four kinds of partitions of the STAR experiment, whose parts lie beside it.

    Args:
        vo, name, version: what the image is called.
        title: what it is, for the recipe's first line.
        file: the recipe's own name, for the same.
        release: of Debian.
        memory: that it needs, such as "256MiB".
        base: the rest of the source of its root, after tree and filesystem, such as `size = "64MiB"`.
        scratch: size of its blank.
        cmdline: more for the kernel's command line, after a blank.
        uuid: what the UUIDs of the partitions begin with; left to the build if not given. Trees of the same files under
            the same UUID become the same bytes, in whichever image.
    """
    known = {part: f'uuid = "{uuid}{number:04d}"\n' if uuid else "" for number, part in enumerate(PARTS, 1)}
    sources = {
        "base": f'source = {{ tree = "base", filesystem = "ext4", {base} }}',
        "star": 'source = { tree = "star", filesystem = "erofs" }',
        "data": 'source = { tree = "data", filesystem = "erofs" }',
    }
    return RECIPE.format(
        vo=vo,
        name=name,
        version=version,
        title=title,
        file=file,
        release=release,
        memory=memory,
        scratch=scratch,
        cmdline=cmdline,
        **{part: known[part] + source for part, source in sources.items()},
    )


class GuestError(Exception):
    """The guest cannot be built here; the message says what is missing."""


def write_recipe(
    directory: Path,
    *,
    vo: str = "star",
    name: str = "worker",
    version: str = "1.0",
    data: int = 24 << 20,
    packages: Path | None = None,
) -> Path:
    """Put the guest's parts and its recipe into a directory.

    Args:
        directory: made if absent.
        vo, name, version: what the image is called.
        data: bytes in the data partition's one file.
        packages: where the kernel package is kept between builds; `directory` itself if not given.

    Returns:
        The recipe's path.
    """
    directory.mkdir(parents=True, exist_ok=True)
    kernel = kernel_tree(packages or directory / "packages")
    shutil.copyfile(next((kernel / "boot").glob("vmlinuz-*")), directory / "kernel")
    (directory / "initrd").write_bytes(initramfs(kernel))
    base = directory / "base"
    for place in ("proc", "sys", "dev", "run", "tmp", "opt/star", "srv/data", "scratch", "etc/acpi", "root", "var/lib"):
        (base / place).mkdir(parents=True, exist_ok=True)
    _busybox(base)
    _write(base / "etc/inittab", INITTAB)
    _write(base / "etc/rc", RC, SCRIPT)
    _write(base / "etc/fstab", FSTAB)
    _write(base / "etc/partita/context.d/20-pool", POOL, SCRIPT)
    _write(base / "etc/hosts", "127.0.0.1 localhost\n")
    _write(base / "etc/udhcpc.script", UDHCPC, SCRIPT)
    _write(base / "etc/acpi/PWRF/00000080", "#!/bin/sh\nexec poweroff\n", SCRIPT)
    _write(directory / "star/bin/reconstruct", RECONSTRUCT, SCRIPT)
    _write(directory / "star/etc/release", f"star reconstruction {version}\n")
    events = directory / "data/events.dat"
    events.parent.mkdir(exist_ok=True)
    events.write_bytes(random.Random(2007).randbytes(data))  # noqa: S311 - sample data
    recipe = directory / "recipe.toml"
    recipe.write_text(
        recipe_text(
            vo,
            name,
            version,
            title="The STAR worker in miniature",
            file=recipe.name,
            release=_release(),
            memory="256MiB",
            base='size = "64MiB"',
            scratch="512MiB",
        )
    )
    return recipe


def _release() -> str:
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
        if path := by_name.get(name):
            for dependency in [*reversed(needs[path]), path]:
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


def _busybox(root: Path) -> None:
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


def _write(path: Path, text: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text))
    path.chmod(mode)


def main() -> int:
    """`python -m examples.guest DIRECTORY [--vo VO --name NAME --version VERSION]`: write the recipe and its parts."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.guest", description="Put a small guest's parts and recipe into a directory."
    )
    parser.add_argument("directory", type=Path)
    parser.add_argument("--vo", default="star")
    parser.add_argument("--name", default="worker")
    parser.add_argument("--version", default="1.0")
    options = parser.parse_args()
    packages = Path(__file__).resolve().parent.parent / "build" / "guest-packages"
    try:
        recipe = write_recipe(
            options.directory, vo=options.vo, name=options.name, version=options.version, packages=packages
        )
    except GuestError as error:
        sys.stderr.write(f"guest: {error}\n")
        return 1
    sys.stdout.write(f"{recipe}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
