"""The torrent is a pure function of the address, the same that libtorrent makes of the same content."""

import hashlib
import os
from datetime import UTC, datetime
from pathlib import Path

import libtorrent as lt
import pytest

from catalog.content.indexing import index_file
from catalog.errors import Malformed
from catalog.image.address import LEAF, Address, piece_length
from catalog.swarm.bencode import bdecode
from catalog.swarm.certificate_authority import SwarmCa
from catalog.swarm.torrent import (
    MIN_SWARM_SIZE,
    info_dict,
    info_hash,
    short_hash,
    torrent_file,
    travels_by_swarm,
    unchecked_torrent,
)

SIZES = [1, LEAF - 1, LEAF, LEAF + 1, 64 << 10, (64 << 10) + 1, 3 * 65536 + 5, (1 << 20) + 16385]


@pytest.mark.parametrize("size", SIZES)
def test_it_is_what_libtorrent_makes_of_the_same_content(size: int, tmp_path: Path) -> None:
    path = tmp_path / "content"
    path.write_bytes(os.urandom(size))
    measured = index_file(path)
    named = path.rename(tmp_path / measured.address.root.hex())
    storage = lt.list_files(str(named))
    made = lt.create_torrent(storage, piece_length(size), lt.create_torrent.v2_only)
    lt.set_piece_hashes(made, str(tmp_path))
    theirs = made.generate()
    assert lt.bencode(theirs[b"info"]) == info_dict(measured.address)
    assert (
        theirs.get(b"piece layers", {}) == lt.bdecode(torrent_file(measured.address, measured.layer))[b"piece layers"]
    )
    loaded = lt.load_torrent_buffer(torrent_file(measured.address, measured.layer, "http://127.0.0.1/v1/announce"))
    assert loaded.info_hashes.v2.to_bytes() == info_hash(measured.address)
    assert loaded.trackers == ["http://127.0.0.1/v1/announce"]


def test_vectors_stay_what_they_are() -> None:
    """Nodes of different versions meet in one swarm only as long as these do not change."""
    address = Address(hashlib.sha256(b"root").digest(), 1 << 30)
    assert info_dict(address) == (
        b"d9:file treed64:4813494d137e1631bba301d5acab6e7bb7aa74ce1185d456565ef51d737677b2d0:d6:lengthi1073741824e"
        b"11:pieces root32:" + address.root + b"eee12:meta versioni2e4:name64:" + address.root.hex().encode()
        + b"12:piece lengthi131072ee"
    )  # fmt: skip
    assert info_hash(address) == hashlib.sha256(info_dict(address)).digest()
    assert short_hash(address) == info_hash(address)[:20]


def test_size_tells_swarms_apart() -> None:
    assert info_hash(Address(b"r" * 32, 100)) != info_hash(Address(b"r" * 32, 101))


def test_a_layer_of_another_content_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "content"
    path.write_bytes(os.urandom(300_000))
    measured = index_file(path)
    wrong = bytes([measured.layer[0] ^ 1]) + measured.layer[1:]
    with pytest.raises(Malformed, match="its root differs"):
        torrent_file(measured.address, wrong)
    with pytest.raises(Malformed, match="piece layer"):
        torrent_file(measured.address, measured.layer[:-1])


def test_small_contents_do_not_travel_by_swarm() -> None:
    assert not travels_by_swarm(MIN_SWARM_SIZE - 1)
    assert travels_by_swarm(MIN_SWARM_SIZE)
    assert piece_length(MIN_SWARM_SIZE) < MIN_SWARM_SIZE  # so what travels by swarm always has a piece layer


def test_a_restricted_content_has_a_torrent_of_its_own_that_libtorrent_takes_for_a_tls_one() -> None:
    """The info-hash that we compute is the one that it computes; the authority changes it, and is all that does."""
    address = Address(hashlib.sha256(bytes(16384)).digest(), 16384)
    authority = SwarmCa.make(datetime(2026, 11, 22, tzinfo=UTC)).certificate
    restricted = lt.load_torrent_buffer(unchecked_torrent(address, b"", authority=authority)).ti
    public = lt.load_torrent_buffer(unchecked_torrent(address, b"")).ti
    assert restricted is not None
    assert public is not None
    assert bytes(restricted.info_hashes().v2.to_bytes()) == info_hash(address, authority)
    assert bytes(public.info_hashes().v2.to_bytes()) == info_hash(address)
    assert info_hash(address) != info_hash(address, authority)
    assert restricted.ssl_cert() == authority.decode()
    assert not public.ssl_cert()
    names = bdecode(info_dict(address, authority), "info")
    assert isinstance(names, dict)
    assert set(names) == {b"file tree", b"meta version", b"name", b"piece length", b"ssl-cert"}
    assert names[b"name"] == address.root.hex().encode()
