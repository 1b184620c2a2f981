"""Fixtures of whole-system tests: people with keys, a catalog with images, nodes that boot them, sites and databases."""

from tests.support.node.community import community, make_node, node, quiet, warm
from tests.support.openpgp_people import people
from tests.support.site.databases import database, database_url, make_database, postgresql, sqlite_template
from tests.support.site.service_process import bare_site, make_member, make_site

__all__ = [
    "bare_site",
    "community",
    "database",
    "database_url",
    "make_database",
    "make_member",
    "make_node",
    "make_site",
    "node",
    "people",
    "postgresql",
    "quiet",
    "sqlite_template",
    "warm",
]
