"""Fixtures of the site's tests: a store with an empty database, and a site with one node for clusters."""

from tests.support.site.cluster_site import place
from tests.support.site.databases import world

__all__ = ["place", "world"]
