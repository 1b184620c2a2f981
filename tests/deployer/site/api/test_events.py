"""What waits: streams of events and nodes that wait for something to do, and how a service ends that has both."""

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Self

import httpx2
import pytest

from deployer.errors import SiteUnavailable
from deployer.site.client.client import FOLLOW_PATIENCE, SiteClient
from deployer.site.client.endpoint import SiteEndpoint
from deployer.site.model.records import NodeState, SiteEvent
from deployer.site.schema.messages import MAX_WAIT
from tests.support.node.service_process import wait_for
from tests.support.site.service_process import PATIENCE, PaperNode, SiteProcess

Make = Callable[..., SiteProcess]


@pytest.fixture
def site(make_site: Make) -> SiteProcess:
    """A site of the test's own."""
    return make_site()


class _Let(Exception):
    """The follower is let go."""


class _Follower:
    """Follows events in a thread, until the block ends and the service with it."""

    def __init__(self, site: SiteProcess, after: int) -> None:
        self.seen: list[SiteEvent] = []
        self._site, self._ended = site, threading.Event()
        self._thread = threading.Thread(target=self._follow, args=(after,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._site.kill()
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()

    def _follow(self, after: int) -> None:
        with (
            suppress(_Let),
            SiteClient(SiteEndpoint(socket=self._site.directory / "site.sock"), sleep=self._wait) as client,
        ):
            for event in client.follow(after):
                self.seen.append(event)

    def _wait(self, seconds: float) -> None:
        if self._ended.wait(seconds):
            raise _Let


def test_events_are_told_as_they_happen_and_after_a_cut(site: SiteProcess) -> None:
    """One who follows sees each event once and in order, over the end of the service and its start."""
    with _Follower(site, 0) as follower:
        PaperNode(site, "one")
        wait_for(lambda: [one.what for one in follower.seen if one.kind == "node"], PATIENCE)
        site.kill()
        site.start()
        with site.client() as client:
            client.do_node("one", "drain", "dust")
        wait_for(lambda: "draining" in [one.what for one in follower.seen], PATIENCE)
        numbers = [one.number for one in follower.seen]
        assert numbers == list(range(1, len(numbers) + 1))
        assert follower.seen[-1].reason == "dust (by operator)"


def test_a_stream_speaks_as_the_standard_says(site: SiteProcess) -> None:
    """id, event and data of each; Last-Event-ID goes before `after`; without either it begins now."""
    PaperNode(site, "one")
    with httpx2.Client(
        transport=httpx2.HTTPTransport(uds=str(site.directory / "site.sock")), base_url="http://s"
    ) as asked:
        for headers, params, first in (({}, {"after": "0"}, 1), ({"Last-Event-ID": "1"}, {"after": "0"}, 2)):
            with site.client() as client:
                last = client.status().events
                client.do_node("one", "drain" if first == 1 else "undrain")
            with asked.stream("GET", "/v2/events/stream", headers=headers, params=params) as answer:
                assert answer.headers["content-type"].startswith("text/event-stream")
                assert answer.headers["cache-control"] == "no-store"
                wanted, fields = f"id: {last + 1}", list[str]()
                for line in answer.iter_lines():
                    fields.append(line)
                    if wanted in fields and fields[-1] == "":
                        break
            assert fields[0].startswith("retry:")
            events = [one.splitlines() for one in "\n".join(fields).split("\n\n")]
            assert f"id: {first}" in events[1]
            kind, data, number = events[-1]
            assert (kind, number) == ("event: node", wanted)
            assert json.loads(data.removeprefix("data: "))["number"] == last + 1


def test_a_node_that_waits_hears_at_once(site: SiteProcess) -> None:
    """Its long poll ends with what is new; one that hears nothing ends without a body."""
    node = PaperNode(site, "one")
    with node.client() as asked, ThreadPoolExecutor() as pool:
        assert asked.desired(0, 0) is None
        waiting = pool.submit(asked.desired, 0, MAX_WAIT)
        time.sleep(0.5)
        assert not waiting.done()
        began = time.monotonic()
        with site.client() as client:
            client.do_node("one", "drain")
        found = waiting.result(PATIENCE)
        assert found is not None
        assert found.draining
        assert time.monotonic() - began < MAX_WAIT


def test_many_nodes_wait_at_once_and_people_are_answered(site: SiteProcess) -> None:
    """Waiting takes no thread of the service: with more nodes than it has threads everybody is answered."""
    node = PaperNode(site, "one")
    with ThreadPoolExecutor(64) as pool:
        clients = [node.client() for _ in range(64)]
        opened = [client.__enter__() for client in clients]
        try:
            waiting = [pool.submit(one.desired, 0, MAX_WAIT) for one in opened]
            with site.client() as client:
                for _ in range(20):
                    assert client.status().nodes == {NodeState.READY.value: 1}
                assert not any(one.done() for one in waiting)
                client.do_node("one", "drain")
            assert all(one.result(PATIENCE).draining for one in waiting)  # type: ignore[union-attr]
        finally:
            for client in clients:
                client.__exit__(None, None, None)


def test_a_service_that_is_told_to_end_ends_with_those_who_wait(site: SiteProcess) -> None:
    """Streams and long polls are let go, the exit code is 0, and the socket is gone."""
    node = PaperNode(site, "one")
    with _Follower(site, 0), node.client() as asked, ThreadPoolExecutor() as pool:
        waiting = pool.submit(asked.desired, 0, MAX_WAIT)
        time.sleep(0.5)
        assert site.stop() == 0
        assert waiting.exception(PATIENCE) is not None or waiting.result() is None
    assert not (site.directory / "site.sock").exists()


def test_one_service_for_each_directory(site: SiteProcess) -> None:
    """A second one is refused with a sentence, and the first goes on."""
    second = SiteProcess()
    second.set(directory=str(site.directory))
    with pytest.raises(AssertionError, match="another site's service uses this directory"):
        second.start()
    second.kill()
    with site.client() as client:
        client.status()


def test_what_is_remembered_outlives_a_kill(site: SiteProcess) -> None:
    """The CA, the nodes and the story are the same after a power cut."""
    node = PaperNode(site, "one")
    with site.client() as client:
        before = client.status()
    site.kill()
    site.start()
    with site.client() as client:
        after = client.status()
    assert (after.fingerprint, after.nodes) == (before.fingerprint, before.nodes)
    node.step()


def test_one_who_follows_gives_up_in_the_end(site: SiteProcess) -> None:
    """A site that was there is waited for, and not for ever; one that never was is not waited for at all."""
    PaperNode(site, "one")
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds
        site.kill()

    with SiteClient(SiteEndpoint(socket=site.directory / "site.sock"), sleep=sleep, clock=lambda: now[0]) as client:
        story = client.follow(0)
        assert next(story).what == "joined"
        site.kill()
        with pytest.raises(SiteUnavailable):
            next(story)
        assert now[0] > FOLLOW_PATIENCE
        began = now[0]
        with pytest.raises(SiteUnavailable):
            next(client.follow(0))
        assert now[0] == began
