"""Whom the host has met: what the kernel tells of its neighbours, asked for real and in the words of other kernels."""

import socket
import struct

import pytest

from deployer.hypervisor.neighbor_table import parse_datagram, read_neighbors
from tests.support.network_namespaces import Network, inside, unavailable

MAC = "52:54:00:aa:bb:cc"
DONE = struct.pack("=IHHII", 20, 3, 2, 1, 0) + bytes(4)


def entry(state: int = 0x02, mac: str = MAC, address: str = "192.0.2.7", family: int = socket.AF_INET) -> bytes:
    """A neighbour as rtnetlink(7) writes it, with an attribute that nobody reads before those that count."""
    attributes = b""
    for kind, value in ((3, b"abc"), (1, socket.inet_pton(family, address)), (2, bytes.fromhex(mac.replace(":", "")))):
        attributes += struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)
    body = struct.pack("=BBHiHBB", family, 0, 0, 7, state, 0, 0) + attributes
    return struct.pack("=IHHII", 16 + len(body), 28, 2, 1, 0) + body


def test_the_host_s_own_table_is_read() -> None:
    if reason := unavailable():
        pytest.skip(reason)
    with Network() as network:
        host = network.host("one")
        for address, mac, state in (
            ("10.77.0.9", MAC, "stale"),
            ("10.77.0.7", MAC, "reachable"),
            ("fd00::7", MAC, "reachable"),
            ("10.77.0.8", "52:54:00:aa:bb:dd", "permanent"),
            ("10.77.0.6", "52:54:00:aa:bb:ee", "failed"),
        ):
            host.run("ip", "neighbour", "add", address, "lladdr", mac, "nud", state, "dev", "eth0")
        found = inside(host, read_neighbors)
    assert found[MAC][-1] == "10.77.0.9"
    assert sorted(found[MAC][:2]) == ["10.77.0.7", "fd00::7"]
    assert found["52:54:00:aa:bb:dd"] == ("10.77.0.8",)
    assert "52:54:00:aa:bb:ee" not in found


@pytest.mark.parametrize(
    ("what", "datagrams", "expected"),
    [
        ("the end in a datagram of its own", [entry(), DONE], [(False, MAC, "192.0.2.7")]),
        ("the end in the last datagram, as since Linux 6.9", [entry() + DONE], [(False, MAC, "192.0.2.7")]),
        ("one that was met long ago", [entry(0x04) + DONE], [(True, MAC, "192.0.2.7")]),
        ("one whose answer is awaited", [entry(0x01) + DONE], []),
        ("one that did not answer", [entry(0x20) + DONE], []),
        ("a tunnel's, without a MAC address", [entry(mac="") + DONE], []),
        ("IPv6", [entry(address="2001:db8::7", family=socket.AF_INET6) + DONE], [(False, MAC, "2001:db8::7")]),
        ("none at all", [DONE], []),
    ],
)
def test_what_kernels_answer(what: str, datagrams: list[bytes], expected: list[tuple[bool, str, str]]) -> None:
    found: list[tuple[bool, str, str]] = []
    assert [parse_datagram(datagram, found) for datagram in datagrams] == [True] * (len(datagrams) - 1) + [False], what
    assert found == expected


@pytest.mark.parametrize(
    "datagram",
    [
        struct.pack("=IHHIIi", 36, 2, 0, 1, 0, -1) + bytes(16),
        entry()[:-1],
        entry()[:20],
        bytes(16),
        b"abc",
        entry().replace(struct.pack("=HH", 8, 1), struct.pack("=HH", 0, 1)),
    ],
    ids=[
        "an error",
        "a message cut short",
        "a neighbour cut short",
        "a length of zero",
        "a header cut short",
        "a loop",
    ],
)
def test_an_answer_that_is_none_is_an_error(datagram: bytes) -> None:
    with pytest.raises((OSError, struct.error)):
        parse_datagram(datagram, [])
