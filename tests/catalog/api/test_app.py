"""The HTTP surface of a real service: ranges, entity tags, pages, refusals, and an OpenAPI document that says it all."""

import re
from typing import Any

import pytest

from catalog.api.contents import MOVED
from catalog.client.client import CatalogClient
from catalog.content.indexing import index_file
from catalog.errors import Misused
from catalog.image.manifest import MANIFEST_MEDIA_TYPE
from catalog.schema.problems import error_classes, read_problem
from signer.documents import canonical, parse
from tests.support.catalog.published_images import NO_ADDRESS, NO_IMAGE, Published, problem
from tests.support.catalog.service_process import Vo
from tests.support.factories import MIB

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
    answer = published.http.get(f"/v1/contents/{address}", headers={"Range": header})
    assert answer.status_code == 206
    assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{MIB}"
    assert answer.content == data[start:end]


def test_several_ranges_come_in_one_answer(published: Published) -> None:
    """Each with its place, in order; a client gets their bytes one after the other."""
    address = published.content[0]
    whole = published.http.get(f"/v1/contents/{address}").content
    answer = published.http.get(f"/v1/contents/{address}", headers={"Range": "bytes=0-1,5-6, 1048570-1048575"})
    assert answer.status_code == 206
    assert answer.headers["content-type"] == "multipart/byteranges; boundary=partita-range"
    parts = [whole[0:2], whole[5:7], whole[-6:]]
    places = ("0-1", "5-6", "1048570-1048575")
    said = b"".join(
        b"\r\n--partita-range\r\nContent-Range: bytes %s/1048576\r\n\r\n" % place.encode() + part
        for place, part in zip(places, parts, strict=True)
    )
    assert answer.content == said + b"\r\n--partita-range--\r\n"
    assert published.http.head(f"/v1/contents/{address}", headers={"Range": "bytes=0-1,5-6"}).status_code == 206
    with CatalogClient(str(published.http.base_url)) as client:
        ranges = [(at, at + 4096) for at in range(0, MIB, 8192)]
        assert b"".join(client.content_ranges(address, ranges)) == b"".join(whole[a:b] for a, b in ranges)


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
    answer = published.http.get(f"/v1/contents/{published.content[0]}", headers={"Range": header})
    status, code, detail = problem(answer)
    assert (status, code) == (416, "range-refused")
    assert repr(header) in detail


def test_a_content_is_immutable_and_says_so(published: Published) -> None:
    """Entity tag, cache headers, HEAD, If-None-Match and If-Range."""
    address, data = published.content
    url = f"/v1/contents/{address}"
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
    measured = index_file(published.images[0].content(address))
    for kind, wanted in (("map", measured.data_map), ("layer", measured.layer), ("hints", measured.hints)):
        answer = published.http.get(f"/v1/contents/{address}/{kind}")
        assert answer.content == wanted
        again = published.http.get(f"/v1/contents/{address}/{kind}", headers={"If-None-Match": answer.headers["etag"]})
        assert again.status_code == 304


def test_a_manifest_is_served_byte_for_byte(published: Published) -> None:
    """With its media type and the image ID as its entity tag."""
    url = f"/v1/images/{published.manifest.image_id}"
    answer = published.http.get(url)
    assert answer.content == published.manifest.canonical()
    assert answer.headers["content-type"] == MANIFEST_MEDIA_TYPE
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
    ("a content that is not here", "GET", f"/v1/contents/{NO_ADDRESS}", 404, "not-found"),
    ("a content by half an address", "GET", "/v1/contents/" + "0" * 64, 400, "malformed"),
    ("a content of negative size", "GET", "/v1/contents/" + "0" * 64 + "--1", 400, "malformed"),
    ("a content of absurd size", "GET", "/v1/contents/" + "0" * 64 + "-99999999999999", 400, "malformed"),
    ("a path out of the store", "GET", "/v1/contents/..%2f..%2fcatalog.db", 404, "not-found"),
    ("an unknown thing beside a content", "GET", f"/v1/contents/{NO_ADDRESS}/secrets", 400, "malformed"),
    ("a name that is not here", "GET", "/v1/names/star/nothing", 404, "not-found"),
    ("a VO that is not here", "GET", "/v1/vos/cms/keys", 404, "not-found"),
    ("a cursor of one's own making", "GET", "/v1/images?cursor=first", 400, "malformed"),
    ("a page of no items", "GET", "/v1/images?limit=0", 400, "malformed"),
    ("a page of all items", "GET", "/v1/images?limit=1001", 400, "malformed"),
    ("a page of some items", "GET", "/v1/images?limit=some", 400, "malformed"),
    ("a path that does not exist", "GET", "/v2/images", 404, "not-found"),
    ("a method that does not exist", "DELETE", "/v1/images", 405, "misused"),
    ("a publication that was not begun", "POST", f"/v1/publications/{NO_IMAGE}/commit", 404, "not-found"),
    ("a content of a publication that was not begun", "GET", f"/v1/publications/{NO_IMAGE}/contents/{NO_ADDRESS}", 404, "not-found"),
]  # fmt: skip


@pytest.mark.parametrize(("sentence", "method", "path", "status", "code"), QUESTIONS, ids=[row[0] for row in QUESTIONS])
def test_questions_that_are_refused(
    published: Published, sentence: str, method: str, path: str, status: int, code: str
) -> None:
    """Each with its problem, in one sentence."""
    found, name, detail = problem(published.http.request(method, path))
    assert (found, name) == (status, code)
    assert len(detail) > 20


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", f"/v1/blobs/{NO_ADDRESS}"),
        ("GET", f"/v1/blobs/{NO_ADDRESS}/layer"),
        ("GET", f"/v1/candidates/{NO_IMAGE}/blobs/{NO_ADDRESS}"),
        ("GET", f"/v1/publications/{NO_IMAGE}/blobs/{NO_ADDRESS}"),
        ("PUT", f"/v1/publications/{NO_IMAGE}/blobs/{NO_ADDRESS}"),
        ("POST", f"/v1/publications/{NO_IMAGE}/blobs/{NO_ADDRESS}/complete"),
    ],
)
def test_an_old_client_learns_that_it_has_to_be_upgraded(published: Published, method: str, path: str) -> None:
    """Of every path that contents had until 0.1, as a problem of a kind that its client raises."""
    answer = published.http.request(method, path, content=bytes(1 << 20) if method == "PUT" else b"")
    assert problem(answer) == (410, "misused", MOVED)
    assert published.http.head(path).status_code == 410
    raised = read_problem(answer.content, Misused)
    assert (type(raised), str(raised)) == (Misused, MOVED)


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
                assert code in error_classes(), where
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
        if name in {"ImagePage", "Publication", "UploadStatus", "Problem", "EndorsementList"}:
            assert schema["examples"], name


def test_the_documented_examples_are_of_the_documented_form() -> None:
    """An example that the parser refuses teaches nonsense."""
    from catalog.schema import images as wire
    from catalog.schema import problems

    for name in (
        "PublicationRequest",
        "EndorsementsRequest",
        "UploadStatus",
        "Publication",
        "ImagePage",
        "VoKeyList",
        "VoPage",
        "EndorsementList",
        "Problem",
    ):
        model = getattr(problems if name == "Problem" else wire, name)
        for example in model.model_config["json_schema_extra"]["examples"]:
            assert parse(model, canonical(example), name)
