"""BitTorrent v2 torrents (BEP 52) as a pure function of an address: the manifest is the torrent.

Every node derives the same info dict from the address that was signed, so that no torrent file, magnet link or tracker
has to be trusted. The dict has exactly what the function needs: one file, named by its root; the piece length that
`catalog.image.address.piece_length` gives; no `private` flag, since any member more would be a swarm of its own, and whether
content is public is no property of the content. What private swarms are for is done elsewhere: nodes use no DHT and no
peer exchange, and take connections only from addresses that the tracker named to them (docs/swarm.md).

Restricted content has a swarm of its own, whose dict also carries the certificate of the catalog's authority: its peers
speak TLS, and each shows a certificate that names this one content.
"""

import hashlib
from functools import lru_cache

from catalog.errors import Malformed
from catalog.image.address import Address, layer_root, piece_length
from catalog.swarm.bencode import BencodeValue, bencode

MIN_SWARM_SIZE = 16 << 20
"""Bytes. What is smaller travels over HTTP: connecting, unchoking and slow start of a swarm take 0.3 to 0.5 s, in which
HTTP has brought this much at 300 Mbit/s, and a catalog sends it to 50 nodes within 8 s at 1 Gbit/s (docs/swarm.md)."""

SHORT_HASH_LENGTH = 20
"""Bytes of a v2 info-hash that trackers and handshakes carry (BEP 52)."""


def travels_by_swarm(size: int) -> bool:
    """Whether content of that many bytes goes through the swarm; else it is fetched over HTTP ranges alone."""
    return size >= MIN_SWARM_SIZE


def info_dict(address: Address, authority: bytes = b"") -> bytes:
    """The bencoded v2 info dictionary of content.

    Args:
        address: the content.
        authority: the certificate (PEM) of the authority that admits to a restricted swarm; none for a public one.
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
    """A `.torrent` that any BitTorrent v2 client can use.

    Args:
        address: the content.
        layer: its piece layer, as `catalog.content.indexing` computes it; proved here against the root.
        announce: the tracker's URL, or None for none.

    Raises:
        Malformed: the layer is not the content's.
    """
    try:
        proved = layer_root(layer, address.size) == address.root
    except ValueError as exc:
        raise Malformed(f"the piece layer of {address}: {exc}") from exc
    if not proved:
        raise Malformed(f"the piece layer of {address}: its root is another; compute it again from the content")
    return unchecked_torrent(address, layer, announce)


def unchecked_torrent(address: Address, layer: bytes, announce: str | None = None, authority: bytes = b"") -> bytes:
    """As :func:`torrent_file`, for a layer that has been proved; with an authority, of the restricted swarm."""
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
