"""The whole way: a real site, a real node with real guests, and what happens to them when things are killed."""

import json
import random
import re
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from deployer.errors import DeployerError
from deployer.protocol.deployment_request import DeploymentRequest
from deployer.site.client.client import SiteClient
from tests.support.node.community import Community
from tests.support.node.service_process import NodeProcess, policy, wait_for
from tests.support.site.service_process import PATIENCE, SiteProcess

Make = Callable[..., SiteProcess]
Member = Callable[..., NodeProcess]


def _site(make_site: Make, community: Community, **site: object) -> SiteProcess:
    return make_site(community.service.url, policy(community.star.anchor()), **site)


def _there(site: SiteProcess, count: int = 1) -> None:
    """Until so many nodes have reported."""
    site.wait(lambda client: sum(one.reported is not None for one in client.nodes()) == count)


def _whats(client: SiteClient, machine: str) -> list[str]:
    return [one.what for one in client.events(0).items if one.subject == machine]


@pytest.mark.guest
@pytest.mark.timeout(240)
def test_machines_come_to_run_are_paused_and_end(make_site: Make, make_member: Member, community: Community) -> None:
    """Two machines are ordered, run as guests, are paused and resumed; node and site are killed; then all are ended."""
    site = _site(make_site, community)
    node = make_member(site, "worker")
    _there(site)
    key = str(uuid.uuid4())
    ordered = site.deploy(count=2, key=key)
    first, second = (one.uuid for one in ordered.machines)
    for one in (first, second):
        site.wait_state(one, "running")
    assert len(node.guests()) == 2
    assert site.deploy(count=2, key=key).deployment.uuid == ordered.deployment.uuid

    with site.client() as client:
        client.do(first, "pause", "a look at its disks")
    site.wait_state(first, "paused")
    node.kill()
    site.kill()
    assert len(node.guests()) == 2
    site.start()
    with site.client() as client:
        client.do(first, "resume")
        client.do(second, "destroy")
    node.start()
    site.wait_state(first, "running")
    site.wait_state(second, "ended")
    wait_for(lambda: len(node.guests()) == 1, PATIENCE)

    with site.client() as client:
        whats = _whats(client, first)
        assert [what for what in whats if what in {"pausing", "paused", "resuming"}] == [
            "pausing",
            "paused",
            "resuming",
        ]
        assert whats.count("running") >= 2
        assert "a look at its disks" in json.dumps([one.reason for one in client.events(0).items])
        client.destroy_deployment(ordered.deployment.uuid)
    site.wait_state(first, "ended")
    wait_for(lambda: not node.guests(), PATIENCE)


def _emulators(nodes: Sequence[NodeProcess]) -> Counter[str]:
    """The emulator processes of each machine on all nodes, seen from outside."""
    found = Counter[str]()
    for node in nodes:
        for pid in node.guests():
            with suppress(OSError):
                line = Path(f"/proc/{pid}/cmdline").read_bytes()
                if (name := re.search(rb"-uuid\0([0-9a-f-]{36})\0", line)) is not None:
                    found[name[1].decode()] += 1
    return found


class _Storm:
    """Orders and verbs while site and nodes are killed at any instant; what was answered, and what must be true at last."""

    def __init__(self, site: SiteProcess, nodes: Sequence[NodeProcess], rng: random.Random) -> None:
        self._site, self._nodes, self._rng = site, nodes, rng
        self.orders: dict[str, str] = {}
        self._asked: dict[str, DeploymentRequest] = {}

    def blow(self) -> None:
        """One thing is asked for, and one process is killed meanwhile and started again."""
        asking = threading.Thread(target=self._ask)
        asking.start()
        time.sleep(self._rng.uniform(0, 1.5))
        victim: SiteProcess | NodeProcess = self._rng.choice([self._site, *self._nodes])
        victim.kill()
        assert max(_emulators(self._nodes).values(), default=0) <= 1, "two of one machine"
        victim.start()
        asking.join()

    def _ask(self) -> None:
        with self._site.client() as client:
            try:
                live = [one for one in client.machines() if one.desired.value != "ended" and not one.state.final]
                if len(live) < 4:
                    key = f"key-{len(self._asked)}"
                    count = self._rng.choice([1, 2])
                    self._asked[key] = DeploymentRequest(image="star/hello@1.0", count=count, lifetime=3600 * 6)
                    self._order(client, key)
                else:
                    verb = self._rng.choice(["pause", "resume", "suspend", "reactivate", "shutdown", "destroy"])
                    client.do(self._rng.choice(live).uuid, verb)
            except DeployerError:
                pass  # it was killed over it, or the machine is in no state for that

    def _order(self, client: SiteClient, key: str) -> None:
        self.orders[key] = client.create(self._asked[key], key).deployment.uuid

    def calm(self) -> None:
        """Nothing is killed any more: all becomes as it should be, nothing is doubled and nothing forgotten."""
        with self._site.client() as client:
            for key in self._asked:
                before = self.orders.get(key)
                self._order(client, key)
                assert before in {None, self.orders[key]}, "an order had two answers"
            assert len(list(client.deployments())) == len(self._asked)
            assert sum(one.request.count for one in client.deployments()) == len(list(client.machines()))
        self._site.wait(self._settled, 240)
        self._look()
        for node in self._nodes:  # libvirt, opened again, knows the same
            node.kill()
            node.start()
        self._site.wait(self._settled, 240)
        self._look()

    def _settled(self, client: SiteClient) -> bool:
        return all(one.state.final or one.state.value == one.desired.value for one in client.machines())

    def _look(self) -> None:
        with self._site.client() as client:
            there = {one.uuid for one in client.machines() if one.state.value in {"running", "paused"}}
        assert _emulators(self._nodes) == Counter(dict.fromkeys(there, 1))


@pytest.mark.guest
@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("kills", [100])
def test_kills_of_site_and_nodes_double_and_forget_nothing(
    make_site: Make, make_member: Member, community: Community, kills: int
) -> None:
    """A hundred kills of a site and its two nodes at any instant, checked by the emulators that run."""
    site = _site(make_site, community, overcommit_cores=8.0)
    nodes = [make_member(site, name) for name in ("one", "two")]
    _there(site, 2)
    storm = _Storm(site, nodes, random.Random(4))
    for _ in range(kills):
        storm.blow()
    storm.calm()
