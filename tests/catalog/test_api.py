"""The HTTP surface of a real service: ranges, entity tags, pages, problems, and an OpenAPI document that says it all."""

import base64
import contextlib
import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.address import LEAF, Address
from catalog.bundle import Bundle
from catalog.client import CatalogClient
from catalog.errors import CatalogError, Malformed, RangeRefused
from catalog.manifest import MEDIA_TYPE, Manifest
from catalog.measuring import measure
from catalog.problems import KINDS, PREFIX, from_problem, status_of, to_problem
from catalog.wire import MAX_PART, PublicationRequest, SignedStatement, parse_content_range, parse_range
from signer.documents import canonical, parse
from signer.errors import DocumentError, KeyUnusable
from tests.catalog.service import Service, Vo, files
from tests.factories import MIB, bundle

NO_IMAGE = "sha256:" + "0" * 64
NO_ADDRESS = "0" * 64 + "-1048576"


class Published:
    """A running catalog with five images: star/worker 1.0 to 1.3 and atlas/node 1.0."""

    def __init__(self, service: Service, http: httpx.Client, images: list[Bundle], pending: Bundle) -> None:
        self.service, self.http, self.images, self.pending = service, http, images, pending

    @property
    def manifest(self) -> Manifest:
        """The first image's."""
        return self.images[0].manifest

    @property
    def content(self) -> tuple[Address, bytes]:
        """A content of it."""
        address = self.manifest.blobs()[0]
        return address, self.images[0].blob(address).read_bytes()


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, vos: dict[str, Vo]) -> Iterator[Published]:
    """One service for all questions that change nothing."""
    root = tmp_path_factory.mktemp("api")
    with Service(root) as service:
        service.register(vos["star"].anchor(), vos["atlas"].anchor())
        images = []
        with service.client() as client:
            for minor in range(4):
                directory = root / f"image{minor}"
                images.append(vos["star"].endorse(bundle(directory, partitions=1, size=MIB, version=f"1.{minor}")))
                client.publish(images[-1])
            other = bundle(root / "atlas", partitions=1, size=MIB, vo="atlas", name="node")
            client.publish(vos["atlas"].endorse(other))
            pending = vos["star"].endorse(bundle(root / "pending", partitions=1, size=MIB, seed=9, version="2.0"))
            client.begin(pending.manifest.canonical(), pending.endorsements())
        with httpx.Client(base_url=service.url, trust_env=False) as http:
            yield Published(service, http, images, pending)


def problem(answer: httpx.Response) -> tuple[int, str, str]:
    """(status, code, detail) of a problem, whose form is checked."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    found = answer.json()
    assert found["status"] == answer.status_code
    assert found["title"]
    assert found["type"].startswith(PREFIX)
    return answer.status_code, found["type"].removeprefix(PREFIX), found["detail"]


RANGES = [
    ("the first bytes", "bytes=0-99", 0, 100),
    ("one byte", "bytes=5-5", 5, 6),
    ("to the end", "bytes=1048000-", 1048000, MIB),
    ("the last bytes", "bytes=-576", MIB - 576, MIB),
    ("more last bytes than there are", "bytes=-9999999", 0, MIB),
    ("past the end", "bytes=1048570-9999999", 1048570, MIB),
]


@pytest.mark.parametrize(("sentence", "header", "start", "end"), RANGES, ids=[row[0] for row in RANGES])
def test_ranges(published: Published, sentence: str, header: str, start: int, end: int) -> None:
    """A range is answered with exactly its bytes."""
    address, data = published.content
    answer = published.http.get(f"/v1/blobs/{address}", headers={"Range": header})
    assert answer.status_code == 206
    assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{MIB}"
    assert answer.content == data[start:end]


def test_several_ranges_come_in_one_answer(published: Published) -> None:
    """Each with its place, in order; a client gets their bytes one after the other."""
    address = published.content[0]
    whole = published.http.get(f"/v1/blobs/{address}").content
    answer = published.http.get(f"/v1/blobs/{address}", headers={"Range": "bytes=0-1,5-6, 1048570-1048575"})
    assert answer.status_code == 206
    assert answer.headers["content-type"] == "multipart/byteranges; boundary=partita-range"
    parts = [whole[0:2], whole[5:7], whole[-6:]]
    places = ("0-1", "5-6", "1048570-1048575")
    said = b"".join(
        b"\r\n--partita-range\r\nContent-Range: bytes %s/1048576\r\n\r\n" % place.encode() + part
        for place, part in zip(places, parts, strict=True)
    )
    assert answer.content == said + b"\r\n--partita-range--\r\n"
    assert published.http.head(f"/v1/blobs/{address}", headers={"Range": "bytes=0-1,5-6"}).status_code == 206
    with CatalogClient(str(published.http.base_url)) as client:
        ranges = [(at, at + 4096) for at in range(0, MIB, 8192)]
        assert b"".join(client.blob_ranges(address, ranges)) == b"".join(whole[a:b] for a, b in ranges)


BAD_RANGES = [
    "bytes=5-4",
    "bytes=1048576-",
    "bytes=-0",
    "bytes=5-6,0-1",
    "bytes=0-1,2-3",
    "bytes=0-9,5-19",
    "bytes=0-1,-5",
    "bytes=0-1,1048575-1048576",
    "lines=0-1",
    "bytes=a-b",
    "bytes=",
    "-",
    "bytes=-",
]


@pytest.mark.parametrize("header", BAD_RANGES)
def test_a_range_that_makes_no_sense_is_refused(published: Published, header: str) -> None:
    """416, with the reason."""
    answer = published.http.get(f"/v1/blobs/{published.content[0]}", headers={"Range": header})
    status, code, detail = problem(answer)
    assert (status, code) == (416, "range-refused")
    assert repr(header) in detail


def test_a_content_is_immutable_and_says_so(published: Published) -> None:
    """Entity tag, cache headers, HEAD, If-None-Match and If-Range."""
    address, data = published.content
    url = f"/v1/blobs/{address}"
    whole = published.http.get(url)
    assert (whole.status_code, whole.content) == (200, data)
    assert whole.headers["etag"] == f'"{address}"'
    assert "immutable" in whole.headers["cache-control"]
    head = published.http.head(url)
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(MIB))
    part = published.http.head(url, headers={"Range": "bytes=0-9"})
    assert (part.status_code, part.headers["content-length"]) == (206, "10")
    for tag in (f'"{address}"', f'"x", W/"{address}"', "*"):
        same = published.http.get(url, headers={"If-None-Match": tag})
        assert (same.status_code, same.content) == (304, b"")
    right = published.http.get(url, headers={"Range": "bytes=0-9", "If-Range": f'"{address}"'})
    wrong = published.http.get(url, headers={"Range": "bytes=0-9", "If-Range": '"other"'})
    assert (right.status_code, wrong.status_code) == (206, 200)


def test_what_was_measured_is_served_beside_the_content(published: Published) -> None:
    """Map, piece layer and hints, as `measuring` finds them."""
    address, _ = published.content
    measured = measure(published.images[0].blob(address))
    for kind, wanted in (("map", measured.data_map), ("layer", measured.layer), ("hints", measured.hints)):
        answer = published.http.get(f"/v1/blobs/{address}/{kind}")
        assert answer.content == wanted
        again = published.http.get(f"/v1/blobs/{address}/{kind}", headers={"If-None-Match": answer.headers["etag"]})
        assert again.status_code == 304


def test_a_manifest_is_served_byte_for_byte(published: Published) -> None:
    """With its media type and the image ID as its entity tag."""
    url = f"/v1/images/{published.manifest.image_id}"
    answer = published.http.get(url)
    assert answer.content == published.manifest.canonical()
    assert answer.headers["content-type"] == MEDIA_TYPE
    assert answer.headers["etag"] == f'"{published.manifest.image_id}"'
    assert published.http.get(url, headers={"If-None-Match": answer.headers["etag"]}).status_code == 304
    head = published.http.head(url)
    assert (head.content, head.headers["content-length"]) == (b"", str(len(answer.content)))


def test_images_are_listed_page_by_page(published: Published) -> None:
    """Last published first, each exactly once, whatever the page size."""
    everything = published.http.get("/v1/images").json()
    assert [(one["name"], one["version"]) for one in everything["items"]] == [
        ("node", "1.0"), ("worker", "1.3"), ("worker", "1.2"), ("worker", "1.1"), ("worker", "1.0"),
    ]  # fmt: skip
    assert "next" not in everything
    for limit in (1, 2, 3, 5):
        items: list[Any] = []
        cursor: dict[str, str] = {}
        while True:
            page = published.http.get("/v1/images", params={"limit": limit} | cursor).json()
            assert len(page["items"]) <= limit
            items += page["items"]
            if "next" not in page:
                break
            cursor = {"cursor": page["next"]}
        assert items == everything["items"]
    assert len(published.http.get("/v1/images", params={"vo": "star"}).json()["items"]) == 4
    assert len(published.http.get("/v1/images", params={"name": "node"}).json()["items"]) == 1
    listed = published.http.get("/v1/images")
    assert published.http.get("/v1/images", headers={"If-None-Match": listed.headers["etag"]}).status_code == 304


def test_names_and_versions_resolve(published: Published) -> None:
    """A name stands for its last published version; a pending image for nothing."""
    versions = published.http.get("/v1/names/star/worker").json()["items"]
    assert [one["version"] for one in versions] == ["1.3", "1.2", "1.1", "1.0"]
    one = published.http.get("/v1/names/star/worker/1.0").json()
    assert one["image_id"] == published.manifest.image_id
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", one["published"])
    assert problem(published.http.get("/v1/names/star/worker/2.0"))[1] == "not-found"


def test_vos_and_their_keys_are_listed(published: Published, vos: dict[str, Vo]) -> None:
    """With pages, and the public keys."""
    first = published.http.get("/v1/vos", params={"limit": 1}).json()
    second = published.http.get("/v1/vos", params={"limit": 1, "cursor": first["next"]}).json()
    assert [first["items"][0]["name"], second["items"][0]["name"]] == ["atlas", "star"]
    assert "next" not in second
    (key,) = published.http.get("/v1/vos/star/keys").json()["items"]
    assert key["fingerprint"] == vos["star"].fingerprint
    assert key["role"] == "image-administrator"
    assert "PUBLIC KEY" in key["key"]


def test_health(published: Published) -> None:
    """Alive and ready."""
    assert published.http.get("/livez").json() == {"status": "ok"}
    assert published.http.get("/readyz").json() == {"status": "ok"}


QUESTIONS: list[tuple[str, str, str, int, str]] = [
    ("an image that is not here", "GET", f"/v1/images/{NO_IMAGE}", 404, "not-found"),
    ("endorsements of an image that is not here", "GET", f"/v1/images/{NO_IMAGE}/endorsements", 404, "not-found"),
    ("an image ID of another form", "GET", "/v1/images/md5:1", 400, "malformed"),
    ("an image ID in upper case", "GET", "/v1/images/sha256:" + "A" * 64, 400, "malformed"),
    ("a content that is not here", "GET", f"/v1/blobs/{NO_ADDRESS}", 404, "not-found"),
    ("a content by half an address", "GET", "/v1/blobs/" + "0" * 64, 400, "malformed"),
    ("a content of negative size", "GET", "/v1/blobs/" + "0" * 64 + "--1", 400, "malformed"),
    ("a content of absurd size", "GET", "/v1/blobs/" + "0" * 64 + "-99999999999999", 400, "malformed"),
    ("a path out of the store", "GET", "/v1/blobs/..%2f..%2fcatalog.db", 404, "not-found"),
    ("an unknown thing beside a content", "GET", f"/v1/blobs/{NO_ADDRESS}/secrets", 400, "malformed"),
    ("a name that is not here", "GET", "/v1/names/star/nothing", 404, "not-found"),
    ("a VO that is not here", "GET", "/v1/vos/cms/keys", 404, "not-found"),
    ("a cursor of one's own making", "GET", "/v1/images?cursor=first", 400, "malformed"),
    ("a page of no items", "GET", "/v1/images?limit=0", 400, "malformed"),
    ("a page of all items", "GET", "/v1/images?limit=1001", 400, "malformed"),
    ("a page of some items", "GET", "/v1/images?limit=some", 400, "malformed"),
    ("a path that does not exist", "GET", "/v2/images", 404, "not-found"),
    ("a method that does not exist", "DELETE", "/v1/images", 405, "misused"),
    ("a publication that was not begun", "POST", f"/v1/publications/{NO_IMAGE}/commit", 404, "not-found"),
    ("a content of a publication that was not begun", "GET", f"/v1/publications/{NO_IMAGE}/blobs/{NO_ADDRESS}", 404, "not-found"),
]  # fmt: skip


@pytest.mark.parametrize(("sentence", "method", "path", "status", "code"), QUESTIONS, ids=[row[0] for row in QUESTIONS])
def test_questions_that_are_refused(
    published: Published, sentence: str, method: str, path: str, status: int, code: str
) -> None:
    """Each with its problem, in one sentence."""
    found, name, detail = problem(published.http.request(method, path))
    assert (found, name) == (status, code)
    assert len(detail) > 20


def request_with(published: Published, **changes: object) -> bytes:
    """A publication request, altered."""
    whole: dict[str, object] = {
        "manifest": published.pending.manifest.canonical().decode(),
        "endorsements": [
            SignedStatement.of(*pair).model_dump(mode="json") for pair in published.pending.endorsements()
        ],
    }
    return json.dumps({name: value for name, value in (whole | changes).items() if value is not None}).encode()


def altered(published: Published, **members: object) -> str:
    """The pending image's manifest with other members, not endorsed."""
    return json.dumps(
        json.loads(published.pending.manifest.canonical()) | members, separators=(",", ":"), sort_keys=True
    )


def signed(**changes: object) -> list[object]:
    """An endorsement, altered."""
    return [{"statement": "{}", "signature": base64.b64encode(b"x").decode()} | changes]


OFFERS: list[tuple[str, Any, int, str, str]] = [
    ("not JSON", lambda _: b"{", 400, "malformed-document", "publication: $: is not JSON at line 1"),
    ("not UTF-8", lambda _: b"\xff", 400, "malformed-document", "not UTF-8 at byte 0"),
    ("a list", lambda _: b"[]", 400, "malformed-document", "publication: $"),
    ("nested without end", lambda _: b"[" * 100_000, 400, "malformed-document", "publication: $"),
    ("a member twice", lambda _: b'{"manifest":"","manifest":""}', 400, "malformed-document", "stands twice"),
    ("an unknown member", lambda p: request_with(p, password="x"), 400, "malformed-document", "$.password: is not known"),
    ("no manifest", lambda p: request_with(p, manifest=None), 400, "malformed-document", "$.manifest: is missing"),
    ("no endorsements", lambda p: request_with(p, endorsements=None), 400, "malformed-document", "$.endorsements"),
    ("zero endorsements", lambda p: request_with(p, endorsements=[]), 400, "malformed-document", "$.endorsements"),
    ("too many endorsements", lambda p: request_with(p, endorsements=signed() * 65), 400, "malformed-document", "$.endorsements"),
    ("a signature that is not base64", lambda p: request_with(p, endorsements=signed(signature="?")), 400, "malformed-document", "$.endorsements[0].signature: is not base64"),
    ("a signature that is too long", lambda p: request_with(p, endorsements=signed(signature="A" * 90_000)), 400, "malformed-document", "$.endorsements[0].signature"),
    ("an empty manifest", lambda p: request_with(p, manifest=""), 400, "malformed-document", "manifest: $"),
    ("a manifest that is not canonical", lambda p: request_with(p, manifest=" " + p.pending.manifest.canonical().decode()), 400, "malformed-document", "not in canonical form"),
    ("a manifest with a fault deep inside", lambda p: request_with(p, manifest=altered(p, needs={"memory": -1, "cores": 1})), 400, "malformed-document", "manifest: $.needs.memory"),
    ("a manifest that is too long", lambda p: request_with(p, manifest="x" * (1 << 20 | 1)), 400, "malformed-document", "$.manifest"),
    ("a request that is too long", lambda _: b" " * (4 << 20 | 1), 413, "too-large", "at most 4194304 bytes"),
    ("an endorsement of an unregistered VO", lambda p: request_with(p, manifest=altered(p, vo="cms")), 403, "not-entitled", "the VO cms is not registered"),
    ("an endorsement of another image", lambda p: request_with(p, manifest=altered(p, version="3.0")), 403, "not-entitled", "about another image"),
    ("garbage as endorsement", lambda p: request_with(p, endorsements=signed()), 403, "not-entitled", "no endorsement by a registered key"),
    ("garbage as signature", lambda p: request_with(p, endorsements=[json.loads(request_with(p))["endorsements"][0] | {"signature": "AAAA"}]), 403, "not-entitled", "no endorsement by a registered key"),
]  # fmt: skip


@pytest.mark.parametrize(("sentence", "body", "status", "code", "said"), OFFERS, ids=[row[0] for row in OFFERS])
def test_publications_that_are_refused(
    published: Published, sentence: str, body: Any, status: int, code: str, said: str
) -> None:
    """The problem gives the place, and nothing is left behind."""
    before = files(published.service.directory)
    found, name, detail = problem(published.http.post("/v1/publications", content=body(published)))
    assert (found, name) == (status, code), detail
    assert said in detail
    assert files(published.service.directory) == before


def test_a_body_without_end_is_cut_off(published: Published) -> None:
    """Also where no length was announced."""

    def endless() -> Iterator[bytes]:
        while True:
            yield b" " * 65536

    # The connection may be closed before a sender that never pauses looks for the answer.
    with contextlib.suppress(httpx.TransportError):
        assert problem(published.http.post("/v1/publications", content=endless()))[1] == "too-large"
    assert published.http.get("/readyz").status_code == 200


def put(published: Published, data: bytes, content_range: str, address: object = None) -> httpx.Response:
    """Send a range of the pending image's first content."""
    address = address or published.pending.manifest.blobs()[0]
    url = f"/v1/publications/{published.pending.manifest.image_id}/blobs/{address}"
    return published.http.put(url, content=data, headers={"Content-Range": content_range})


PUTS: list[tuple[str, int, str, int, str, str]] = [
    ("no range", 16384, "", 416, "range-refused", "not understood"),
    ("a range of other units", 16384, "leaves 0-1/64", 416, "range-refused", "not understood"),
    ("another size than the address says", 16384, "bytes 0-16383/99", 416, "range-refused", "its address says 1048576"),
    ("past the end", 32768, "bytes 1032192-1064959/1048576", 416, "range-refused", "outside the blob"),
    ("backwards", 16384, "bytes 16384-0/1048576", 416, "range-refused", "outside the blob"),
    ("not on a leaf's boundary", 16384, "bytes 1-16384/1048576", 416, "range-refused", "multiple of 16384"),
    ("half a leaf", 100, "bytes 0-99/1048576", 416, "range-refused", "multiple of 16384"),
    ("shorter than it says", 16384, "bytes 0-32767/1048576", 416, "range-refused", "brings 16384"),
    ("longer than it says", 32768, "bytes 0-16383/1048576", 416, "range-refused", "brings 32768"),
]  # fmt: skip


@pytest.mark.parametrize(("sentence", "length", "header", "status", "code", "said"), PUTS, ids=[row[0] for row in PUTS])
def test_ranges_that_are_not_accepted(
    published: Published, sentence: str, length: int, header: str, status: int, code: str, said: str
) -> None:
    """Nothing of them is kept."""
    before = files(published.service.directory)
    found, name, detail = problem(put(published, bytes(length), header))
    assert (found, name) == (status, code), detail
    assert said in detail
    assert files(published.service.directory) == before


def test_a_range_larger_than_any_is_refused(published: Published) -> None:
    """Whatever the content's size."""
    address = Address(bytes(32), 1 << 30)
    with pytest.raises(RangeRefused, match="smaller parts"):
        parse_content_range(f"bytes 0-{MAX_PART + LEAF - 1}/{1 << 30}", MAX_PART + LEAF, address)
    answer = put(published, bytes(MAX_PART + LEAF), f"bytes 0-{MAX_PART + LEAF - 1}/1048576")
    assert problem(answer)[:2] == (413, "too-large")


def test_a_range_of_what_is_no_part_of_the_image_is_refused(published: Published) -> None:
    """A publication does not make the catalog a place for anything else."""
    answer = put(published, bytes(16384), "bytes 0-16383/1048576", NO_ADDRESS)
    assert problem(answer)[1] == "not-found"


def test_a_range_without_length_is_refused(published: Published) -> None:
    """Chunked bodies have none."""
    url = f"/v1/publications/{published.pending.manifest.image_id}/blobs/{published.pending.manifest.blobs()[0]}"
    answer = published.http.put(url, content=iter([b"x"]), headers={"Content-Range": "bytes 0-16383/1048576"})
    assert problem(answer)[2] == "Content-Length is missing; a range is sent with its length"


def test_committing_early_is_refused(published: Published) -> None:
    """With how many contents are missing."""
    status, code, detail = problem(
        published.http.post(f"/v1/publications/{published.pending.manifest.image_id}/commit")
    )
    assert (status, code) == (409, "conflict")
    assert "still misses" in detail


def test_a_cut_range_is_not_acknowledged(published: Published) -> None:
    """Half of it arrived; the catalog counts none of it and goes on serving."""
    import socket

    host, port = published.service.url.removeprefix("http://").split(":")
    address = published.pending.manifest.blobs()[0]
    url = f"/v1/publications/{published.pending.manifest.image_id}/blobs/{address}"
    with socket.create_connection((host, int(port))) as wire:
        wire.sendall(
            f"PUT {url} HTTP/1.1\r\nHost: x\r\nContent-Length: 32768\r\nContent-Range: bytes 0-32767/1048576\r\n\r\n".encode()
            + bytes(20000)
        )
    assert published.http.get(url).json()["received"] == []
    assert published.http.get("/readyz").status_code == 200


def test_openapi_describes_every_operation(published: Published) -> None:
    """Each has a summary, a description, an answer with a schema or an example, and problems that exist."""
    document = published.http.get("/openapi.json").json()
    operations = [(path, method, one) for path, methods in document["paths"].items() for method, one in methods.items()]
    assert len(operations) >= 17
    codes = set()
    for path, method, one in operations:
        where = f"{method} {path}"
        assert one.get("summary"), where
        assert one.get("description"), where
        good = [answer for status, answer in one["responses"].items() if status.startswith("2")]
        assert good, where
        for answer in good:
            for content in answer.get("content", {}).values():
                assert "$ref" in content.get("schema", {}) or "example" in content, where
        for status, answer in one["responses"].items():
            examples = answer.get("content", {}).get("application/problem+json", {}).get("examples", {})
            assert status.startswith("2") or examples or path == "/livez", where
            for code, example in examples.items():
                assert code in KINDS, where
                assert example["value"]["status"] == int(status)
                codes.add(code)
        for parameter in one.get("parameters", []):
            assert (
                "example" in parameter
                or "examples" in parameter["schema"]
                or "enum" in parameter["schema"]
                or (parameter["name"] in {"limit", "cursor", "vo", "name"})
            ), f"{where} {parameter['name']}"
        if "requestBody" in one:
            assert all("example" in content for content in one["requestBody"]["content"].values()), where
    assert {"malformed", "not-found", "conflict", "not-entitled", "range-refused", "content-mismatch"} <= codes
    for name, schema in document["components"]["schemas"].items():
        if name in {"ImagePage", "Publication", "Received", "Problem", "EndorsementList"}:
            assert schema["examples"], name


def test_the_documented_examples_are_of_the_documented_form() -> None:
    """An example that the parser refuses teaches nonsense."""
    from catalog import wire

    for name in (
        "PublicationRequest",
        "EndorsementsRequest",
        "Received",
        "Publication",
        "ImagePage",
        "VoKeyList",
        "VoPage",
        "EndorsementList",
        "Problem",
    ):
        model = getattr(wire, name)
        for example in model.model_config["json_schema_extra"]["examples"]:
            assert parse(model, canonical(example), name)


@pytest.mark.parametrize("code", sorted(KINDS))
def test_every_error_crosses_the_wire(code: str) -> None:
    """The client raises the very class, with the same sentence and the same attributes."""
    kind = KINDS[code]
    error = DocumentError("manifest", "$.disks[0]", "is wrong") if kind is DocumentError else kind("a sentence")
    back = from_problem(canonical(to_problem(error)))
    assert type(back) is kind
    assert str(back) == str(error)
    assert vars(back) == vars(error)
    assert status_of(kind) == to_problem(error)["status"]


def test_errors_that_are_not_ours_keep_their_inside() -> None:
    """A programmer's mistake does not tell strangers about files and queries; a subclass travels as its ancestor."""
    assert "secret" not in str(to_problem(RuntimeError("secret /etc/shadow")))
    assert "secret" not in str(to_problem(KeyUnusable("secret /etc/shadow")))

    class Special(Malformed):
        """Known here only."""

    assert type(from_problem(canonical(to_problem(Special("x"))))) is Malformed


@pytest.mark.parametrize(
    "data",
    [b"", b"<html>", b"[]", b"{}", b'{"detail":1}', b'{"detail":"x","type":"about:blank"}',
     b'{"detail":"x","type":"urn:partita:problem:malformed-document"}',
     b'{"detail":"x","type":"urn:partita:problem:conflict","__class__":1' ],
)  # fmt: skip
def test_what_is_no_problem_of_ours_is_none(data: bytes) -> None:
    """Never an exception of the reader's own."""
    assert from_problem(data) is None


def test_attributes_that_an_error_does_not_have_are_ignored() -> None:
    """A hostile catalog cannot set anything on our exceptions."""
    error = from_problem(b'{"type":"urn:partita:problem:conflict","detail":"d","exit_code":0,"args":[1]}')
    assert error is not None
    assert (vars(error), str(error)) == ({}, "d")
    assert isinstance(error, CatalogError)


@given(st.binary(max_size=200))
def test_any_bytes_as_problem(data: bytes) -> None:
    """No bytes make it fail."""
    assert from_problem(data) is None or isinstance(from_problem(data), Exception)


@given(st.text(max_size=40) | st.from_regex(r"bytes=[0-9]{0,4}-[0-9]{0,4}", fullmatch=True), st.integers(1, 5000))
def test_any_text_as_range(header: str, size: int) -> None:
    """A range inside the content, or RangeRefused."""
    try:
        start, end = parse_range(header, size)
    except RangeRefused:
        return
    assert 0 <= start < end <= size


@given(
    st.text(max_size=40) | st.from_regex(r"bytes [0-9]{1,6}-[0-9]{1,6}/40000", fullmatch=True), st.integers(0, 50000)
)
def test_any_text_as_content_range(header: str, length: int) -> None:
    """A range of whole leaves as long as the body, or RangeRefused."""
    try:
        start, end = parse_content_range(header, length, Address(bytes(32), 40000))
    except RangeRefused:
        return
    assert start % LEAF == 0
    assert end - start == length
    assert end % LEAF == 0 or end == 40000


@given(st.binary(max_size=400))
def test_any_bytes_as_request(data: bytes) -> None:
    """A request, or DocumentError."""
    try:
        parse(PublicationRequest, data, "publication")
    except DocumentError as error:
        place = str(error)
    else:
        return
    assert place.startswith("publication: $")
