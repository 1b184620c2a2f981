"""The host's neighbour table: which IP addresses the kernel has met at which MAC addresses. Asked of the kernel by rtnetlink(7).

libvirt has the same under VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_ARP, but 9.0 cannot read the answer of kernels that put the end
of the list into its last datagram ("wrong nlmsg len"). Only guests that this host itself talks with are in the table.
"""

import socket
import struct
from collections.abc import Iterator, Mapping

from deployer.errors import BackendFailed

MAX_ANSWER = 64 << 20
"""Bytes of a whole answer: some 100 for each neighbour, and no host has more of these than its table's third threshold."""

SECONDS = 5.0
"""Until the kernel has answered; it does so at once."""

_HEADER = struct.Struct("=IHHII")
"""struct nlmsghdr: length with this header, type, flags, sequence, port."""
_NEIGHBOUR = struct.Struct("=BBHiHBB")
"""struct ndmsg: family, padding, padding, interface, state, flags, type."""
_ATTRIBUTE = struct.Struct("=HH")
"""struct rtattr: length with this header, type."""

_ERROR, _DONE, _NEW_NEIGHBOUR, _GET_NEIGHBOUR = 2, 3, 28, 30
_REQUEST_DUMP = 0x301
_DESTINATION, _LINK_ADDRESS = 1, 2
_BELIEVED = 0x02 | 0x04 | 0x08 | 0x10 | 0x80
"""States (NUD_*): reachable, stale, delay, probe, permanent. The others are guesses, failures, and what needs no ARP."""
_STALE = 0x04


def read_neighbors() -> Mapping[str, tuple[str, ...]]:
    """IP addresses by MAC address (`52:54:00:..`), those of which the kernel was sure last before the others.

    Raises:
        BackendFailed: the kernel does not answer.
    """
    found: list[tuple[bool, str, str]] = []
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
            kernel.settimeout(SECONDS)
            asked = _NEIGHBOUR.pack(socket.AF_UNSPEC, 0, 0, 0, 0, 0, 0)
            size = _HEADER.size + len(asked)
            kernel.send(_HEADER.pack(size, _GET_NEIGHBOUR, _REQUEST_DUMP, 1, 0) + asked)
            total, more = 0, True
            while more and total < MAX_ANSWER:
                datagram = kernel.recv(1 << 20)
                total += len(datagram)
                more = parse_datagram(datagram, found)
    except (OSError, struct.error) as exc:
        raise BackendFailed(f"the host's neighbour table cannot be read: {exc}") from exc
    by_mac: dict[str, dict[str, None]] = {}
    for _, mac, address in sorted(found, key=lambda one: one[0]):
        by_mac.setdefault(mac, {})[address] = None
    return {mac: tuple(addresses) for mac, addresses in by_mac.items()}


def parse_datagram(datagram: bytes, found: list[tuple[bool, str, str]]) -> bool:
    """Add the entries of a datagram: (whether stale, MAC, IP address). Returns whether more datagrams follow.

    Raises:
        OSError: the kernel reports an error.
        struct.error: it is cut off.
    """
    at = 0
    while at < len(datagram):
        length, kind, _flags, _sequence, _port = _HEADER.unpack_from(datagram, at)
        if kind == _DONE:
            return False
        if kind == _ERROR:
            code = -struct.unpack_from("=i", datagram, at + _HEADER.size)[0]
            raise OSError(code, "the kernel refuses to list its neighbours")
        if length < _HEADER.size or at + length > len(datagram):
            raise struct.error(f"a message of {length} bytes in {len(datagram) - at}")
        if kind == _NEW_NEIGHBOUR:
            found += _entries(datagram[at + _HEADER.size : at + length])
        at += _aligned(length)
    return True


def _entries(message: bytes) -> Iterator[tuple[bool, str, str]]:
    family, _, _, _, state, _, _ = _NEIGHBOUR.unpack_from(message)
    if family not in {socket.AF_INET, socket.AF_INET6} or not state & _BELIEVED:
        return
    attributes, at = {}, _NEIGHBOUR.size
    while at + _ATTRIBUTE.size <= len(message):
        length, kind = _ATTRIBUTE.unpack_from(message, at)
        if length < _ATTRIBUTE.size:
            raise struct.error(f"an attribute of {length} bytes")
        attributes[kind] = message[at + _ATTRIBUTE.size : at + length]
        at += _aligned(length)
    address, mac = attributes.get(_DESTINATION, b""), attributes.get(_LINK_ADDRESS, b"")
    if len(mac) == 6 and len(address) == (4 if family == socket.AF_INET else 16):
        yield bool(state & _STALE), mac.hex(":"), socket.inet_ntop(family, address)


def _aligned(length: int) -> int:
    """Messages and attributes begin at multiples of four bytes."""
    return (length + 3) & ~3
