"""Fixtures of journeys of images: a running catalog with VOs, and caches."""

from tests.support.catalog.running_catalog import service, star, vos
from tests.support.stager.caches import cache, clock, fast_root, image, root, served

__all__ = ["cache", "clock", "fast_root", "image", "root", "served", "service", "star", "vos"]
