"""Fixtures of journeys of clusters: a site with one node on a real database."""

from tests.support.site.cluster_site import place
from tests.support.site.databases import world

__all__ = ["place", "world"]
