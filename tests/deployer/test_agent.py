"""A site's agent on a real node, with real guests: what is wanted comes to be, whatever dies in between."""

from collections.abc import Callable, Iterator

import pytest

from deployer.machine import State
from deployer.site.desired import Want
from tests.deployer.conftest import Community
from tests.deployer.guests import GOODBYE, SAID
from tests.deployer.nodes import NodeProcess, wait_for
from tests.deployer.sites import SiteDouble

pytestmark = pytest.mark.guest
MIB = 1 << 20


@pytest.fixture
def site(community: Community) -> Iterator[SiteDouble]:
    """A site whose machines are of star/hello@1.0."""
    with SiteDouble() as site:
        yield site


@pytest.fixture
def member(make_node: Callable[..., NodeProcess], site: SiteDouble) -> NodeProcess:
    """A node that belongs to the site; it joins while it runs."""
    node = make_node(grace="4s", cores=4, memory=1 << 30)
    site.take_in(node.directory / "n")
    return node


def test_machines_come_to_be_and_follow_what_is_wanted(
    member: NodeProcess, site: SiteDouble, community: Community
) -> None:
    image = community.hello.manifest.image_id
    first = site.want(image_id=image, hostname="head", granted_cores=2)
    second = site.want(image_id=image)
    assert site.until(first, State.RUNNING).virt == "qemu"
    site.until(second, State.RUNNING)
    wait_for(lambda: site.reports[-1].cached)  # looked at every few seconds
    report = site.reports[-1]
    assert (report.architecture, report.accelerator, report.problem) == ("x86_64", "qemu", "")
    assert (report.capacity.cores, report.capacity.memory, report.capacity.taken_cores) == (4, 1 << 30, 0)
    records = {record.uuid: record for record in member.records()}
    assert set(records) == {first, second}
    assert records[first].hostname == "head"
    member.said(first, SAID[-1])

    site.want(first, want=Want.PAUSED)
    site.until(first, State.PAUSED)
    site.want(first, want=Want.RUNNING, cores=2)
    site.until(first, State.RUNNING)
    wait_for(lambda: (seen := site.seen(first)) and seen.cores == 2)

    site.want(first, want=Want.SUSPENDED)
    site.until(first, State.SUSPENDED)
    assert len(member.guests()) == 1
    site.want(first, want=Want.RUNNING)
    site.until(first, State.RUNNING)

    site.want(first, want=Want.STOPPED)
    site.until(first, State.STOPPED)
    assert GOODBYE in member.console(first)
    site.want(first, want=Want.RUNNING, reboots=1)
    wait_for(lambda: (seen := site.seen(first)) and seen.reboots == 1 and seen.state is State.RUNNING, 60)

    site.want(first, want=Want.ENDED, reason="enough of it")
    assert site.until(first, State.ENDED).reason == "enough of it"
    site.forget(first)
    site.until_gone(first)
    assert [record.uuid for record in member.records()] == [second]
