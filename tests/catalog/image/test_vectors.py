"""The golden vectors: made again, and agreed on by libtorrent and by the reference creator of BEP 52."""

import hashlib
from pathlib import Path

import pytest

from catalog.image.address import Address
from tests.vectors import generate

ADDRESSES = generate.read("addresses.json")


def test_every_vector_comes_out_again() -> None:
    made = generate.addresses(creator=None, peers=False)
    ours = [
        {key: value for key, value in vector.items() if key not in {"bep52", "libtorrent", "libtorrent_repository"}}
        for vector in ADDRESSES.values()
    ]
    assert list(made.values()) == ours
    assert list(made) == list(ADDRESSES)


@pytest.mark.parametrize("name", ADDRESSES)
def test_everybody_agrees(name: str) -> None:
    vector = ADDRESSES[name]
    address = Address.parse(vector["address"])
    ours = [address.root.hex(), vector["layer_sha256"]]
    assert ours == vector["bep52"] == vector["libtorrent"]
    assert vector.get("libtorrent_repository", ours[0]) == ours[0]


@pytest.mark.parametrize(
    "name", [name for name in ADDRESSES if Address.parse(ADDRESSES[name]["address"]).size < 64 << 20]
)
def test_the_libtorrent_that_is_installed_agrees(tmp_path: Path, name: str) -> None:
    generate.write(tmp_path / "content", name)
    assert list(generate.by_libtorrent(tmp_path / "content")) == ADDRESSES[name]["libtorrent"]


def test_the_documents_come_out_again() -> None:
    vectors = generate.read("documents.json")
    assert generate.documents() == vectors
    assert vectors["manifest"]["image_id"] == (
        "sha256:" + hashlib.sha256(vectors["manifest"]["canonical"].encode()).hexdigest()
    )
