"""The cluster of the 2007 paper: a head node and workers of the STAR experiment, with Slurm from Debian's own packages.

    python -m examples.star.build DIRECTORY
    partita image build DIRECTORY/head.toml -o HEAD
    partita image build DIRECTORY/worker.toml -o WORKER

Both images have the same base (a Debian root with Slurm, copy-on-write), the same application (read-only) and the same
data (read-only), so a node that has one of them needs nothing for the other; their blank scratch differs in size. Which
of the two a machine is, it learns from its site: the scripts in /etc/partita/context.d read its role. Needs root and
mmdebstrap; nothing is mounted.
"""

import argparse
import random
import shutil
import subprocess
import sys
from pathlib import Path

from examples.guest import recipe_text
from examples.guest_system import GuestError, initramfs, kernel_tree

SUITE = "bookworm"
PACKAGES = (
    "systemd-sysv",
    "udev",
    "dbus",
    "iproute2",
    "munge",
    "slurmctld",
    "slurmd",
    "slurm-client",
    "curl",
    "openssl",
)
LEFT_OUT = ("man", "locale", "doc")
FILES = Path(__file__).resolve().parent / "files"
"""What is put on top of Debian: units, the network's settings, the scripts of the context."""

ENABLED = {
    "multi-user.target.wants": ("star-context.service",),
    "network-online.target.wants": ("systemd-networkd-wait-online.service",),
    "sockets.target.wants": ("systemd-networkd.socket",),
}
UNITS = Path("lib/systemd/system")
DISABLED = ("munge", "slurmctld", "slurmd", "getty@tty1", "e2scrub_reap", "apt-daily.timer", "apt-daily-upgrade.timer")
"""Units that Debian starts by itself: the pool's are started when the machine knows what it is."""

UUID = "6f1d3c70-5a0b-5e0c-8d55-2a2c6d0e"
"""What the UUIDs of partitions begin with: those that both images have are told apart by nothing."""

SCRATCH = {"head": "128MiB", "worker": "512MiB"}


def write_recipes(
    directory: Path, *, vo: str = "star", version: str = "1.0", data: int = 8 << 20, packages: Path | None = None
) -> tuple[Path, Path]:
    """Put the parts and the two recipes into a directory.

    Args:
        directory: made if absent.
        vo, version: what the images are called by, beside `head` and `worker`.
        data: bytes in the data partition's one file.
        packages: where the kernel package is kept between builds; `directory` itself if not given.

    Returns:
        The recipes of head and worker.

    Raises:
        GuestError: Debian's packages cannot be had.
    """
    directory.mkdir(parents=True, exist_ok=True)
    kernel = kernel_tree(packages or directory / "packages")
    shutil.copyfile(next((kernel / "boot").glob("vmlinuz-*")), directory / "kernel")
    (directory / "initrd").write_bytes(initramfs(kernel))
    _base(directory / "base")
    shutil.copytree(FILES / "star", directory / "star", dirs_exist_ok=True)
    events = directory / "data/events.dat"
    events.parent.mkdir(exist_ok=True)
    events.write_bytes(random.Random(2007).randbytes(data))  # noqa: S311 - sample data
    for role, scratch in SCRATCH.items():
        recipe = directory / f"{role}.toml"
        recipe.write_text(
            recipe_text(
                vo,
                role,
                version,
                title=f"The {role} node of the STAR cluster",
                file=recipe.name,
                release="12",
                memory="384MiB",
                base='size = "640MiB", owner = "keep"',
                scratch=scratch,
                cmdline=" systemd.show_status=0",
                uuid=UUID,
            )
        )
    return directory / "head.toml", directory / "worker.toml"


def _base(root: Path) -> None:
    made = subprocess.run(
        ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(PACKAGES)}",
         *(f"--dpkgopt=path-exclude=/usr/share/{place}/*" for place in LEFT_OUT), SUITE, root],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if made.returncode:
        raise GuestError(f"mmdebstrap cannot make a Debian {SUITE}: {made.stderr.strip()[-500:]}")
    for place in ("opt/star", "srv/data", "scratch"):
        (root / place).mkdir(parents=True, exist_ok=True)
    shutil.copytree(FILES / "base", root, dirs_exist_ok=True, symlinks=True)
    wants = root / "etc/systemd/system"
    for group, units in ENABLED.items():
        (wants / group).mkdir(exist_ok=True)
        for unit in units:
            here = (wants / unit).exists()
            (wants / group / unit).symlink_to(f"/etc/systemd/system/{unit}" if here else f"/{UNITS}/{unit}")
    for name in DISABLED:
        unit = name if "." in name else f"{name}.service"
        for link in wants.glob(f"*.wants/{unit}"):
            link.unlink()
    (root / "etc/systemd/system/multi-user.target.wants/systemd-networkd.service").symlink_to(
        f"/{UNITS}/systemd-networkd.service"
    )
    (root / "etc/hostname").write_text("star\n")
    (root / "etc/machine-id").write_text("")
    (root / "etc/munge/munge.key").unlink(missing_ok=True)  # made by the head of each cluster
    (root / "etc/resolv.conf").unlink(missing_ok=True)
    (root / "etc/resolv.conf").write_text("")
    shutil.rmtree(root / "var/lib/apt/lists", ignore_errors=True)
    shutil.rmtree(root / "var/cache/apt", ignore_errors=True)


def main() -> int:
    """`python -m examples.star.build DIRECTORY [--vo VO --version VERSION]`: write the recipes and their parts."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.star.build", description="Put the STAR cluster's parts and recipes into a directory."
    )
    parser.add_argument("directory", type=Path)
    parser.add_argument("--vo", default="star")
    parser.add_argument("--version", default="1.0")
    options = parser.parse_args()
    packages = Path(__file__).resolve().parent.parent.parent / "build" / "guest-packages"
    try:
        recipes = write_recipes(options.directory, vo=options.vo, version=options.version, packages=packages)
    except GuestError as error:
        sys.stderr.write(f"star: {error}\n")
        return 1
    sys.stdout.writelines(f"{recipe}\n" for recipe in recipes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
