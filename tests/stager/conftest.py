"""Fixtures of the stager's tests."""

from tests.support.stager.caches import cache, clock, fast_root, image, root, served

__all__ = ["cache", "clock", "fast_root", "image", "root", "served"]
