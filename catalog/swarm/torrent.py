"""BitTorrent v2 torrents (BEP 52) as a pure function of an address: the manifest is the torrent.

Every node derives the same info dict from the address that was signed, so that no torrent file, magnet link or tracker
has to be trusted. The dict has one file, named by its root, and the piece length of `catalog.image.address.piece_length`. It
has no `private` flag: every additional member makes another swarm, and whether a content is public is not a property of
the content. The purpose of private swarms is met otherwise: nodes use neither DHT nor peer exchange, and accept
connections only from addresses that the tracker named to them (docs/swarm.md).

Restricted content has a separate swarm, whose dict also contains the certificate of the catalog's swarm CA: its peers use
TLS, each with a certificate that names this one content.
"""

import hashlib
from functools import lru_cache

from catalog.errors import Malformed
from catalog.image.address import Address, layer_root, piece_length
from catalog.swarm.bencode import BencodeValue, bencode

MIN_SWARM_SIZE = 16 << 20
"""Bytes. Smaller content travels over HTTP: connecting, unchoking and slow start of a swarm take 0.3 to 0.5 s, in which
HTTP transfers this much at 300 Mbit/s, and a catalog sends it to 50 nodes within 8 s at 1 Gbit/s (docs/swarm.md)."""

SHORT_HASH_LENGTH = 20
"""Bytes of a v2 info-hash that trackers and handshakes carry (BEP 52)."""


def travels_by_swarm(size: int) -> bool:
    """Whether content of that size is fetched through the swarm, not by HTTP ranges alone."""
    return size >= MIN_SWARM_SIZE


def info_dict(address: Address, authority: bytes = b"") -> bytes:
    """The bencoded v2 info dictionary of content.

    Args:
        address: the content.
        authority: the certificate (PEM) of the CA of a restricted swarm; empty for a public one.
    """
    return bencode(_info(address, authority))


@lru_cache(maxsize=65_536)
def info_hash(address: Address, authority: bytes = b"") -> bytes:
    """The v2 info-hash, 32 bytes: SHA-256 of the info dictionary."""
    return hashlib.sha256(info_dict(address, authority)).digest()


def short_hash(address: Address, authority: bytes = b"") -> bytes:
    """The info-hash as trackers and handshakes carry it: its first 20 bytes."""
    return info_hash(address, authority)[:SHORT_HASH_LENGTH]


def torrent_file(address: Address, layer: bytes, announce: str | None = None) -> bytes:
    """Make a `.torrent` file for any BitTorrent v2 client.

    Args:
        address: the content.
        layer: its piece layer, as `catalog.content.indexing` computes it; checked here against the root.
        announce: the tracker's URL, or None to leave it out.

    Raises:
        Malformed: the layer does not belong to the content.
    """
    try:
        matches = layer_root(layer, address.size) == address.root
    except ValueError as exc:
        raise Malformed(f"the piece layer of {address}: {exc}") from exc
    if not matches:
        raise Malformed(f"the piece layer of {address}: its root differs; compute it again from the content")
    return unchecked_torrent(address, layer, announce)


def unchecked_torrent(address: Address, layer: bytes, announce: str | None = None, authority: bytes = b"") -> bytes:
    """As :func:`torrent_file`, for a layer that has been checked; with an authority, of the restricted swarm."""
    single = address.size <= piece_length(address.size)
    torrent: dict[bytes, BencodeValue] = {
        b"info": _info(address, authority),
        b"piece layers": {} if single else {address.root: layer},
    }
    if announce:
        torrent[b"announce"] = announce.encode()
    return bencode(torrent)


def _info(address: Address, authority: bytes) -> BencodeValue:
    name = address.root.hex().encode()
    info: dict[bytes, BencodeValue] = {
        b"file tree": {name: {b"": {b"length": address.size, b"pieces root": address.root}}},
        b"meta version": 2,
        b"name": name,
        b"piece length": piece_length(address.size),
    }
    if authority:
        info[b"ssl-cert"] = authority
    return info
