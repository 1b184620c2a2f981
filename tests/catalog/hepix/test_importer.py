"""Images of a list: which files are taken, which are not even asked for, and how much of a list is read."""

import http.server
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from catalog.errors import (
    CatalogError,
    ContentMismatch,
    DiskRefused,
    Malformed,
    Misused,
    Stale,
    TooLarge,
    Unavailable,
)
from catalog.hepix.importer import ImportRequest, import_image, read_source
from tests.support.catalog.image_lists import World
from tests.support.grid_ca import DAY, utc_now


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
    "another file": ((200, {}, lambda: iter([b"other"])), ContentMismatch, "not have the endorsed SHA-512"),
    "a file that is too short": ((200, {}, lambda: iter([b"oth"])), ContentMismatch, "has 3 bytes"),
    "a file without end": ((200, {}, _endless), ContentMismatch, "exceeds the 5 endorsed"),
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
    "a local file": ({"uri": "file:///etc/passwd"}, Misused, "not an accepted URL"),
    "another kind of URL": ({"uri": "ftp://vo.example/disk"}, Misused, "not an accepted URL"),
    "a URL with a password": ({"uri": "http://a:b@vo.example/disk"}, Misused, "not an accepted URL"),
    "a format that is guessed elsewhere": ({"format": "OVA"}, DiskRefused, "never guessed"),
    "a format that nobody says": ({"format": ""}, DiskRefused, "never guessed"),
    "larger than the disk here": ({"size": 1 << 60}, TooLarge, "the limit is"),
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
    with files(list=(200, {}, _endless())) as url, pytest.raises(Malformed, match="larger than"):
        read_source(f"{url}/list")
