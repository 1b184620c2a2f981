"""The client against catalogs that lie, stall, break off or send without end: a clear error each, and nothing kept."""

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import httpx2
import pytest

from catalog.client.client import CatalogClient
from catalog.errors import CatalogError, Conflict, ContentMismatch, Malformed, Misused, NotFound, Unavailable
from catalog.image.address import Address
from catalog.image.reference import Reference
from catalog.schema.problems import to_problem
from signer.documents import canonical

URL = "http://catalog.example"
IMAGE = "sha256:" + "1" * 64
ADDRESS = Address(bytes(32), 100_000)

Answer = Callable[[httpx2.Request], httpx2.Response]


class Scripted(httpx2.BaseTransport):
    """A catalog that answers as it is told, one answer after the other, the last one for ever."""

    def __init__(self, *answers: Answer) -> None:
        self._answers, self.asked = list(answers), 0

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """The next answer."""
        self.asked += 1
        return (self._answers.pop(0) if len(self._answers) > 1 else self._answers[0])(request)


def says(status: int, content: bytes = b"", **headers: str) -> Answer:
    """Answer with these bytes."""
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda _: httpx2.Response(status, content=iter([content]), headers=fields)


def breaks(_: httpx2.Request) -> httpx2.Response:
    """Cut the connection."""
    raise httpx2.ReadError("connection reset by peer")


def refuses(_: httpx2.Request) -> httpx2.Response:
    """Nobody listens."""
    raise httpx2.ConnectError("connection refused")


def stalls(_: httpx2.Request) -> httpx2.Response:
    """Nothing is said for too long."""
    raise httpx2.ReadTimeout("timed out")


def without_end(_: httpx2.Request) -> httpx2.Response:
    """Send for ever."""

    def stream() -> Iterator[bytes]:
        while True:
            yield bytes(1 << 20)

    return httpx2.Response(200, content=stream())


def client(*answers: Answer) -> CatalogClient:
    """A client that does not wait between tries."""
    return CatalogClient(URL, Scripted(*answers), sleep=lambda _: None)


ENTRY = {
    "image_id": IMAGE, "vo": "star", "name": "worker", "version": "1", "architecture": "x86_64", "size": 1,
    "published": "2026-11-22T12:00:00Z",
}  # fmt: skip

ATTACKS: list[tuple[str, Answer, Callable[[CatalogClient], object], type[CatalogError], str]] = [
    ("a manifest that is another image's", says(200, b"{}"), lambda c: c.manifest(IMAGE), ContentMismatch, "another manifest"),
    ("a manifest without end", without_end, lambda c: c.manifest(IMAGE), Malformed, "more than the 1048576 bytes"),
    ("a list without end", without_end, lambda c: list(c.images()), Malformed, "more than the"),
    ("an error without end", lambda r: httpx2.Response(400, content=without_end(r).stream), lambda c: list(c.images()), CatalogError, "without a reason"),
    ("a piece layer that is too short", says(200, bytes(32)), lambda c: c.accelerator(ADDRESS, "layer"), Malformed, "the layer of .* has 32 bytes, and should have 64"),
    ("a piece layer that is too long", says(200, bytes(96)), lambda c: c.accelerator(ADDRESS, "layer"), Malformed, "more than the 64 bytes"),
    ("a map of another size", says(200, b""), lambda c: c.accelerator(ADDRESS, "map"), Malformed, "should have 1"),
    ("hints without end", without_end, lambda c: c.accelerator(ADDRESS, "hints"), Malformed, "more than the 200 bytes"),
    ("another range than asked for", says(206, bytes(10), content_range="bytes 5-14/100000"), lambda c: list(c.content_range(ADDRESS, 0, 10)), Malformed, "another range"),
    ("the whole content instead of a range", says(200, bytes(100_000)), lambda c: list(c.content_range(ADDRESS, 0, 10)), Malformed, "another range"),
    ("more bytes than the range has", says(206, bytes(11), content_range="bytes 0-9/100000"), lambda c: list(c.content_range(ADDRESS, 0, 10)), Malformed, "more than the 10 bytes"),
    ("fewer bytes than the range has", says(206, bytes(9), content_range="bytes 0-9/100000"), lambda c: list(c.content_range(ADDRESS, 0, 10)), Unavailable, "ended 1 bytes early"),
    ("another image under a version", says(200, canonical(ENTRY)), lambda c: c.resolve(Reference.parse("star/worker@2")), Malformed, "a request for star/worker@2 with star/worker@1"),
    ("a page of nothing for a name", says(200, b'{"items":[]}'), lambda c: c.resolve(Reference.parse("star/worker")), NotFound, "no image star/worker"),
    ("a page that is no page", says(200, b"<html>"), lambda c: list(c.images()), Malformed, "is not JSON .* is this a catalog"),
    ("an image ID that is none", says(200, canonical({"items": [ENTRY | {"image_id": "../../etc"}]})), lambda c: list(c.images()), Malformed, r"image_id"),
    ("a redirection", says(302, location="http://169.254.169.254/"), lambda c: list(c.images()), CatalogError, "status 302"),
    ("a page of a proxy", says(502, b"<html>Bad Gateway"), lambda c: list(c.images()), Unavailable, "status 502"),
    ("a login page", says(401, b"<html>"), lambda c: list(c.images()), CatalogError, "status 401"),
    ("silence", stalls, lambda c: list(c.images()), Unavailable, "no response in time"),
    ("nobody", refuses, lambda c: list(c.images()), Unavailable, r"cannot be reached .connection refused.; check that"),
]  # fmt: skip


@pytest.mark.parametrize(("sentence", "answer", "ask", "wanted", "said"), ATTACKS, ids=[row[0] for row in ATTACKS])
def test_catalogs_that_are_not_to_be_believed(
    sentence: str, answer: Answer, ask: Callable[[CatalogClient], object], wanted: type[CatalogError], said: str
) -> None:
    """Each is one clear error that names the catalog or the thing."""
    with client(answer) as asking, pytest.raises(wanted, match=said) as caught:
        ask(asking)
    assert type(caught.value) is wanted


def test_a_page_that_repeats_itself_ends() -> None:
    """A catalog whose last page points at itself does not hold us for ever."""
    with client(says(200, canonical({"items": [ENTRY], "next": "7"}))) as asking:
        assert len(list(asking.images())) == 2
    with client(says(200, canonical({"items": [], "next": "a"}))) as asking:
        assert list(asking.vos()) == []


def test_answers_may_gain_members() -> None:
    """A client of today understands a catalog of tomorrow."""
    with client(says(200, canonical({"items": [ENTRY | {"colour": "red"}], "total": 1}))) as asking:
        assert [one.version for one in asking.images()] == ["1"]


def test_the_very_same_exception_is_raised() -> None:
    """Class, sentence and exit code."""
    with client(says(409, canonical(to_problem(Conflict("star/worker@1 is published"))))) as asking:
        with pytest.raises(Conflict, match=r"^star/worker@1 is published$") as caught:
            asking.commit(IMAGE)
        assert caught.value.exit_code == Conflict.exit_code


def test_what_was_cut_is_asked_again() -> None:
    """With growing pauses, as long as a catalog takes to be started again."""
    pauses: list[float] = []
    good = says(200, canonical({"items": []}))
    script = Scripted(good, breaks, says(503, canonical(to_problem(Unavailable("busy")))), refuses, good)
    with CatalogClient(URL, script, sleep=pauses.append) as asking:
        list(asking.images())
        list(asking.images())
    assert all(least <= pause <= 2 * least for pause, least in zip(pauses, (0.1, 0.2, 0.4), strict=True))
    assert script.asked == 5


def test_asking_ends() -> None:
    """A catalog that stays away is given up."""
    script = Scripted(breaks)
    with (
        CatalogClient(URL, script, sleep=lambda _: None) as asking,
        pytest.raises(Unavailable, match="cannot be reached"),
    ):
        list(asking.images())
    assert script.asked == 7


@pytest.mark.parametrize("answer", [refuses, stalls, says(404, b"")])
def test_what_does_not_help_is_not_tried_again(answer: Answer) -> None:
    """Nobody ever listened there; silence was waited for; or there was an answer."""
    script = Scripted(answer)
    with CatalogClient(URL, script, sleep=lambda _: None) as asking, pytest.raises(CatalogError):
        list(asking.images())
    assert script.asked == 1


@pytest.mark.parametrize("url", ["", "catalog", "ftp://x", "http://", "http://[", "file:///etc/passwd", "http://\x00"])
def test_urls_that_are_none(url: str) -> None:
    """Said before anything is sent."""
    with pytest.raises(Misused, match="is not a valid URL"):
        CatalogClient(url)


def test_nobody_listens_on_a_real_port() -> None:
    """At once, with the URL and what to do."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        with CatalogClient(url) as asking, pytest.raises(Unavailable, match=f"{url}: cannot be reached"):
            list(asking.images())


def test_a_real_catalog_that_breaks_off_in_the_middle() -> None:
    """What has arrived is given; then Unavailable, so that the rest can be asked for."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            wire, _ = listening.accept()
            with wire:
                wire.recv(65536)
                wire.sendall(
                    b"HTTP/1.1 206 Partial Content\r\nContent-Length: 10\r\nContent-Range: bytes 0-9/100000\r\n\r\n12345"
                )

        thread = threading.Thread(target=answer)
        thread.start()
        with CatalogClient(f"http://127.0.0.1:{listening.getsockname()[1]}") as asking:
            stream = asking.content_range(ADDRESS, 0, 10)
            got = next(stream)
            with pytest.raises(Unavailable):
                next(stream)
        thread.join()
    assert got == b"12345"


def test_importing_the_client_does_without_the_server() -> None:
    """Publishers and nodes carry neither its libraries nor their start-up time."""
    program = "import sys, catalog.client.client, catalog.cli.publish; print(json.dumps(sorted(sys.modules)))"
    ended = subprocess.run(
        [sys.executable, "-c", "import json; " + program], capture_output=True, text=True, check=True
    )
    assert not {"fastapi", "starlette", "sqlalchemy", "alembic", "uvicorn"} & set(json.loads(ended.stdout))
