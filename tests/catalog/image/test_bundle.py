"""An image in a directory."""

from pathlib import Path

import pytest

from catalog.content.indexing import index_file
from catalog.errors import Malformed, NotFound
from catalog.image.address import Address
from catalog.image.bundle import Bundle
from catalog.image.manifest import MAX_MANIFEST
from signer.errors import DocumentError
from signer.openpgp.packets import MAX_SIGNATURE
from signer.statements.endorsement import MAX_STATEMENT
from tests.support import factories


def test_what_was_made_is_opened(tmp_path: Path) -> None:
    made = factories.bundle(tmp_path / "image", size=102400)
    opened = Bundle.open(tmp_path / "image")
    assert opened == made
    for address in opened.manifest.contents():
        assert index_file(opened.content(address)).address == address


@pytest.mark.parametrize("make", ["nothing", "an empty directory", "a file"])
def test_what_is_no_image_directory_says_so(tmp_path: Path, make: str) -> None:
    root = tmp_path / "image"
    if make == "a file":
        root.touch()
    elif make == "an empty directory":
        root.mkdir()
    with pytest.raises(NotFound, match=r"contains no manifest\.json; name a directory that"):
        Bundle.open(root)


def test_a_manifest_that_is_malformed_or_too_large_is_refused(tmp_path: Path) -> None:
    factories.bundle(tmp_path, partitions=0)
    file = tmp_path / "manifest.json"
    file.write_bytes(file.read_bytes() + b"\n")
    with pytest.raises(DocumentError, match="is not in canonical form"):
        Bundle.open(tmp_path)
    file.write_bytes(bytes(MAX_MANIFEST + 1))
    with pytest.raises(Malformed, match=f"larger than the {MAX_MANIFEST} bytes allowed"):
        Bundle.open(tmp_path)


def test_content_that_is_missing_says_so(tmp_path: Path) -> None:
    bundle = factories.bundle(tmp_path, partitions=0)
    absent = Address.of(b"absent")
    with pytest.raises(NotFound, match=f"the content {absent} is missing; import or build"):
        bundle.content(absent)


def test_endorsements_are_kept_in_pairs(tmp_path: Path) -> None:
    bundle = factories.bundle(tmp_path, partitions=0)
    assert bundle.endorsements() == []
    pairs = [(b"statement %d" % number, b"signature %d" % number) for number in range(3)]
    for pair in pairs:
        path = bundle.add_endorsement(*pair)
        assert path.read_bytes() == pair[0]
        assert path.with_suffix(".sig").read_bytes() == pair[1]
    assert sorted(Bundle.open(tmp_path).endorsements()) == pairs


def test_the_same_endorsement_is_kept_once(tmp_path: Path) -> None:
    bundle = factories.bundle(tmp_path, partitions=0)
    bundle.add_endorsement(b"statement", b"first")
    bundle.add_endorsement(b"statement", b"second")
    assert bundle.endorsements() == [(b"statement", b"second")]


def test_a_statement_without_its_signature_is_refused(tmp_path: Path) -> None:
    bundle = factories.bundle(tmp_path, partitions=0)
    bundle.add_endorsement(b"statement", b"signature").with_suffix(".sig").unlink()
    with pytest.raises(Malformed, match=r"\.json: its signature file is missing; endorse"):
        bundle.endorsements()


@pytest.mark.parametrize(("suffix", "limit"), [(".json", MAX_STATEMENT), (".sig", MAX_SIGNATURE)])
def test_an_endorsement_that_is_too_large_is_refused(tmp_path: Path, suffix: str, limit: int) -> None:
    bundle = factories.bundle(tmp_path, partitions=0)
    bundle.add_endorsement(b"statement", b"signature").with_suffix(suffix).write_bytes(bytes(limit + 1))
    with pytest.raises(Malformed, match=f"larger than the {limit} bytes allowed"):
        bundle.endorsements()
