"""The hosts that tests are made of: links are as slow as said, cables can be pulled, and nothing outlives its owner."""

import contextlib
import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.network_namespaces import Host, Network, inside, sweep, unavailable

OWNER = """
import subprocess, sys
from tests.support.network_namespaces import Network
with Network() as network:
    host = network.host("h")
    process = host.popen(["sleep", "600"])
    print(host.namespace, network.switch, process.pid, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def network() -> Iterator[Network]:
    if reason := unavailable():
        pytest.skip(reason)
    with Network() as made:
        yield made


def send(source: Host, sink: Host, count: int) -> float:
    """Seconds that so many bytes take over one connection."""
    server = inside(sink, lambda: socket.create_server((sink.ip, 5000)))
    with server, inside(source, lambda: socket.create_connection((sink.ip, 5000), 5)) as out:
        connection, _ = server.accept()
        with connection:
            began = time.monotonic()
            out.setblocking(False)
            left, got = count, 0
            while got < count:
                try:
                    left -= out.send(bytes(min(left, 65536))) if left else 0
                except BlockingIOError:
                    time.sleep(0.001)
                connection.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    got += len(connection.recv(1 << 20))
            return time.monotonic() - began


@pytest.mark.parametrize("slow", ["source", "sink"])
def test_a_link_is_as_slow_as_it_was_told(network: Network, slow: str) -> None:
    hosts = {name: network.host(name, 40 if name == slow else None) for name in ("source", "sink")}
    before = hosts["source"].sent()
    assert send(hosts["source"], hosts["sink"], 3_000_000) >= 0.5  # 24 Mbit at 40 Mbit/s, less the burst
    assert 3_000_000 <= hosts["source"].sent() - before < 3_600_000


def test_a_cable_can_be_pulled_and_put_back(network: Network) -> None:
    one, other = network.host("one"), network.host("other")
    one.cut()
    with pytest.raises(OSError, match="timed out"):
        inside(one, lambda: socket.create_connection((other.ip, 5000), 0.5))
    one.mend()
    with pytest.raises(ConnectionRefusedError):
        inside(one, lambda: socket.create_connection((other.ip, 5000), 5))


def test_guests_on_the_bridges_of_hosts_get_addresses_and_reach_each_other(network: Network, tmp_path: Path) -> None:
    if lacking := [tool for tool in ("dnsmasq", "busybox") if shutil.which(tool) is None]:
        pytest.skip(f"{', '.join(lacking)} missing")
    names = network.host("names")
    names.lend(tmp_path, **{"broker.partita": "10.77.0.77"})
    script = tmp_path / "bound"
    script.write_text('#!/bin/sh\n[ "$1" != bound ] || ip address add $ip/$mask dev $interface\n')
    script.chmod(0o755)
    guests = []
    for name in ("one", "two"):
        node, guest = network.host(name, bridge="guests0"), network.host(f"{name}guest")
        guest.cut()  # what it says goes through its node
        node.run("ip", "link", "add", "tap", "type", "veth", "peer", "name", "eth1", "netns", guest.namespace)
        node.run("ip", "link", "set", "tap", "master", "guests0", "up")
        guest.run("ip", "address", "flush", "dev", "eth0")
        guest.run("ip", "link", "set", "eth1", "up")
        guest.run("busybox", "udhcpc", "-n", "-q", "-f", "-t", "60", "-T", "1", "-i", "eth1", "-s", str(script))
        guests.append(guest)
    given = []
    for guest in guests:
        (address,) = json.loads(guest.run("ip", "-j", "-4", "address", "show", "dev", "eth1"))[0]["addr_info"]
        given.append(address["local"])
    assert len({*given}) == 2
    assert all(100 <= int(one.rpartition(".")[2]) <= 250 for one in given)
    with pytest.raises(ConnectionRefusedError):
        inside(guests[0], lambda: socket.create_connection((given[1], 5000), 60))
    assert "10.77.0.77" in guests[0].run("busybox", "nslookup", "-type=a", "broker.partita", names.ip)


def test_what_runs_in_a_host_ends_with_the_network() -> None:
    if reason := unavailable():
        pytest.skip(reason)
    with Network() as network:
        deaf = "import time, signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
        process = network.host("host").popen([sys.executable, "-c", deaf])
        names = [network.switch, network.hosts[0].namespace]
    assert process.poll() is not None
    assert not any(Path(f"/run/netns/{name}").exists() for name in names)


def test_what_a_killed_owner_left_behind_is_removed_by_the_next() -> None:
    if reason := unavailable():
        pytest.skip(reason)
    command = [sys.executable, "-c", OWNER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout
        host, switch, pid = owner.stdout.readline().split()
        assert Path(f"/run/netns/{host}").exists()
        sweep()
        assert Path(f"/run/netns/{host}").exists()  # its owner lives
        owner.send_signal(signal.SIGKILL)
        owner.wait()
    sweep()
    assert not Path(f"/run/netns/{host}").exists()
    assert not Path(f"/run/netns/{switch}").exists()
    status = Path(f"/proc/{pid}/status")
    assert not status.exists() or "zombie" in status.read_text()
