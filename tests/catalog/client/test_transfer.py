"""Images between a directory and a catalog: lies, cuts, altered contents, and what is left to send."""

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.client import transfer
from catalog.client.client import CatalogClient
from catalog.client.transfer import subtract_ranges
from catalog.content.indexing import index_file
from catalog.errors import ContentMismatch, Misused
from catalog.image.bundle import Bundle
from catalog.image.reference import Reference
from tests.support.catalog.service_process import Service, Vo
from tests.support.factories import MIB, bundle


class LyingMap(httpx2.HTTPTransport):
    """The network, but for data maps: they say that everything is zero."""

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Pass it on, or lie."""
        answer = super().handle_request(request)
        if request.url.path.endswith("/map"):
            length = len(answer.read())
            answer.close()
            return httpx2.Response(200, content=iter([bytes(length)]))
        return answer


class LyingContent(httpx2.HTTPTransport):
    """The network, but every range has its first byte altered."""

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Pass it on, altered where it is content."""
        answer = super().handle_request(request)
        if answer.status_code == 206:
            data = answer.read()
            answer.close()
            altered = bytes([data[0] ^ 1]) + data[1:]
            return httpx2.Response(
                206, content=iter([altered]), headers={"Content-Range": answer.headers["content-range"]}
            )
        return answer


class Cutting(httpx2.HTTPTransport):
    """The network, which cuts every other range after its first piece."""

    def __init__(self) -> None:
        super().__init__()
        self.cuts = 0

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Pass it on, for a while."""
        answer = super().handle_request(request)
        if answer.status_code != 206 or self.cuts >= 3:
            return answer
        self.cuts += 1
        data = answer.read()
        answer.close()

        def some() -> Iterator[bytes]:
            yield data[: len(data) // 2]
            raise httpx2.ReadError("connection reset by peer")

        return httpx2.Response(206, content=some(), headers={"Content-Range": answer.headers["content-range"]})


@pytest.fixture
def published(service: Service, star: Vo, tmp_path: Path) -> Bundle:
    """An image that the running service has."""
    made = star.endorse(bundle(tmp_path / "image", partitions=1, size=5 * MIB))
    with service.client() as publishing:
        transfer.publish_image(publishing, made)
    return made


def test_fetching_survives_lies_about_zeros_and_cuts(service: Service, published: Bundle, tmp_path: Path) -> None:
    """A wrong map costs time, a cut a pause; the content is right."""
    for number, transport in enumerate((LyingMap(), Cutting())):
        with CatalogClient(service.url, transport, sleep=lambda _: None) as fetching:
            done: list[int] = []
            fetched = transfer.fetch_image(
                fetching, Reference.parse("star/worker@1.0"), tmp_path / f"fetched{number}", done.append
            )
        for address in published.manifest.contents():
            assert index_file(fetched.content(address)).address == address
        assert sum(done) == sum(address.size for address in published.manifest.contents())


def test_altered_content_is_refused_and_nothing_is_left(service: Service, published: Bundle, tmp_path: Path) -> None:
    """However often it is asked for."""
    with (
        CatalogClient(service.url, LyingContent()) as fetching,
        pytest.raises(ContentMismatch, match=r"sent another content for .*; use another"),
    ):
        transfer.fetch_image(fetching, Reference.parse("star/worker"), tmp_path / "new" / "fetched")
    assert list((tmp_path / "new").iterdir()) == []


def test_a_directory_that_holds_something_is_not_written_to(service: Service, published: Bundle) -> None:
    """Nor is anything in it touched."""
    with service.client() as fetching, pytest.raises(Misused, match="not empty"):
        transfer.fetch_image(fetching, Reference.parse("star/worker"), published.root)
    assert Bundle.open(published.root) == published


@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(1, 9)), max_size=6),
    st.lists(st.tuples(st.integers(0, 60), st.integers(1, 9)), max_size=6),
)
def test_what_is_left_to_send(extents: list[tuple[int, int]], received: list[tuple[int, int]]) -> None:
    """Every byte of the extents that was not received, and no other."""

    def apart(pieces: list[tuple[int, int]]) -> list[tuple[int, int]]:
        runs: list[tuple[int, int]] = []
        for start, end in sorted((start, start + length) for start, length in pieces):
            if not runs or start > runs[-1][1]:
                runs.append((start, end))
            elif end > runs[-1][1]:
                runs[-1] = (runs[-1][0], end)
        return runs

    wanted, have = apart(extents), apart(received)
    left = subtract_ranges([(start, end - start) for start, end in wanted], tuple(have))
    bytes_of = lambda runs: {n for start, end in runs for n in range(start, end)}  # noqa: E731 - a set, twice
    assert bytes_of(left) == bytes_of(wanted) - bytes_of(have)
    assert sum(end - start for start, end in left) == len(bytes_of(left))
