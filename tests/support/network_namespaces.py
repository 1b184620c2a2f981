"""Hosts for tests and benchmarks: network namespaces joined by a bridge, with links shaped by tc; real processes in each.

    with Network() as network:
        origin = network.host("origin", mbit=100)
        process = origin.popen([sys.executable, "-m", "...", "--listen", origin.ip])

A host whose address is on a bridge can have guests: `network.host("node", bridge="partita0")`; `host.lend()` gives them
addresses, from whichever host.

Nothing here reaches beyond its own namespaces. Leaving the block ends every process that was started in them and removes
them; what an owner that was killed left behind is removed by the next owner, who knows by the name that it is gone.
"""

import contextlib
import ctypes
import functools
import itertools
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

PREFIX = "prt"
SUBNET = "10.77.0"
"""Each network has a bridge of its own, so that all may use the same addresses."""

GUESTS = f"{SUBNET}.100,{SUBNET}.250,1h"
"""What `Host.lend` gives to whoever asks."""

_CLONE_NEWNET = 0x40000000
_numbers = itertools.count(1)


@functools.cache
def unavailable() -> str | None:
    """Why this machine cannot have such hosts, or None when it can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    name = f"{PREFIX}{os.getpid()}p{_started(os.getpid())}x0"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if made.returncode:
        return f"network namespaces are not allowed here: {made.stderr.strip()}"
    try:
        for command in (
            ["ip", "link", "add", "name", "one", "type", "veth", "peer", "name", "other"],
            ["ip", "link", "add", "name", "br0", "type", "bridge"],
            ["tc", "qdisc", "add", "dev", "one", "root", "tbf", "rate", "1mbit", "burst", "64kb", "latency", "50ms"],
        ):
            tried = subprocess.run(["ip", "netns", "exec", name, *command], capture_output=True, text=True)
            if tried.returncode:
                return f"{' '.join(command[:6])} does not work here: {tried.stderr.strip()}"
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)
    return None


class Host:
    """One namespace with one address.

    Attributes:
        ip: its IPv4 address on the network.
    """

    def __init__(self, network: "Network", name: str, ip: str) -> None:
        self.name, self.ip = name, ip
        self.namespace = f"{network.tag}{name}"
        self._network = network
        self._port = f"v{name}"
        self._processes: list[Any] = []

    def run(self, *command: str) -> str:
        """Run a command here to its end; returns what it printed."""
        return _ip(self.namespace, *command)

    def popen(self, command: Sequence[str], **options: Any) -> "subprocess.Popen[bytes]":
        """Start a process here; it is ended with the network at the latest."""
        process = subprocess.Popen(["nsenter", f"--net=/run/netns/{self.namespace}", "--", *command], **options)
        self.adopt(process)
        return process

    def adopt(self, process: Any) -> None:
        """End a process that runs here with the network at the latest; it is one of `subprocess.Popen`, or like those."""
        self._processes.append(process)

    @property
    def entering(self) -> tuple[str, ...]:
        """What to begin a command with so that it runs here. It sees the /sys of this host, as nsenter alone would not do."""
        return ("ip", "netns", "exec", self.namespace)

    def lend(self, directory: Path, **names: str) -> None:
        """Give addresses to guests of the whole network (DHCP), and tell them of hosts by these names (DNS)."""
        records = [f"--host-record={name},{address}" for name, address in names.items()]
        with (directory / "dnsmasq.log").open("wb") as log:
            self.popen(
                ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--interface=eth0", "--bind-interfaces",
                 "--no-ping", "--no-resolv", "--no-hosts", "--dhcp-option=option:router", f"--dhcp-range={GUESTS}",
                 f"--dhcp-leasefile={directory / 'leases'}", "--pid-file=", *records],
                stdout=log, stderr=log,
            )  # fmt: skip

    def shape(self, mbit: float) -> None:
        """Limit the link to so many Mbit/s each way."""
        # A queue of 50 ms, as a switch with small buffers has; a burst of 5 ms, at least one segmented packet.
        burst = max(64 << 10, int(mbit * 1e6 / 8 * 0.005))
        limits = ["root", "tbf", "rate", f"{int(mbit * 1000)}kbit", "burst", str(burst), "latency", "50ms"]
        self.run("tc", "qdisc", "replace", "dev", "eth0", *limits)
        _ip(self._network.switch, "tc", "qdisc", "replace", "dev", self._port, *limits)

    def cut(self) -> None:
        """Unplug the cable: packets vanish, and neither side is told."""
        _ip(self._network.switch, "ip", "link", "set", self._port, "nomaster")

    def mend(self) -> None:
        """Plug it in again."""
        _ip(self._network.switch, "ip", "link", "set", self._port, "master", "br0")

    def sent(self) -> int:
        """Bytes that left this host so far, headers included."""
        return int(self._counters()["tx"]["bytes"])

    def received(self) -> int:
        """Bytes that reached this host so far, headers included."""
        return int(self._counters()["rx"]["bytes"])

    def _counters(self) -> dict[str, Any]:
        return dict(json.loads(self.run("ip", "-j", "-s", "link", "show", "eth0"))[0]["stats64"])

    def end(self) -> None:
        """End every process that was started here: asked first, killed after two seconds."""
        for process in self._processes:
            if process.poll() is None:
                process.terminate()
        deadline = time.monotonic() + 2
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
        _kill_all_in(self.namespace)
        for process in self._processes:
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream:
                    stream.close()


class Network:
    """A switch and the hosts that are plugged into it."""

    def __init__(self) -> None:
        sweep()
        self.tag = f"{PREFIX}{os.getpid()}p{_started(os.getpid())}x{next(_numbers)}"
        self.switch = f"{self.tag}sw"
        self.hosts: list[Host] = []

    def __enter__(self) -> Self:
        subprocess.run(["ip", "netns", "add", self.switch], check=True)
        try:
            _ip(self.switch, "ip", "link", "add", "br0", "type", "bridge", "stp_state", "0", "forward_delay", "0")
            _ip(self.switch, "ip", "link", "set", "br0", "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            for host in self.hosts:
                host.end()
        finally:
            for namespace in [*(host.namespace for host in self.hosts), self.switch]:
                _remove(namespace)

    def host(self, name: str, mbit: float | None = None, bridge: str = "") -> Host:
        """Add a host (a name of at most ten characters); without `mbit` its link is as fast as the machine.

        With `bridge`, its address is on a bridge of that name, into which guests can be plugged beside its own link.
        """
        host = Host(self, name, f"{SUBNET}.{len(self.hosts) + 1}")
        subprocess.run(["ip", "netns", "add", host.namespace], check=True)
        self.hosts.append(host)
        port = f"v{name}"
        _ip(self.switch, "ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", host.namespace)
        _ip(self.switch, "ip", "link", "set", port, "master", "br0", "up")
        if bridge:
            host.run("ip", "link", "add", bridge, "type", "bridge", "stp_state", "0", "forward_delay", "0")
            host.run("ip", "link", "set", "eth0", "master", bridge)
            host.run("ip", "link", "set", bridge, "up")
        host.run("ip", "address", "add", f"{host.ip}/24", "dev", bridge or "eth0")
        host.run("ip", "link", "set", "eth0", "up")
        host.run("ip", "link", "set", "lo", "up")
        if mbit is not None:
            host.shape(mbit)
        return host


def inside(host: Host, work: Callable[[], Any]) -> Any:
    """Call a function in a thread whose sockets belong to that host's network; returns or raises what it does."""
    import threading

    outcome: list[Any] = []

    def there() -> None:
        try:
            enter(host.namespace)
            outcome.append(work())
        except BaseException as exc:  # noqa: BLE001 - raised again in the caller's thread
            outcome.append(exc)

    thread = threading.Thread(target=there)
    thread.start()
    thread.join()
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


def enter(namespace: str) -> None:
    """Put the calling thread into a namespace, and those that it starts from now on."""
    with Path(f"/run/netns/{namespace}").open() as file:
        if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"setns into {namespace}")


def sweep() -> None:
    """Remove the namespaces of owners that are gone, and the processes in them."""
    directory = Path("/run/netns")
    for entry in directory.glob(f"{PREFIX}*") if directory.is_dir() else ():
        owner, _, rest = entry.name.removeprefix(PREFIX).partition("p")
        started = rest.partition("x")[0]
        if owner.isdigit() and started.isdigit() and _started(int(owner)) != int(started):
            _kill_all_in(entry.name)
            _remove(entry.name)


def _started(pid: int) -> int:
    """When a process began, in clock ticks since boot, or -1: with it a reused number is told from the old owner."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, IndexError):
        return -1


def _ip(namespace: str, *command: str) -> str:
    done = subprocess.run(["ip", "netns", "exec", namespace, *command], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{namespace}: {' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def _kill_all_in(namespace: str) -> None:
    listed = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True)
    for pid in listed.stdout.split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)


def _remove(namespace: str) -> None:
    subprocess.run(["ip", "netns", "del", namespace], capture_output=True)
