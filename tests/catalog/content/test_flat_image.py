"""Flat images: byte for byte the disk that was imported, but for its blanks; ranges, digests, and what has none."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from catalog.content.content_store import ContentStore
from catalog.content.flat_image import FlatImageStore
from catalog.errors import Conflict, NotFound
from catalog.image.blanks import make_blank
from catalog.image.bundle import Bundle
from catalog.image.manifest import Blank, Manifest
from tests.support.catalog.bios_boot_disk import BLANK, CONTENT, SIZE, bootable, published
from tests.support.catalog.service_process import Service, Vo, now
from tests.support.factories import MIB, bundle


class Flat:
    """A running catalog with one flat image."""

    def __init__(self, service: Service, http: httpx2.Client, image: Bundle, expected: bytes) -> None:
        self.service, self.http, self.image, self.expected = service, http, image, expected
        self.path = f"/v1/images/{image.manifest.image_id}"


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory, vos: dict[str, Vo]) -> Iterator[Flat]:
    """The image of a bootable disk, and the bytes that its flat file must have."""
    root = tmp_path_factory.mktemp("flat")
    with Service(root) as service:
        service.register(vos["star"].anchor())
        image = published(service, vos["star"], root / "made")
        whole = bytearray((root / "made" / "disk.raw").read_bytes())
        (blank,) = [part.blank for part in image.manifest.partitions() if part.blank is not None]
        fresh = root / "blank"
        with fresh.open("wb") as file:
            file.truncate(blank.size)
        make_blank(blank, fresh)
        whole[BLANK[0] : sum(BLANK)] = fresh.read_bytes()
        with httpx2.Client(base_url=service.url, trust_env=False, timeout=60) as http:
            yield Flat(service, http, image, bytes(whole))


def test_the_disk_is_sent_as_it_was_but_for_its_blanks(flat: Flat) -> None:
    answer = flat.http.get(f"{flat.path}/disk.raw")
    assert answer.status_code == 200
    assert len(answer.content) == SIZE == int(answer.headers["content-length"])
    assert hashlib.sha512(answer.content).digest() == hashlib.sha512(flat.expected).digest()


def test_the_catalog_says_size_and_digest_and_remembers_them(flat: Flat) -> None:
    with flat.service.client() as client:
        said = client.flat(flat.image.manifest)
        assert (said.size, said.sha512) == (SIZE, hashlib.sha512(flat.expected).hexdigest())
        record = flat.service.directory / "flat" / f"{flat.image.manifest.image_id.removeprefix('sha256:')}.json"
        before = record.stat().st_mtime_ns
        assert client.flat(flat.image.manifest) == said
        assert record.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("start", "end"),
    [
        (0, 1),
        (0, 17408),
        (17407, 17409),
        (CONTENT[0] - 5, CONTENT[0] + 5),
        (CONTENT[0] + CONTENT[1] - 1, BLANK[0] + 70_000),
        (BLANK[0] + BLANK[1] - 10, SIZE),
        (SIZE - 16897, SIZE),
        (SIZE - 1, SIZE),
    ],
)
def test_any_range_is_what_lies_there(flat: Flat, start: int, end: int) -> None:
    answer = flat.http.get(f"{flat.path}/disk.raw", headers={"Range": f"bytes={start}-{end - 1}"})
    assert answer.status_code == 206
    assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{SIZE}"
    assert answer.content == flat.expected[start:end]


def test_who_has_it_is_not_sent_it_again(flat: Flat) -> None:
    head = flat.http.head(f"{flat.path}/disk.raw")
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(SIZE))
    tag = head.headers["etag"]
    assert flat.http.get(f"{flat.path}/disk.raw", headers={"If-None-Match": tag}).status_code == 304
    resumed = flat.http.get(f"{flat.path}/disk.raw", headers={"Range": "bytes=8-15", "If-Range": tag})
    assert (resumed.status_code, resumed.content) == (206, flat.expected[8:16])


def test_a_range_outside_is_refused(flat: Flat) -> None:
    answer = flat.http.get(f"{flat.path}/disk.raw", headers={"Range": f"bytes={SIZE}-{SIZE}"})
    assert answer.status_code == 416


def test_it_is_stored_nowhere(flat: Flat) -> None:
    flat.http.get(f"{flat.path}/disk.raw")
    kept = sum(path.stat().st_blocks * 512 for path in (flat.service.directory / "flat").iterdir())
    assert kept < 4 * MIB  # the blank's metadata, and a record


def test_an_image_of_several_disks_has_none(tmp_path: Path) -> None:
    manifest = bundle(tmp_path / "image").manifest
    assert len(manifest.disks) > 1
    with pytest.raises(NotFound, match="disks; a flat image has one"):
        FlatImageStore(ContentStore(tmp_path / "catalog")).open(manifest)


def test_a_bare_filesystem_is_its_own_flat_image(tmp_path: Path) -> None:
    blank = Blank(size=MIB, filesystem="ext4", label="x")
    document = json.loads(bundle(tmp_path / "image").manifest.canonical())
    document["disks"] = [disk for disk in document["disks"] if "blank" in disk["partition"]]
    document["disks"][0]["partition"]["blank"] = blank.model_dump()
    manifest = Manifest.model_validate_json(json.dumps(document))
    flattening = FlatImageStore(ContentStore(tmp_path / "catalog"))
    said = flattening.measure(manifest, now())
    opened = flattening.open(manifest)
    data = opened.read(2 * MIB, 0)
    opened.close()
    assert (len(data), hashlib.sha512(data).hexdigest()) == (said.size, said.sha512)


def test_blanks_that_come_out_differently_are_not_passed_off_as_the_old_ones(tmp_path: Path) -> None:
    manifest = import_of(tmp_path)
    contents = ContentStore(tmp_path / "catalog")
    for address in manifest.contents():
        (tmp_path / "image" / "blobs" / str(address)).rename(tmp_path / "catalog" / "uploads" / "one")
        contents.enter(tmp_path / "catalog" / "uploads" / "one", address)
    FlatImageStore(contents).measure(manifest, now())
    (kept,) = (tmp_path / "catalog" / "flat").glob("*.blank")
    kept.chmod(0o644)
    with kept.open("r+b") as file:
        file.seek(1024)
        file.write(b"another mkfs made this")
    with pytest.raises(Conflict, match="differ since mkfs"):
        FlatImageStore(contents).open(manifest)


def import_of(directory: Path) -> Manifest:
    """The image of a bootable disk."""
    from catalog.builder.disk_import import import_disk
    from tests.support.catalog.disk_images import identity

    return import_disk(bootable(directory), "raw", identity(), directory / "image").bundle.manifest
