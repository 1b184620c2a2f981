"""Fixtures of the API's tests: one site with people and a node of paper, left without machines by each test."""

from collections.abc import Iterator

import pytest

from tests.support.node.community import Community
from tests.support.node.service_process import policy
from tests.support.site.service_process import PaperNode, People, SiteProcess, populace


@pytest.fixture(scope="package")
def people(tmp_path_factory: pytest.TempPathFactory) -> Iterator[People]:
    """Somebody to ask."""
    with populace(tmp_path_factory.mktemp("people")) as found:
        yield found


@pytest.fixture(scope="package")
def site(community: Community, people: People) -> Iterator[SiteProcess]:
    """A site with a policy, people, and a broker; tests leave no machines."""
    text = policy(community.star.anchor(), machines=1000)
    with SiteProcess(
        community.service.url, text, broker_listen="127.0.0.1:0", broker_url="", **people.settings()
    ) as found:
        yield found


@pytest.fixture(scope="package")
def node(site: SiteProcess) -> PaperNode:
    """A node of that site, with capacity for 100 machines."""
    return PaperNode(site, "paper", cores=100, memory=200 << 30)


@pytest.fixture
def alone(site: SiteProcess, node: PaperNode) -> Iterator[None]:
    """No machine of another test is there."""
    yield
    node.step()
    with site.client() as client:
        for one in client.deployments():
            client.destroy_deployment(one.uuid)
    node.step()
