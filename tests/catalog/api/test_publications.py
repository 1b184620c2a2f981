"""Publications over HTTP that are refused: each with its problem, and nothing is left behind."""

import base64
import contextlib
import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from catalog.errors import RangeRefused
from catalog.image.address import LEAF, Address
from catalog.schema.images import MAX_UPLOAD_PART, SignedStatement, parse_content_range
from tests.support.catalog.published_images import NO_ADDRESS, Published, problem
from tests.support.catalog.service_process import files


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
    ("a member twice", lambda _: b'{"manifest":"","manifest":""}', 400, "malformed-document", "is listed twice"),
    ("an unknown member", lambda p: request_with(p, password="x"), 400, "malformed-document", "$.password: is not known"),
    ("no manifest", lambda p: request_with(p, manifest=None), 400, "malformed-document", "$.manifest: is missing"),
    ("no endorsements", lambda p: request_with(p, endorsements=None), 400, "malformed-document", "$.endorsements"),
    ("zero endorsements", lambda p: request_with(p, endorsements=[]), 400, "malformed-document", "$.endorsements"),
    ("too many endorsements", lambda p: request_with(p, endorsements=signed() * 65), 400, "malformed-document", "$.endorsements"),
    ("a signature that is not base64", lambda p: request_with(p, endorsements=signed(signature="?")), 400, "malformed-document", "$.endorsements[0].signature: is not valid base64"),
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
    with contextlib.suppress(httpx2.TransportError):
        assert problem(published.http.post("/v1/publications", content=endless()))[1] == "too-large"
    assert published.http.get("/readyz").status_code == 200


def put(published: Published, data: bytes, content_range: str, address: object = None) -> httpx2.Response:
    """Send a range of the pending image's first content."""
    address = address or published.pending.manifest.contents()[0]
    url = f"/v1/publications/{published.pending.manifest.image_id}/contents/{address}"
    return published.http.put(url, content=data, headers={"Content-Range": content_range})


PUTS: list[tuple[str, int, str, int, str, str]] = [
    ("no range", 16384, "", 416, "range-refused", "is malformed"),
    ("a range of other units", 16384, "leaves 0-1/64", 416, "range-refused", "is malformed"),
    ("another size than the address says", 16384, "bytes 0-16383/99", 416, "range-refused", "the address of the content 1048576"),
    ("past the end", 32768, "bytes 1032192-1064959/1048576", 416, "range-refused", "outside the content"),
    ("backwards", 16384, "bytes 16384-0/1048576", 416, "range-refused", "outside the content"),
    ("not on a leaf's boundary", 16384, "bytes 1-16384/1048576", 416, "range-refused", "multiple of 16384"),
    ("half a leaf", 100, "bytes 0-99/1048576", 416, "range-refused", "multiple of 16384"),
    ("shorter than it says", 16384, "bytes 0-32767/1048576", 416, "range-refused", "request body has 16384"),
    ("longer than it says", 32768, "bytes 0-16383/1048576", 416, "range-refused", "request body has 32768"),
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
    with pytest.raises(RangeRefused, match="smaller ranges"):
        parse_content_range(f"bytes 0-{MAX_UPLOAD_PART + LEAF - 1}/{1 << 30}", MAX_UPLOAD_PART + LEAF, address)
    answer = put(published, bytes(MAX_UPLOAD_PART + LEAF), f"bytes 0-{MAX_UPLOAD_PART + LEAF - 1}/1048576")
    assert problem(answer)[:2] == (413, "too-large")


def test_a_range_of_what_is_no_part_of_the_image_is_refused(published: Published) -> None:
    """A publication does not make the catalog a place for anything else."""
    answer = put(published, bytes(16384), "bytes 0-16383/1048576", NO_ADDRESS)
    assert problem(answer)[1] == "not-found"


def test_a_range_without_length_is_refused(published: Published) -> None:
    """Chunked bodies have none."""
    url = f"/v1/publications/{published.pending.manifest.image_id}/contents/{published.pending.manifest.contents()[0]}"
    answer = published.http.put(url, content=iter([b"x"]), headers={"Content-Range": "bytes 0-16383/1048576"})
    assert problem(answer)[2] == "Content-Length is missing; send a range with its length"


def test_committing_early_is_refused(published: Published) -> None:
    """With how many contents are missing."""
    status, code, detail = problem(
        published.http.post(f"/v1/publications/{published.pending.manifest.image_id}/commit")
    )
    assert (status, code) == (409, "conflict")
    assert "lacks" in detail


def test_a_cut_range_is_not_acknowledged(published: Published) -> None:
    """Half of it arrived; the catalog counts none of it and goes on serving."""
    import socket

    host, port = published.service.url.removeprefix("http://").split(":")
    address = published.pending.manifest.contents()[0]
    url = f"/v1/publications/{published.pending.manifest.image_id}/contents/{address}"
    with socket.create_connection((host, int(port))) as wire:
        wire.sendall(
            f"PUT {url} HTTP/1.1\r\nHost: x\r\nContent-Length: 32768\r\nContent-Range: bytes 0-32767/1048576\r\n\r\n".encode()
            + bytes(20000)
        )
    assert published.http.get(url).json()["received"] == []
    assert published.http.get("/readyz").status_code == 200
