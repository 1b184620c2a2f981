"""The service on PostgreSQL: killed and started again, and two of them side by side that sell the same room once."""

import threading
import uuid
from collections.abc import Callable

import pytest

from deployer.errors import NoCapacity
from tests.support.node.community import Community
from tests.support.node.service_process import policy
from tests.support.site.databases import Postgresql
from tests.support.site.service_process import PaperNode, SiteProcess

Make = Callable[..., SiteProcess]


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_two_services_share_a_database(make_site: Make, community: Community, postgresql: Postgresql) -> None:
    """Ordered at either, heard by a node of the other, sold once, and all there after a kill."""
    name = postgresql.copy()
    text = policy(community.star.anchor(), machines=1000)
    sites = [make_site(community.service.url, text, database=postgresql.url(name)) for _ in range(2)]
    one, other = sites
    node = PaperNode(one, "paper", cores=5)
    key = str(uuid.uuid4())
    ordered = other.deploy(key=key)
    assert one.deploy(key=key).deployment == ordered.deployment
    assert [machine.uuid for machine in node.step().machines] == [machine.uuid for machine in ordered.machines]
    other.wait_state(ordered.machines[0].uuid, "running")

    answers = list[str]()

    def order(site: SiteProcess) -> None:
        try:
            site.deploy()
            answers.append("admitted")
        except NoCapacity:
            answers.append("refused")

    threads = [threading.Thread(target=order, args=(sites[number % 2],)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert sorted(answers) == ["admitted"] * 4 + ["refused"] * 6

    one.kill()
    one.start()
    with one.client() as client:
        assert len(list(client.machines())) == 5
    assert len(node.step().machines) == 5
    for site in sites:
        site.kill()
    postgresql.drop(name)
