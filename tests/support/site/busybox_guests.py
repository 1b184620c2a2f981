"""Small real guests for tests of contextualization: a Debian kernel, busybox, a seed, and nothing of Partita but its agent."""

import gzip
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from examples.guest_system import initramfs, kernel_tree

PACKAGES = Path(__file__).resolve().parents[3] / "build" / "guest-packages"

INIT = """\
#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /tmp /run /var/lib /etc/ssh /www /mnt
/bin/busybox --install -s /bin
export PATH=/bin HOME=/
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
for module in $(cat /modules/order); do insmod /modules/$module 2>/dev/null; done
exec >/dev/ttyS0 2>&1 </dev/null
hostname unnamed
echo "127.0.0.1 localhost" > /etc/hosts
ip link set lo up
ip link set eth0 up
udhcpc -q -n -t 10 -i eth0 -s /etc/udhcpc.script >/dev/null && echo "guest: network up"
mount -t iso9660 -o ro /dev/vda /mnt && cp /mnt/partita-context.sh /mnt/user-data /tmp/ && umount /mnt
sh /tmp/user-data
sh /tmp/partita-context.sh; echo "guest: agent ended with $?"
echo "guest: called $(hostname)"
sed 's/^/guest: hosts: /' /etc/hosts
echo "guest: done"
sleep 600
"""

UDHCPC = """\
#!/bin/sh
[ "$1" = bound ] || exit 0
ip addr add $ip/$mask dev $interface
ip route add default via $router
"""


def initrd(place: Path, files: Mapping[str, str]) -> Path:
    """The initramfs: that of the example guest, and on top of it our init and these executable files."""
    tree = place / "tree"
    for name, text in {"init": INIT, "etc/udhcpc.script": UDHCPC, **files}.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    names = "\n".join(str(path.relative_to(tree)) for path in sorted(tree.rglob("*")))
    packed = subprocess.run(
        ["cpio", "-o", "-H", "newc", "--quiet"], cwd=tree, input=names.encode(), capture_output=True, check=True
    ).stdout
    made = place / "initrd"
    # The kernel unpacks one archive after the other; a file that comes again is the one that counts.
    made.write_bytes(initramfs(kernel_tree(PACKAGES)) + gzip.compress(packed, 1))
    return made


class Emulated:
    """A guest in an emulator: behind its address translation, and on a cable to another guest."""

    def __init__(self, place: Path, name: str, initrd: Path, seed: bytes, cable: Path, *, first: bool) -> None:
        self.log, drive = place / f"{name}.log", place / f"{name}.iso"
        drive.write_bytes(seed)
        kernel = next((kernel_tree(PACKAGES) / "boot").glob("vmlinuz-*"))
        server = "on" if first else "off"
        with (place / f"{name}.err").open("wb") as errors:
            self._process = subprocess.Popen(
                [
                    *(
                        "qemu-system-x86_64",
                        "-M",
                        "q35",
                        "-accel",
                        "tcg",
                        "-m",
                        "192",
                        "-nodefaults",
                        "-nographic",
                        "-no-reboot",
                    ),
                    *("-kernel", kernel, "-initrd", initrd, "-append", "console=ttyS0 quiet panic=-1"),
                    *("-serial", f"file:{self.log}"),
                    *("-drive", f"file={drive},format=raw,if=virtio,readonly=on"),
                    *("-netdev", "user,id=out", "-device", "virtio-net-pci,netdev=out"),
                    *("-netdev", f"stream,id=cable,server={server},addr.type=unix,addr.path={cable}"),
                    *("-device", f"virtio-net-pci,netdev=cable,mac=52:54:00:00:00:0{1 if first else 2}"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )
        self._errors, self._cable = place / f"{name}.err", cable

    def wait_for_cable(self, seconds: float = 60) -> None:
        """Until the other guest may be plugged in."""
        until = time.monotonic() + seconds
        while not self._cable.exists():
            assert self._process.poll() is None, self._errors.read_text()
            assert time.monotonic() < until, "the emulator does not open its socket"
            time.sleep(0.05)

    def said(self) -> str:
        """What it wrote to its console."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def wait(self, words: str, seconds: float = 120) -> str:
        """Its console, once it holds these words."""
        until = time.monotonic() + seconds
        while words not in (said := self.said()):
            assert self._process.poll() is None, self._errors.read_text() + said
            assert time.monotonic() < until, said
            time.sleep(0.1)
        return said

    def end(self) -> None:
        """Pull the plug."""
        self._process.kill()
        self._process.wait()
