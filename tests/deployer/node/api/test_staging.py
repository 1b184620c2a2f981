"""Images on nodes ahead of their use: fetched from the origin once and from each other, pinned, watched."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from catalog.client import transfer
from catalog.errors import NotFound
from deployer.cli.node.staging import watch_staging
from deployer.node.schema.staging import PrefetchOrder
from signer.runtime import terminal
from tests.support import factories
from tests.support.node.community import Community
from tests.support.node.service_process import NodeProcess, wait_for

MIB = 1 << 20


@pytest.fixture(scope="session")
def large(community: Community, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image that is large enough for the swarm; its image ID."""
    bundle = factories.bundle(tmp_path_factory.mktemp("large"), partitions=1, size=24 * MIB, seed=77, name="large")
    community.star.endorse(bundle)
    with community.service.client() as client:
        transfer.publish_image(client, bundle)
    return bundle.manifest.image_id


def test_the_second_node_has_the_image_from_the_first(make_node: Callable[..., NodeProcess], large: str) -> None:
    first, second = make_node(), make_node()
    with first.client() as client:
        steps: list[tuple[int, int]] = []
        brought = client.prefetch(PrefetchOrder(image=large), lambda done, total: steps.append((done, total)))
        assert steps[-1][0] == steps[-1][1] > 24 * MIB
        assert brought.from_peers == 0
        assert brought.from_origin > 18 * MIB  # every fourth MiB is a hole
        wait_for(lambda: client.staging().swarm.contents == 1)  # type: ignore[union-attr]
    with second.client() as client:
        brought = client.prefetch(PrefetchOrder(image=large), lambda *_: None)
        assert brought.from_peers >= 16 * MIB
        assert brought.from_origin < 4 * MIB
        again = client.prefetch(PrefetchOrder(image=large), lambda *_: None)
        assert (again.from_peers, again.from_origin, again.blanks_made) == (0, 0, 0)
    # A node that is started again offers what it has at once.
    first.kill()
    first.start()
    with first.client() as client:
        status = client.staging()
        assert status.swarm is not None
        assert status.swarm.contents == 1


def test_a_pinned_image_stays_until_it_is_unpinned(make_node: Callable[..., NodeProcess], large: str) -> None:
    node = make_node()
    with node.client() as client:
        client.prefetch(PrefetchOrder(image=large, pin=True), lambda *_: None)
        (pin,) = client.staging().pins
        assert pin.image_id == large
        assert client.staging().leased > 16 * MIB
    node.kill()
    node.start()
    with node.client() as client:
        assert client.staging().pins == (pin,)
        assert client.unpin(large).released == pin.contents
        assert client.unpin(large).released == 0
        assert (client.staging().pins, client.staging().leased) == ((), 0)


def test_an_image_that_does_not_exist_is_not_fetched(make_node: Callable[..., NodeProcess]) -> None:
    with make_node().client() as client, pytest.raises(NotFound):
        client.prefetch(PrefetchOrder(image="star/nothing@1.0"), lambda *_: None)


def test_what_is_arriving_is_watched_until_nothing_is(
    make_node: Callable[..., NodeProcess],
    large: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(terminal.options, "json", True)
    node = make_node()
    with node.client() as client, node.client() as watching, ThreadPoolExecutor(1) as pool:
        job = pool.submit(client.prefetch, PrefetchOrder(image=large), lambda *_: None)
        while not job.done():
            watch_staging(watching, sleep=lambda _: None)
        job.result()
    said = capsys.readouterr().out
    decoder, seen = json.JSONDecoder(), []
    while said.strip():
        document, end = decoder.raw_decode(said.lstrip())
        said = said.lstrip()[end:]
        seen += document["arriving"]
    large_ones = [one for one in seen if one["size"] == 24 * MIB]
    assert large_ones
    assert all(0 <= one["have"] <= one["size"] for one in large_ones)
    assert [one["have"] for one in large_ones] == sorted(one["have"] for one in large_ones)
