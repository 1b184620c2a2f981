"""A small real guest: the four kinds of partitions of the STAR worker of the 2007 paper, in miniature.

A Debian kernel, an initramfs, and four partitions: `base` (the root, copy-on-write, on a GPT disk), `star` (the
application, read-only), `data` (read-only), `scratch` (blank). Everything comes from Debian packages and is built without
root; the result is a recipe for `partita image build`. The same packages give the same bytes.

The guest finds its NoCloud seed by its label, takes the host name from it, runs the site's context agent that lies there and
user-data that is a script, and says on its console what it mounted. It ends when it is asked to by ACPI.
"""

import argparse
import random
import shutil
import sys
from pathlib import Path

from examples.guest_system import SCRIPT, GuestError, busybox_links, initramfs, kernel_release, kernel_tree, write_file

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
    busybox_links(base)
    write_file(base / "etc/inittab", INITTAB)
    write_file(base / "etc/rc", RC, SCRIPT)
    write_file(base / "etc/fstab", FSTAB)
    write_file(base / "etc/partita/context.d/20-pool", POOL, SCRIPT)
    write_file(base / "etc/hosts", "127.0.0.1 localhost\n")
    write_file(base / "etc/udhcpc.script", UDHCPC, SCRIPT)
    write_file(base / "etc/acpi/PWRF/00000080", "#!/bin/sh\nexec poweroff\n", SCRIPT)
    write_file(directory / "star/bin/reconstruct", RECONSTRUCT, SCRIPT)
    write_file(directory / "star/etc/release", f"star reconstruction {version}\n")
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
            release=kernel_release(),
            memory="256MiB",
            base='size = "64MiB"',
            scratch="512MiB",
        )
    )
    return recipe


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
