"""Fixtures that the tests of operations share with those of nodes and sites."""

from tests.deployer.conftest import community, warm  # noqa: F401 - fixtures
from tests.site.databases import postgresql  # noqa: F401 - fixture
from tests.site.worlds import make_member, make_site  # noqa: F401 - fixtures
