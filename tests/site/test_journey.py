"""The whole way: a real site, a real node with real guests, and what happens to them when things are killed."""

import json
import uuid
from collections.abc import Callable

import pytest

from deployer.site.client import SiteClient
from deployer.site.records import SiteMachine
from tests.deployer.conftest import Community
from tests.deployer.nodes import NodeProcess, policy, wait_for
from tests.site.worlds import PATIENCE, SiteProcess

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


def test_a_policy_that_refuses_is_said_before_anything_is_kept(make_site: Make, community: Community) -> None:
    """An image of nobody's trust is refused with the decision, tried out as refused, and leaves nothing."""
    site = _site(make_site, community)
    with site.client() as client:
        found: list[SiteMachine] = list(client.machines())
        assert found == []
