"""A node loses its site, and its machine comes to run on another one: never on both, as the emulators show from outside."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytest

from deployer.site.client.client import SiteClient
from tests.support.node.community import Community
from tests.support.node.service_process import NodeProcess, policy, wait_for
from tests.support.site.network_link import Link
from tests.support.site.service_process import PATIENCE, SiteProcess

Make = Callable[..., SiteProcess]
Member = Callable[..., NodeProcess]

SOON = {"lost_after": "6s", "fence_after": "4s", "fence_margin": "6s"}


class Watch:
    """Looks from outside, all the time, in how many places one machine's processor is at work."""

    def __init__(self, nodes: list[NodeProcess]) -> None:
        self._nodes, self._ended = nodes, threading.Event()
        self.most = 0
        self._used: dict[int, int] = {}
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def end(self) -> int:
        """The most places at once."""
        self._ended.set()
        self._thread.join()
        return self.most

    def _look(self) -> None:
        while not self._ended.wait(0.3):
            self.most = max(self.most, sum(self._works(node) for node in self._nodes))

    def _works(self, node: NodeProcess) -> bool:
        """Whether a guest of it used its processor since the last look: a paused one's emulator is there and idle."""
        busy = False
        for pid in node.guests():
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            used = int(fields[11]) + int(fields[12])
            busy = busy or used - self._used.get(pid, used) > 1  # 10 ms of 300: its own main loop takes less
            self._used[pid] = used
        return busy


def _through(link: Link, node: NodeProcess) -> NodeProcess:
    """A node that reaches its site through a link from now on: its service looks after the files."""
    link.join(node.directory / "n" / "site")
    wait_for(lambda: link.used, PATIENCE)
    return node


@contextmanager
def _watching(nodes: list[NodeProcess]) -> Iterator[Watch]:
    watch = Watch(nodes)
    try:
        yield watch
    finally:
        watch.end()


@pytest.mark.guest
@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize(("cut", "then"), [("refuse", "pause"), ("silence", "end"), ("silence", "pause")])
def test_a_machine_whose_node_lost_its_site_runs_elsewhere_and_never_in_both_places(
    make_site: Make,
    make_member: Member,
    community: Community,
    cut: Literal["refuse", "silence"],
    then: str,
) -> None:
    site = make_site(
        community.service.url, policy(community.star.anchor()), lost_machines="replace", fence_then=then, **SOON
    )
    with Link(int(site.url.rpartition(":")[2])) as link:
        first = _through(link, make_member(site, "one"))
        site.wait(lambda client: any(one.lease == 4 for one in client.nodes()))
        machine = site.deploy(image="star/hello@1.0").machines[0].uuid
        site.wait_state(machine, "running")
        second = make_member(site, "two")
        site.wait(lambda client: sum(one.reported is not None for one in client.nodes()) == 2)
        home = site.machine(machine).node
        with _watching([first, second]) as watch:
            link.break_off(cut)

            def moved(client: SiteClient) -> bool:
                found = client.machine(machine)
                return found.node != home and found.state.value == "running"

            site.wait(moved, 3 * PATIENCE)
            assert first.guests() == [] if then == "end" else first.state(machine).value == "paused"
            link.mend()
            wait_for(lambda: not first.guests(), PATIENCE)  # what was replaced is ended
            site.wait(lambda client: all(one.state.value == "ready" for one in client.nodes()))
            time.sleep(1.0)
        assert watch.most == 1
        assert len(second.guests()) == 1
        with site.client() as client:
            whats = [one.what for one in client.events(0).items if one.kind == "node" and one.subject == home]
            assert "fenced" in whats
            assert whats[-1] == "ready"


@pytest.mark.guest
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_link_that_comes_back_in_time_costs_a_pause(
    make_site: Make, make_member: Member, community: Community
) -> None:
    site = make_site(
        community.service.url,
        policy(community.star.anchor()),
        lost_machines="replace",
        lost_after="1h",
        fence_after="3s",
    )
    with Link(int(site.url.rpartition(":")[2])) as link:
        node = _through(link, make_member(site, "one"))
        site.wait(lambda client: any(one.lease == 3 for one in client.nodes()))
        machine = site.deploy(image="star/hello@1.0").machines[0].uuid
        site.wait_state(machine, "running")
        (guest,) = node.guests()
        link.break_off("refuse")
        wait_for(lambda: node.state(machine).value == "paused", PATIENCE)
        node.kill()  # and the service dies over it: the next one goes on counting
        node.start()
        time.sleep(2)
        assert node.state(machine).value == "paused"
        link.mend()
        wait_for(lambda: node.state(machine).value == "running", PATIENCE)
        assert node.guests() == [guest]
