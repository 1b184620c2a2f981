"""Fixtures of the tests of image lists: one signed list in one grid."""

from tests.support.catalog.image_lists import world

__all__ = ["world"]
