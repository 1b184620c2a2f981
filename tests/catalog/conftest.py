"""Fixtures of the catalog's tests."""

from tests.support.catalog.published_images import published
from tests.support.catalog.running_catalog import service, star, vos

__all__ = ["published", "service", "star", "vos"]
