"""HEPiX image lists: what we sign stock openssl verifies; what others sign is believed only when everything fits."""

import http.server
import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import partita
from catalog.client import transfer
from catalog.errors import (
    CatalogError,
    ContentMismatch,
    DiskRefused,
    Equivocation,
    Malformed,
    Misused,
    NotEntitled,
    Stale,
    TooLarge,
    Unavailable,
    Unverified,
)
from catalog.hepix.exporter import ExportRequest, export_list
from catalog.hepix.image_list import ImageList, ListedImage, read_list, version_order, write_list
from catalog.hepix.importer import ImportRequest, import_image, open_list, read_source
from catalog.hepix.subscriptions import ListEndorser, Subscription, Subscriptions
from catalog.image.bundle import Bundle
from signer.errors import SignatureError
from signer.verification.smime import read_message, sign_message, verify_message
from tests.support.catalog.bios_boot_disk import BLANK, CONTENT, SIZE, bootable, published
from tests.support.catalog.service_process import Service, Vo
from tests.support.factories import bundle
from tests.support.grid_ca import DAY, Authority, Grid, Holder, utc_now

ANN_DN, CA_DN = "/DC=org/DC=grid/CN=Ann", "/DC=org/DC=grid/CN=CA"
ONE, TWO, OTHER = (f"0000000{digit}-0000-4000-8000-000000000000" for digit in "123")


@dataclass
class World:
    """A grid with two CAs, Ann who endorses lists, Bob who does not, and Ann's namesake at the other CA."""

    grid: Grid
    ca: Authority
    ann: Holder
    bob: Holder
    namesake: Holder
    revoked: Holder

    def image(self, **changes: object) -> ListedImage:
        """An image in a list."""
        made = ListedImage(
            identifier=ONE, title="Scientific Linux", description="", version="1.2", uri="http://127.0.0.1:9/disk",
            size=5, sha512="ab" * 64, architecture="x86_64", os="SL", os_version="6.4", format="RAW",
        )  # fmt: skip
        return replace(made, **changes)  # type: ignore[arg-type]

    def list(self, *images: ListedImage, **changes: object) -> ImageList:
        """A list that Ann endorses, made an hour ago."""
        made = ImageList(
            identifier=OTHER, title="Images", description="All", source="vo", uri="https://vo.example/list",
            version="2.0", created=self.grid.now - timedelta(hours=1), expires=self.grid.now + 7 * DAY, dn=ANN_DN,
            ca=CA_DN, email="ann@vo.example", creator="Ann", images=images or (self.image(),), vo="vo",
        )  # fmt: skip
        return replace(made, **changes)  # type: ignore[arg-type]

    def sign(self, found: ImageList, by: Holder | None = None) -> bytes:
        """The signed message."""
        return sign_message((by or self.ann).signer(), write_list(found), self.grid.now)

    def open(self, message: bytes, root: Path, **changes: object) -> tuple[ImageList, Subscription]:
        """What a site that believes Ann does with a message."""
        order = replace(ImportRequest("site", ListEndorser(ANN_DN, CA_DN), every=True), **changes)  # type: ignore[arg-type]
        return open_list(message, Subscriptions(root), order, self.grid.rules, self.grid.now)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Built once."""
    grid = Grid(tmp_path_factory.mktemp("grid"), utc_now())
    ca, other = grid.root(CA_DN), grid.root("/DC=org/DC=other/CN=CA")
    people = {name: grid.person(ca, f"/DC=org/DC=grid/CN={name}") for name in ("Ann", "Bob", "Gone")}
    ca.revoked.append(people["Gone"].certificate.serial_number)
    grid.install(ca, "/DC=org/DC=grid/*")
    grid.install(other, "/DC=org/*")
    return World(grid, ca, people["Ann"], people["Bob"], grid.person(other, ANN_DN), people["Gone"])


# The message


def test_stock_openssl_verifies_what_we_sign(world: World, tmp_path: Path) -> None:
    (tmp_path / "list").write_bytes(world.sign(world.list()))
    (tmp_path / "ca").write_bytes(world.ca.pem())
    command = ["openssl", "smime", "-verify", "-in", "list", "-CAfile", "ca", "-purpose", "any", "-out", "out"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert json.loads((tmp_path / "out").read_bytes()) == json.loads(write_list(world.list()))


@pytest.mark.parametrize("options", [(), ("-binary",), ("-text",)])
@pytest.mark.parametrize("ends", [b"\n", b"\r\n"])
def test_we_verify_what_stock_openssl_signs(
    world: World, tmp_path: Path, options: tuple[str, ...], ends: bytes
) -> None:
    (tmp_path / "c").write_bytes(world.ann.pem)
    (tmp_path / "k").write_bytes(world.ann.key_pem)
    (tmp_path / "d").write_bytes(write_list(world.list()) + b"\n")
    command = ["openssl", "smime", "-sign", "-md", "sha256", "-signer", "c", "-inkey", "k", "-in", "d", "-out", "s"]
    subprocess.run([*command, *options], cwd=tmp_path, check=True, capture_output=True)
    message = (tmp_path / "s").read_bytes()
    if "-binary" not in options:  # mail changes line ends, and what is signed does not depend on them
        message = message.replace(b"\r\n", b"\n").replace(b"\n", ends)
    parts = read_message(message)
    assert verify_message(parts, world.grid.rules, world.grid.now).subject == ANN_DN
    assert read_list(parts.text) == read_list(write_list(world.list()))


@given(data=st.binary(max_size=300))
def test_no_garbage_is_a_message(data: bytes) -> None:
    for text in (data, b"Content-Type: multipart/signed; boundary=a\n\n" + data):
        with pytest.raises(SignatureError):
            read_message(text)


def _flip(message: bytes) -> bytes:
    return message.replace(b'"hv:version": "2.0"', b'"hv:version": "9.0"')


BAD_MESSAGES: dict[str, tuple[Callable[[World], bytes], str]] = {
    "the list alone, unsigned": (lambda world: write_list(world.list()), "no S/MIME"),
    "a list that was changed after it was signed": (lambda world: _flip(world.sign(world.list())), "does not verify"),
    "signed by somebody else than the list says": (lambda world: world.sign(world.list(), world.bob), "Bob signed it"),
    "signed by a namesake of another CA": (lambda world: world.sign(world.list(), world.namesake), "DC=other"),
    "by another, who says so": (
        lambda world: world.sign(world.list(dn="/DC=org/DC=grid/CN=Bob"), world.bob),
        "not whom this site believes",
    ),
    "by a revoked certificate": (
        lambda world: world.sign(world.list(dn="/DC=org/DC=grid/CN=Gone"), world.revoked),
        "revoked",
    ),
    "two signatures' worth of parts": (
        lambda world: world.sign(world.list()) + world.sign(world.list()),
        "has not two parts",
    ),
}


@pytest.mark.parametrize("case", BAD_MESSAGES)
def test_a_message_that_is_not_believed(world: World, tmp_path: Path, case: str) -> None:
    make, reason = BAD_MESSAGES[case]
    with pytest.raises(Unverified, match=reason):
        world.open(make(world), tmp_path)
    assert list(tmp_path.iterdir()) == []


# The list


def test_a_list_says_the_same_when_it_is_read_again(world: World) -> None:
    found = world.list(world.image(memory=512, cores=2, expires=world.grid.now + DAY), world.image(identifier=TWO))
    again = read_list(write_list(found))
    assert again == replace(found, images=(found.images[0], replace(found.images[1], expires=found.expires)))


def test_the_members_that_the_three_consumers_demand_are_there(world: World) -> None:
    found = json.loads(write_list(world.list()))["hv:imagelist"]
    assert set(found) >= {
        "dc:date:created", "dc:date:expires", "dc:identifier", "dc:description", "dc:title", "dc:source", "hv:version",
        "hv:uri", "hv:endorser", "hv:images", "ad:vo",
    }  # fmt: skip
    assert set(found["hv:endorser"]["hv:x509"]) == {"hv:ca", "hv:dn", "hv:email", "dc:creator"}
    assert set(found["hv:images"][0]["hv:image"]) >= {
        "dc:title", "dc:description", "hv:size", "sl:checksum:sha512", "sl:arch", "hv:uri", "dc:identifier", "sl:os",
        "sl:osversion", "sl:comments", "hv:hypervisor", "hv:version", "ad:mpuri", "dc:date:expires",
    }  # fmt: skip


def _without(key: str, *, image: bool) -> Callable[[dict[str, object]], object]:
    return lambda document: _inner(document, image=image).pop(key)


def _with(key: str, value: object, *, image: bool) -> Callable[[dict[str, object]], object]:
    return lambda document: _inner(document, image=image).update({key: value})


def _inner(document: dict[str, object], *, image: bool) -> dict[str, object]:
    found = document["hv:imagelist"]
    return found["hv:images"][0]["hv:image"] if image else found  # type: ignore[index,return-value]


BAD_LISTS: dict[str, Callable[[dict[str, object]], object]] = {
    "no identifier": _without("dc:identifier", image=False),
    "no images": _without("hv:images", image=False),
    "no endorser": _without("hv:endorser", image=False),
    "a date with fractions": _with("dc:date:expires", "2026-11-22T12:00:00.5Z", image=False),
    "a date with an offset": _with("dc:date:expires", "2026-11-22T12:00:00+01:00", image=False),
    "an identifier that is a path": _with("dc:identifier", "../../etc/passwd", image=False),
    "an image without digest": _without("sl:checksum:sha512", image=True),
    "an image with a short digest": _with("sl:checksum:sha512", "ab" * 32, image=True),
    "an image without size": _without("hv:size", image=True),
    "an image of size zero": _with("hv:size", 0, image=True),
    "an image of negative size": _with("hv:size", "-5", image=True),
    "an image of size true": _with("hv:size", True, image=True),
    "an image without URL": _with("hv:uri", "", image=True),
    "control characters in a title": _with("dc:title", "\x1b[2J", image=True),
}


@pytest.mark.parametrize("case", BAD_LISTS)
def test_a_list_with_a_fault_is_refused_whole(world: World, case: str) -> None:
    document = json.loads(write_list(world.list()))
    BAD_LISTS[case](document)
    with pytest.raises(Malformed):
        read_list(json.dumps(document).encode())


def test_an_image_listed_twice_refuses_the_list(world: World) -> None:
    with pytest.raises(Malformed, match="listed once"):
        read_list(write_list(world.list(world.image(), world.image(version="2"))))


@pytest.mark.parametrize(("low", "high"), [("1.9", "1.10"), ("2", "2.1"), ("1.0-a", "1.0-b"), ("1.2", "1.2.0")])
def test_versions_are_compared_as_people_count(low: str, high: str) -> None:
    assert version_order(low) < version_order(high)


@pytest.mark.parametrize(("said", "mib"), [("512", 512), (536870912, 512), ("1024", 1024)])
def test_memory_is_understood_in_both_units(world: World, said: object, mib: int) -> None:
    document = json.loads(write_list(world.list()))
    _with("hv:ram_minimum", said, image=True)(document)
    assert read_list(json.dumps(document).encode()).images[0].memory == mib


# The subscription


def test_a_new_list_is_believed_only_for_whom_the_site_names(world: World, tmp_path: Path) -> None:
    message = world.sign(world.list())
    with pytest.raises(Unverified, match="is new here"):
        world.open(message, tmp_path, endorser=None)
    found, subscription = world.open(message, tmp_path)
    Subscriptions(tmp_path).keep(subscription, message)
    again, _ = world.open(message, tmp_path, endorser=None, every=False)
    assert again == found
    kept = [path.read_bytes() for path in tmp_path.rglob("*.smime")]
    assert kept == [message]


SECOND: dict[str, tuple[dict[str, object], type[CatalogError] | None]] = {
    "the next version": ({"version": "2.1"}, None),
    "a later version by number, not by letter": ({"version": "10.0"}, None),
    "an older version": ({"version": "1.9"}, Unverified),
    "the same version with another content": ({"title": "Other"}, Equivocation),
    "expired": ({"version": "3", "expires": utc_now() - DAY}, Stale),
    "made tomorrow": ({"version": "3", "created": utc_now() + DAY}, Stale),
}


@pytest.mark.parametrize("case", SECOND)
def test_what_may_follow_a_list(world: World, tmp_path: Path, case: str) -> None:
    changes, error = SECOND[case]
    first = world.sign(world.list())
    Subscriptions(tmp_path).keep(world.open(first, tmp_path)[1], first)
    second = world.sign(world.list(**changes))
    if error is None:
        assert world.open(second, tmp_path)[0].images
        return
    with pytest.raises(error):
        world.open(second, tmp_path)


def test_new_images_are_not_taken_unasked(world: World, tmp_path: Path) -> None:
    first = world.sign(world.list())
    with pytest.raises(NotEntitled, match="not taken unasked"):
        world.open(first, tmp_path, every=False)
    _, known = world.open(first, tmp_path, every=False, images=frozenset({ONE}))
    Subscriptions(tmp_path).keep(known, first)
    second = world.sign(world.list(world.image(), world.image(identifier=TWO), version="3"))
    assert world.open(second, tmp_path, every=False)[1].images == (ONE,)
    with pytest.raises(NotEntitled, match="has no image"):
        world.open(second, tmp_path, every=False, images=frozenset({OTHER}))


# The file


class _Files(http.server.BaseHTTPRequestHandler):
    answers: dict[str, tuple[int, dict[str, str], Iterator[bytes]]]

    def do_GET(self) -> None:
        code, headers, pieces = self.answers[self.path]
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        try:
            for piece in pieces:
                self.wfile.write(piece)
        except ConnectionError:
            pass

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def files(**answers: tuple[int, dict[str, str], Iterator[bytes]]) -> Iterator[str]:
    """A web server with these answers; gives its URL."""
    handler = type("Handler", (_Files,), {"answers": {f"/{name}": answer for name, answer in answers.items()}})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def _endless() -> Iterator[bytes]:
    while True:
        yield bytes(1 << 20)


BAD_FILES: dict[str, tuple[tuple[int, dict[str, str], Callable[[], Iterator[bytes]]], type[CatalogError], str]] = {
    "another file": ((200, {}, lambda: iter([b"other"])), ContentMismatch, "not the SHA-512"),
    "a file that is too short": ((200, {}, lambda: iter([b"oth"])), ContentMismatch, "3 bytes came"),
    "a file without end": ((200, {}, _endless), ContentMismatch, "more than the 5 endorsed"),
    "no file": ((404, {}, lambda: iter([])), Unavailable, "answered 404"),
    "a redirection": ((302, {"Location": "file:///etc/passwd"}, lambda: iter([])), Unavailable, "answered 302"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_file_that_is_not_taken(world: World, tmp_path: Path, case: str) -> None:
    (code, headers, pieces), error, reason = BAD_FILES[case]
    with files(disk=(code, headers, pieces())) as url:
        listed = world.image(uri=f"{url}/disk")
        with pytest.raises(error, match=reason):
            import_image(world.list(listed), listed, tmp_path / "image", ImportRequest("site"), world.grid.now)
    assert list(tmp_path.iterdir()) == []


BAD_IMAGES: dict[str, tuple[dict[str, object], type[Exception], str]] = {
    "a local file": ({"uri": "file:///etc/passwd"}, Misused, "no URL that is followed"),
    "another kind of URL": ({"uri": "ftp://vo.example/disk"}, Misused, "no URL that is followed"),
    "a URL with a password": ({"uri": "http://a:b@vo.example/disk"}, Misused, "no URL that is followed"),
    "a format that is guessed elsewhere": ({"format": "OVA"}, DiskRefused, "never guessed"),
    "a format that nobody says": ({"format": ""}, DiskRefused, "never guessed"),
    "larger than the disk here": ({"size": 1 << 60}, TooLarge, "at most"),
    "an endorsement that expired": ({"expires": utc_now() - DAY}, Stale, "expired"),
    "a processor that is not known": ({"architecture": "vax"}, Exception, "architecture"),
}


@pytest.mark.parametrize("case", BAD_IMAGES)
def test_an_image_that_is_not_even_asked_for(world: World, tmp_path: Path, case: str) -> None:
    changes, error, reason = BAD_IMAGES[case]
    listed = world.image(**changes)
    with pytest.raises(error, match=reason):
        import_image(world.list(listed), listed, tmp_path / "image", ImportRequest("site"), world.grid.now)
    assert list(tmp_path.iterdir()) == []


def test_a_list_without_end_is_cut_off() -> None:
    with files(list=(200, {}, _endless())) as url, pytest.raises(Malformed, match="more than"):
        read_source(f"{url}/list")


# All the way


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory, vos: dict[str, Vo]) -> Iterator[tuple[Service, Bundle, Path]]:
    """A catalog with an image that a BIOS boots, and one whose kernel lies beside its disks."""
    root = tmp_path_factory.mktemp("exporting")
    with Service(root) as service:
        service.register(vos["star"].anchor())
        image = published(service, vos["star"], root / "made")
        with service.client() as client:
            transfer.publish_image(client, vos["star"].endorse(bundle(root / "direct", name="direct")))
        yield service, image, root


def test_what_is_exported_is_imported_elsewhere(
    catalog: tuple[Service, Bundle, Path], world: World, star: Vo, tmp_path: Path
) -> None:
    service, image, _ = catalog
    for name, data in (("cert", world.ann.pem), ("key", world.ann.key_pem), ("vo", star.anchor().key)):
        (tmp_path / name).write_bytes(data)

    def run(*words: str) -> dict[str, object] | list[dict[str, str]]:
        ended = CliRunner().invoke(partita.app, ["--set", f"signer.home={star.keyring.home}", *words, "--json"])
        assert ended.exit_code == 0, repr(ended.exception)
        return json.loads(ended.stdout)  # type: ignore[no-any-return]

    made = run(
        "catalog", "export", "hepix", "--vo", "star", "--uri", "https://star.example/list", "--endorser-cert",
        str(tmp_path / "cert"), "--key", str(tmp_path / "key"), "--vo-key", str(tmp_path / "vo"), "--catalog",
        service.url, "-o", str(tmp_path / "list"),
    )  # fmt: skip
    assert isinstance(made, dict)
    assert "kernel" in str(made["left_out"]) or "disks" in str(made["left_out"])
    words = [
        "catalog", "import", "hepix", str(tmp_path / "list"), "--vo", "site", "-o", str(tmp_path / "images"), "--all",
        "--endorser-dn", ANN_DN, "--endorser-ca", CA_DN, "--ca-directory", str(world.grid.path), "--state",
        str(tmp_path / "state"), "--key", star.fingerprint,
    ]  # fmt: skip
    (taken,) = run(*words)
    assert isinstance(taken, dict)
    here = Bundle.open(Path(taken["directory"]))
    assert (here.manifest.vo, here.manifest.name, here.manifest.version) == ("site", "star-worker", "1.0")
    assert len(here.endorsements()) == 1
    contents = [part.content for part in here.manifest.partitions()]
    assert contents == [part.content for part in image.manifest.partitions()]
    assert run(*words) == []


def test_only_what_counts_is_exported(catalog: tuple[Service, Bundle, Path], world: World, vos: dict[str, Vo]) -> None:
    service, _, _ = catalog
    wanted = ExportRequest("star", "https://star.example/list", "t", "d", "-", "Ann")
    with service.client() as client:
        with pytest.raises(Misused, match="no image of star can be listed"):
            export_list(client, wanted, [vos["stranger"].anchor(vo="star")], world.ann.signer(), world.grid.now)
        done = export_list(client, wanted, [vos["star"].anchor()], world.ann.signer(), utc_now())
    (listed,) = done.content.images
    assert listed.size == SIZE
    assert listed.uri.startswith(service.url)
    assert len(done.left_out) == 1


def test_the_test_disk_is_what_the_tests_think(tmp_path: Path) -> None:
    assert bootable(tmp_path).stat().st_size == SIZE > sum(BLANK) > sum(CONTENT)
