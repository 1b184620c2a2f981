"""Fixtures of the site's tests; each stands in the module that it is about."""

from tests.deployer.conftest import community, warm  # noqa: F401 - fixtures
from tests.site.databases import (  # noqa: F401 - fixtures
    database,
    database_url,
    make_database,
    postgresql,
    sqlite_template,
    world,
)
from tests.site.keepers import place  # noqa: F401 - fixture
from tests.site.worlds import bare_site, make_member, make_site  # noqa: F401 - fixtures
