"""Fixtures of the console's tests: one site with people and a node of paper, and a browser without JavaScript."""

import ssl
from collections.abc import Iterator

import httpx2
import pytest

from tests.support.node.community import Community
from tests.support.node.service_process import policy
from tests.support.site.service_process import PaperNode, People, SiteProcess, populace


@pytest.fixture(scope="package")
def people(tmp_path_factory: pytest.TempPathFactory) -> Iterator[People]:
    """Somebody to look."""
    with populace(tmp_path_factory.mktemp("people")) as found:
        yield found


@pytest.fixture(scope="package")
def inhabited(community: Community, people: People) -> Iterator[tuple[SiteProcess, PaperNode]]:
    """A site with a policy and people, and its node, of paper, with capacity for 100 machines."""
    text = policy(community.star.anchor(), machines=1000)
    rates = {"failure_rate": 1000.0, "address_rate": 10_000.0, "person_rate": 1000.0}
    with SiteProcess(community.service.url, text, **rates, **people.settings()) as found:
        yield found, PaperNode(found, "paper", cores=100, memory=200 << 30)


@pytest.fixture(scope="package")
def site(inhabited: tuple[SiteProcess, PaperNode]) -> SiteProcess:
    """The site; its node is there too."""
    return inhabited[0]


@pytest.fixture(scope="package")
def node(inhabited: tuple[SiteProcess, PaperNode]) -> PaperNode:
    """Its node."""
    return inhabited[1]


@pytest.fixture(scope="package")
def context(site: SiteProcess) -> ssl.SSLContext:
    """By which clients believe the site."""
    return ssl.create_default_context(cadata=site.ca)


@pytest.fixture
def browser(site: SiteProcess, context: ssl.SSLContext) -> Iterator[httpx2.Client]:
    """A browser without JavaScript, and nobody in particular yet."""
    with httpx2.Client(base_url=site.url, verify=context, trust_env=False, timeout=60) as found:
        yield found
